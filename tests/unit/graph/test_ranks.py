"""The processes of an execution, from the histories of its registers."""

from typing import Any

from cmf.graph import views
from cmf.graph.ranks import ranks

SCOPE = "lab/train"


def write(key: str, value: Any, t: int = 1, **more: Any) -> views.Write:
    return views.Write(**{"scope": SCOPE, "key": key, "value": value, "t": t, "record": f"{t:02d}", **more})


def test_each_process_of_each_attempt_says_how_it_ended_and_where_it_ran() -> None:
    found = ranks(
        SCOPE,
        [
            write("status/2-bbbbbbbb/0", {"status": "running"}, 9),
            write("status/1-aaaaaaaa/1", {"status": "failed", "exit": 3, "ended": 7}, 8),
            write("status/1-aaaaaaaa/1", {"status": "running"}, 2),
            write("status/1-aaaaaaaa/0", {"status": "killed", "signal": 9, "exit": 137}, 5),
            write("process/1-aaaaaaaa/0", {"host": "node7", "site": {"name": "hpc"}}, 3),
            write("param/lr", 1),
        ],
    )
    assert [(one.attempt, one.rank, one.status, one.exit, one.signal) for one in found] == [
        ("1-aaaaaaaa", 0, "killed", 137, 9),
        ("1-aaaaaaaa", 1, "failed", 3, None),
        ("2-bbbbbbbb", 0, "running", None, None),
    ]
    assert (found[0].host, found[0].site, found[1].ended) == ("node7", "hpc", 7)


def test_what_other_scopes_say_what_is_retracted_and_odd_values_do_not_count() -> None:
    found = ranks(
        SCOPE,
        [
            write("status/1-aaaaaaaa/0", {"status": "failed"}, 9, scope="other/team"),
            write("status/1-aaaaaaaa/0", {"status": "failed"}, 8, retracted=True),
            write("status/1-aaaaaaaa/0", {"status": "finished", "exit": True}, 5),
            write("status/1-aaaaaaaa/0", {"status": "lost"}, 7),
            write("process/1-aaaaaaaa/0", {"host": 3, "site": "x"}),
            write("status/nonsense", {"status": "failed"}),
            write("process/1-aaaaaaaa/1", "text"),
        ],
    )
    assert found == [views.Rank(attempt="1-aaaaaaaa", rank=0, status="finished")]
