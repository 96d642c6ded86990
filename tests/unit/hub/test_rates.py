"""How much anybody may ask of a hub, and what a client does that asked too much."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from cmf.hub.rates import BURST_SECONDS, STRANGERS_RATE, WHOM_MAX, Rate, Rates, TooManyError
from cmf.remote.body import Body
from tests.hubs import HubProcess, running


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_so_many_a_second_and_others_are_not_held_back() -> None:
    clock = Clock()
    rate = Rate(2, clock=clock)
    for _ in range(2 * BURST_SECONDS):
        rate.take("site")
    with pytest.raises(TooManyError) as refused:
        rate.take("site")
    assert refused.value.retry_s == 1
    rate.take("other")
    clock.now += 1
    rate.take("site")
    rate.take("site")
    with pytest.raises(TooManyError):
        rate.take("site")


def test_who_is_refused_and_waits_as_told_is_let_in_however_often_they_asked() -> None:
    clock = Clock()
    rate = Rate(0.25, clock=clock)
    told = 0
    for _ in range(100):
        try:
            rate.take("site")
        except TooManyError as error:
            told = error.retry_s
    assert told == 2  # half a request was left
    clock.now += told
    rate.take("site")


def test_no_rate_refuses_nothing_and_remembers_nobody() -> None:
    rate = Rate(0)
    for _ in range(10_000):
        rate.take("site")
    assert len(rate) == 0


def test_addresses_without_end_take_bounded_memory_and_one_network_counts_as_one() -> None:
    rates = Rates(1)
    for number in range(WHOM_MAX + 500):
        rates.stranger(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(rates.strangers) == WHOM_MAX
    for number in range(int(STRANGERS_RATE) * BURST_SECONDS):
        rates.stranger(f"2001:db8::{number:x}")
    with pytest.raises(TooManyError):
        rates.stranger("2001:db8::ffff")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "hub", folder / "state", options=("--rate", "1")) as process:
        yield process


def test_a_client_that_is_told_to_wait_does_and_says_so(
    hub: HubProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = hub.client(tmp_path)
    data = b"again"
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    began = time.monotonic()
    for _ in range(BURST_SECONDS + 1):
        client.hub()
    with (tmp_path / "file").open("wb") as file:
        file.write(data)
    objects = client.objects("a/b")
    with (tmp_path / "file").open("rb") as body:  # sent again from its start
        path = f"/v1/objects/{digest}?scope=a/b"
        with client.request("PUT", path, Body(body), headers={"content-type": "application/octet-stream"}) as answer:
            assert answer.status == 200
    with objects.open(digest) as found:
        assert found.read() == data
    assert time.monotonic() - began >= 1
    assert "is asked too much; going on in 1 s" in caplog.text


def test_who_guesses_tokens_is_held_back_and_who_has_one_is_not(hub: HubProcess, tmp_path: Path) -> None:
    pool = urllib3.PoolManager(retries=False)
    answer = pool.request("POST", hub.url + "/v1/have", headers={"authorization": "Bearer guess"}, body=b"{}")
    assert answer.status == 401
    while answer.status == 401:
        answer = pool.request("POST", hub.url + "/v1/have", headers={"authorization": "Bearer guess"}, body=b"{}")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["kind"] == "rate"
    body = b'{"invite":"guess","key":"' + b"00" * 32 + b'","name":"x","signature":"' + b"00" * 64 + b'"}'
    seen = set()
    while 429 not in seen:
        seen.add(pool.request("POST", hub.url + "/v1/enrol", body=body).status)
    assert seen <= {403, 429}
    assert hub.client(tmp_path).hub().principal == "local"
    pool.clear()
