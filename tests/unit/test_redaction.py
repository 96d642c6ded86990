"""What is taken out of a text, and what never is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmf.redaction import MASK, Redactor, known_secrets
from tests import secrets

redactor = Redactor()


@pytest.mark.parametrize(("text", "secret"), list(secrets.TEXTS.items()))
def test_a_secret_is_taken_out_of_a_text_and_the_mask_stands_for_it(text: str, secret: str) -> None:
    for around in (text, f"before\n{text}\nafter", f"raised: ({text})"):
        found = redactor.text(around)
        assert secret not in found
        assert MASK in found


@pytest.mark.parametrize(("words", "secret"), secrets.COMMANDS)
def test_a_secret_is_taken_out_of_a_command_line(words: list[str], secret: str) -> None:
    found = redactor.words(words)
    assert len(found) == len(words)
    assert secret not in "\n".join(found)


@pytest.mark.parametrize("text", secrets.INNOCENT_TEXTS)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redactor.text(text) == text
    words = text.split()
    assert redactor.words(words) == words


def test_parameters_without_secrets_stay_as_they_are() -> None:
    assert redactor.value(secrets.INNOCENT_PARAMS) == secrets.INNOCENT_PARAMS


@pytest.mark.parametrize(
    "name", ["password", "hub_token", "apiKey", "AWS_SECRET_ACCESS_KEY", "db.password", "client-secret"]
)
def test_a_value_under_a_secrets_name_is_masked_however_deep(name: str) -> None:
    assert redactor.value({"a": [{name: "plain"}]}) == {"a": [{name: MASK}]}
    assert redactor.value({name: ["plain", "words"]}) == {name: [MASK, MASK]}


def test_a_number_under_a_passwords_name_is_masked_and_one_under_a_tokens_is_not() -> None:
    assert redactor.value({"password": 1234, "token": 7}) == {"password": MASK, "token": 7}


def test_what_names_another_place_for_the_secret_is_kept() -> None:
    assert redactor.value({"password": "${oc.env:DB_PASSWORD}"}) == {"password": "${oc.env:DB_PASSWORD}"}


def test_a_known_value_is_masked_wherever_it_stands() -> None:
    known = known_secrets({"DB_PASSWORD": "zebra-42-zebra", "MODE_TOKEN": "disabled", "PATH": "/a/long/path"})
    assert known == ("zebra-42-zebra",), "a mere word would be masked by chance"
    assert Redactor(known).text("cannot log in as zebra-42-zebra.") == f"cannot log in as {MASK}."


def test_a_long_text_keeps_its_lines() -> None:
    lines = [f"+x{number} = {number}" for number in range(2000)]
    lines[1000:1000] = ['+password = "open sesame"', *(f"+{line}" for line in secrets.PEM.split("\n"))]
    found = redactor.text("\n".join(lines)).split("\n")
    assert len(found) == len(lines)
    assert [line[:1] for line in found[1001:1004]] == ["+", "+", "+"]
    assert "sesame" not in "\n".join(found)
    assert found[:1000] == lines[:1000]


@given(st.text())
def test_any_text_can_be_redacted_and_again_without_a_change(text: str) -> None:
    once = redactor.text(text)
    assert redactor.text(once) == once


@given(
    st.floats(allow_nan=False)
    | st.integers()
    | st.uuids().map(str)
    | st.binary(min_size=20, max_size=32).map(bytes.hex)
)
def test_numbers_uuids_and_digests_are_never_taken_for_secrets(value: object) -> None:
    assert redactor.text(f"x={value}") == f"x={value}"
    assert redactor.value({"x": value}) == {"x": value}
