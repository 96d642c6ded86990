from typing import Any

import pytest

from cmf.graph import registers
from cmf.graph.registers import Write


def state(name: str, **more: Any) -> dict[str, Any]:
    return {"status": name, **more}


@pytest.mark.parametrize(
    ("writes", "counts"),
    [
        ([], None),
        ([(1, b"b", "x"), (2, b"a", "y")], "y"),
        ([(1, b"b", "x"), (1, b"a", "y")], "x"),
        ([(2, b"a", None), (1, b"b", "x")], None),
    ],
)
def test_the_last_write_counts_by_time_then_record_id(writes: list[Any], counts: Any) -> None:
    for order in (writes, writes[::-1]):
        found = registers.current("title", [Write(*write) for write in order])
        assert (found.value if found else None) == counts


@pytest.mark.parametrize(
    ("states", "counts"),
    [
        (["running", "lost"], "lost"),
        (["finished", "lost"], "finished"),
        (["lost", "finished"], "finished"),
        (["lost", "running"], "running"),
        (["failed", "killed", "lost", "lost"], "killed"),
        (["finished", "running", "lost"], "finished"),
        (["finished", "running"], "running"),
    ],
)
def test_lost_gives_way_to_what_a_run_said_of_its_end(states: list[str], counts: str) -> None:
    writes = [Write(t, b"r", state(name)) for t, name in enumerate(states)]
    found = registers.current("status/1-a/0", writes)
    assert found is not None
    assert found.value["status"] == counts
    other = registers.current("process/1-a/0", writes)
    assert other is not None
    assert other.value["status"] == states[-1]


@pytest.mark.parametrize(
    ("ranks", "counts"),
    [
        ({0: "finished", 1: "failed", 2: "killed", 3: "lost"}, "failed"),
        ({0: "finished", 1: "killed", 2: "lost"}, "killed"),
        ({0: "lost", 1: "running"}, "lost"),
        ({0: "finished", 1: "running"}, "running"),
        ({0: "finished", 1: "finished"}, "finished"),
    ],
)
def test_the_ranks_of_an_attempt_make_one_status(ranks: dict[int, str], counts: str) -> None:
    said = {f"status/1-a/{rank}": state(name, ended=100 + rank, exit=rank) for rank, name in ranks.items()}
    status = registers.status(said)
    assert status.state == counts
    assert status.exit == min(rank for rank, name in ranks.items() if name == counts)
    assert status.ended == (None if counts == "running" else 100 + max(ranks))


def test_the_newest_attempt_is_the_greatest_number_then_text() -> None:
    said = {f"status/{attempt}/0": state("failed", exit=1) for attempt in ("2-ffffffff", "9-00000000", "10-00000000")}
    said["status/10-00000001/0"] = state("running")
    said["process/11-00000000/0"] = {}
    assert registers.status(said)[:4] == ("running", None, None, "10-00000001")
    assert registers.status({}) == registers.NO_STATUS


@pytest.mark.parametrize("rank", ["²", "٣", "00", "01", "-1", "+1", "", " 1", "1e2", "9999999999"])
def test_a_rank_has_one_spelling_and_no_other_is_read(rank: str) -> None:
    assert registers.split(f"status/1-a/{rank}") is None
    assert registers.attempt_order(f"{rank}-a")[0] == 0
    assert (
        registers.status({f"status/1-a/{rank}": state("failed"), "status/1-a/1": state("running")}).state == "running"
    )


def test_the_first_rank_by_number_speaks_for_the_process() -> None:
    said = {f"process/1-a/{rank}": {"user": f"u{rank}", "site": {"name": f"s{rank}"}} for rank in (10, 2, 30)}
    process = registers.process(said, "1-a")
    assert (registers.user(process), registers.site(process)) == ("u2", "s2")
    for odd in ({}, {"process/1-a/0": 3}, {"process/1-a/0": {"user": 3, "site": "x"}}):
        process = registers.process(odd, "1-a")
        assert (registers.user(process), registers.site(process)) == ("", "")
