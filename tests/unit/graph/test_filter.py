import datetime as dt

import pytest

from cmf.errors import UsageError
from cmf.graph.filter import CONDITIONS_MAX, PAGE_MAX, Condition, parse

GOOD = {
    "": [],
    "   ": [],
    "metrics.f1 > 0.9": [Condition("metrics.f1", ">", 0.9)],
    "metrics.f1>0.9": [Condition("metrics.f1", ">", 0.9)],
    "params.lr<=1e-3 and stage == 'train'": [Condition("params.lr", "<=", 0.001), Condition("stage", "=", "train")],
    'name = "two words"': [Condition("name", "=", "two words")],
    r'name != "a \"quoted\" and word"': [Condition("name", "!=", 'a "quoted" and word')],
    "name = 'and'": [Condition("name", "=", "and")],
    "params.flag = true and params.other = false": [
        Condition("params.flag", "=", True),
        Condition("params.other", "=", False),
    ],
    "params.flag = 'true'": [Condition("params.flag", "=", "true")],
    "name = true": [Condition("name", "=", "true")],
    "name = 42": [Condition("name", "=", "42")],
    "params.x = 42": [Condition("params.x", "=", 42.0)],
    "params.x = '42'": [Condition("params.x", "=", "42")],
    "metrics.a.b >= -inf": [Condition("metrics.a.b", ">=", float("-inf"))],
    "params.optimizer = adam": [Condition("params.optimizer", "=", "adam")],
    "duration < 60": [Condition("duration", "<", 60.0)],
    "scope = penguins/train": [Condition("scope", "=", "penguins/train")],
}

BAD = {
    "metrics.f1": "not a comparison",
    "metrics.f1 >": "not a comparison",
    "> 0.9": "not a comparison",
    "= = =": "not a comparison",
    "metrics.f1 > 0.9 or stage = train": "expected 'and'",
    "metrics.f1 > 0.9 stage = train": "expected 'and'",
    "metrics.f1 > 0.9 and": "missing at the end",
    "and metrics.f1 > 0.9": "not a comparison",
    "colour = red": "'colour' is not a field",
    "params. = 1": "'params.' is not a field",
    "metrics > 1": "'metrics' is not a field",
    "'name' = x": "not a comparison",
    "duration > long": "compares with a number",
    "duration > 'long'": "compares with a number",
    "started > yesterday": "or a date",
    'name = "open': "cannot be read",
    "name ! x": "cannot be read",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_filter_becomes_its_comparisons(text: str) -> None:
    assert list(parse(text).conditions) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_a_wrong_filter_is_refused_with_the_reason_and_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert BAD[text] in caught.value.message
    assert "metrics.f1 > 0.9" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["1970-01-01", "2024-02-29", "2026-11-23T10:05", "2026-11-23 10:05:59", "2000-03-01T00:00Z", "1969-12-31"]
)
def test_dates_are_counted_as_the_calendar_does(text: str) -> None:
    [condition] = parse(f"started >= '{text}'").conditions
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    assert condition.value == moment.timestamp() * 1e6


@pytest.mark.parametrize("text", ["2026-13-01", "2026-02-30", "2026-11-23T24:00", "2026-11-23T10:60"])
def test_a_date_that_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="date"):
        parse(f"started > {text}")


def test_pages_and_filters_are_bounded() -> None:
    assert parse("", limit=PAGE_MAX, scopes=("p/*",), cursor="1.a.p/a").limit == PAGE_MAX
    for limit in (0, PAGE_MAX + 1, -1):
        with pytest.raises(UsageError):
            parse("", limit=limit)
    with pytest.raises(UsageError, match="more than"):
        parse(" and ".join(["params.x = 1"] * (CONDITIONS_MAX + 1)))
