"""What ran: code, environment, machine and user of the process that a run is recorded in.

Knows when that is looked at: beside the run, and once more at its end. Refuses to know what else a run records.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from cmf import config, ending
from cmf.model import encoding
from cmf.model import records as model
from cmf.recorder import Recorder

COMMAND_CHARS_MAX = 8192


class Description:
    """One process of an execution, described as the property ``key`` of the execution's ``node``."""

    def __init__(self, recorder: Recorder, scope: str, node: str, key: str) -> None:
        self._recorder = recorder
        self._scope = scope
        self._node = node
        self._key = key
        self._known: dict[str, Any] = {}
        self._command: list[str] = []
        self._cwd: str | dict[str, str] = ""

    def start(self, command: Sequence[object]) -> None:
        """Have it recorded: now if this process was looked at before, else in the background."""
        self._command = words(command)
        self._cwd = _here(self._recorder)
        if self._recorder.surroundings.known:
            self.record()
        else:
            ending.start_thread(self.record, name="cmf-describe")

    def record(self) -> None:
        """Record what is known, or, if that is recorded, the repositories that were loaded since. Never raises."""
        recorder = self._recorder
        with recorder.describing:
            try:
                if before := self._known:
                    code = recorder.surroundings.with_later(before.get("code", {}))
                    if code == before.get("code", {}):
                        return
                    self._known = {**before, "code": code}
                else:
                    self._known = self._look()
                found = model.Property(subject=self._node, key=self._key, value=self._known, t=recorder.now())
                recorder.write(self._scope, found)
            except Exception as error:  # noqa: BLE001  # recording must not break the program: the disk, git, odd text
                recorder.drop(f"code and environment: {encoding.said(error)}")

    def _look(self) -> dict[str, Any]:
        recorder = self._recorder
        return {
            "site": {"name": recorder.config.site or config.slugged(recorder.process.host)},
            "host": recorder.process.host,
            "pid": recorder.process.pid,
            "user": recorder.environment.user,
            "command": self._command,
            "cwd": self._cwd,
            "python": sys.version.split()[0],
            **recorder.surroundings.look(),
        }


def words(command: Sequence[object]) -> list[str]:
    """Return a command's words as far as one record holds them."""
    kept: list[str] = []
    room = COMMAND_CHARS_MAX
    for number, word in enumerate(command):
        text = str(encoding.to_value(str(word)))
        if len(text) > room:
            return [*kept, f"… {len(command) - number} more"]
        room -= len(text) + 4
        kept.append(text)
    return kept


def _here(recorder: Recorder) -> str | dict[str, str]:
    try:
        return recorder.files.record_path(os.getcwd())
    except OSError:  # the folder was removed
        return ""
