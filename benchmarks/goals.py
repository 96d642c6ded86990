"""What is measured, in what unit, and what CMF set itself as its goal."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    """One line of the results. ``rate``: more is better."""

    key: str
    id: str
    workload: str
    unit: str
    goal: float
    rate: bool = False


GOALS = (
    Goal("install_size", "W0", "core install, with its bytecode", "MB", 30),
    Goal("install_count", "W0", "core install, distributions", "", 15),
    Goal("import_time", "W1", "`import cmf`, above the bare interpreter", "s", 0.06),
    Goal("import_memory", "W1", "`import cmf`, memory above the bare interpreter", "MiB", 35),
    Goal("recorder_time", "W1", "`import cmf; cmf.run`: the recorder loaded too", "s", 0.06),
    Goal("recorder_memory", "W1", "`import cmf; cmf.run`, memory", "MiB", 35),
    Goal("version", "W1", "`cmf --version`", "s", 0.12),
    Goal("execution", "W2", "one execution, durable at its end: the median", "ms", 2),
    Goal("execution_mean", "W2", "the mean of 200, with all that the first one loads", "ms", 2),
    Goal("points", "W3", "300,000 points of step metrics, until durable", "points/s", 1_500_000, rate=True),
    Goal("read_values", "W3", "read one series of 100,000 back: step and value", "ms", 12),
    Goal("read_times", "W3", "read it back with times", "ms", 30),
    Goal("data_large", "W4", "version 1 GiB, durable: times as long as `cp` and fsync", "×", 1.25),
    Goal("data_large_again", "W4", "version it again, unchanged", "ms", 5),
    Goal("data_many", "W4", "version 10,000 files of 10 KiB, durable", "s", 0.6),
    Goal("data_many_again", "W4", "version them again, unchanged", "s", 0.1),
    Goal("push_first", "W5", "push 1,000 executions, first time", "s", 1),
    Goal("push_one", "W5", "push one more", "ms", 20),
    Goal("push_one_bytes", "W5", "push one more, bytes both ways", "kB", 6),
    Goal("push_nothing", "W5", "push, nothing new", "ms", 30),
    Goal("push_nothing_bytes", "W5", "push, nothing new, bytes both ways", "kB", 4),
    Goal("pull_all", "W6", "pull all 1,001 into an empty store", "s", 1),
    Goal("pull_one", "W6", "pull one of them into an empty store", "ms", 50),
    Goal("chain_walk", "W7", "ancestors in a chain of 300: the walk", "ms", 5),
    Goal("chain_views", "W7", "the same, everything met as views", "ms", 5),
    Goal("layered_walk", "W7", "ancestors in 50 layers of 100, each of three: the walk", "ms", 15),
    Goal("layered_views", "W7", "the same, everything met as views", "ms", 15),
    Goal("recorded", "W11", "64 processes x 10,000 records at once: recorded", "records/s", 300_000, rate=True),
    Goal("committed", "W11", "the same, committed as truth by one collector", "records/s", 120_000, rate=True),
    Goal("folded", "W11", "the same, folded", "records/s", 40_000, rate=True),
)

UNGOALED = {
    "data_large_copy": "s for `cp` and fsync of 1 GiB (W4)",
    "data_many_copy": "s for `cp -r` and sync of 10,000 files of 10 KiB (W4)",
    "data_small": "s to version 200,000 files of 1 KiB (W4)",
    "data_small_again": "s to version them again, unchanged (W4)",
    "data_small_copy": "s for `cp -r` and sync of them (W4)",
    "data_small_memory": "MiB of memory that versioning them takes (W4)",
    "push_first_bytes": "kB on the wire of the first push (W5)",
    "pull_all_bytes": "kB on the wire of a first pull (W6)",
}
"""Measured beside the goals, for who wants to compare."""

WHY = {
    "push_first": "most of it is not sending: the journals of 1,000 executions are folded here before they are sealed, "
    "and each record is decoded, checked and folded once more at the hub, in one process and one thread.",
    "chain_views": "the walk is what the goal means; with views, each execution comes with all its events, parameters "
    "and metrics, decoded one by one in Python.",
    "layered_walk": "an input without a recorded origin is joined by content, and each of the 12,000 steps of this "
    "graph is judged in Python (sole producer, pipeline, size) after the database has found it.",
    "layered_views": "3,650 executions with 25,000 events are decoded into views, of which a page shows a few.",
}
"""Why a goal may be missed, said beneath the table where it is."""
