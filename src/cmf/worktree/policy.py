"""What happens to the bytes of a file that is recorded: copied, linked, or left where they are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmf.config import COPY, Policy, Rule

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


class Policies:
    """The rules of a store. The first that fits a file decides; without one it is copied."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules

    def of(self, path: str, size: int) -> Policy:
        """Return the policy for a file by its path as records hold it, and its size in bytes."""
        for rule in self._rules:
            if size >= rule.bytes_min and (not rule.path or _spec(rule.path).match_file(path)):
                return rule.policy
        return COPY


@functools.cache
def _spec(pattern: str) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines([pattern])
