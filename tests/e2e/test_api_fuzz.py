"""Requests that nobody would send, made from the API's own description: none of them makes the hub fail."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.hubs import HubProcess

EXAMPLES = 8


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_made_from_the_description_or_against_it_makes_the_hub_fail(
    hub: HubProcess, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_path(Path(__file__).parents[1] / "golden/openapi.json")
    headers = {"authorization": f"Bearer {hub.token}"}
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]  # the description is ours, and valid

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def is_answered(case: schemathesis.Case[Any]) -> None:
            nonlocal asked
            asked += 1
            answer = case.call(base_url=hub.url, headers=headers, timeout=30)
            assert answer.status_code < 500, f"{case.method} {case.formatted_path}: {answer.status_code}"

        is_answered()
    assert asked > 50
    assert hub.process.poll() is None
