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


_MOVES = {"push": "push one more", "nothing": "pull and push, nothing new", "pull": "pull one into an empty store"}


def _of_a_hub(key: str, said: str) -> tuple[Goal, ...]:
    """Return the goals that hold for a hub on each kind of database."""
    return (
        Goal(f"push_first{key}", "W5", f"{said}push 1,000 executions, first time", "s", 1),
        Goal(f"push_one{key}", "W5", f"{said}push one more", "ms", 20),
        Goal(f"push_one_bytes{key}", "W5", f"{said}push one more, bytes both ways", "kB", 6),
        Goal(f"push_nothing{key}", "W5", f"{said}push, nothing new", "ms", 30),
        Goal(f"push_nothing_bytes{key}", "W5", f"{said}push, nothing new, bytes both ways", "kB", 4),
        *(
            Goal(f"difference_{move}_{size}{key}", "W5", f"{said}{what}, with {held} records there: to 10^4", "×", 1.2)
            for move, what in _MOVES.items()
            for size, held in (("middle", "10^5"), ("large", "10^6"))
        ),
        Goal(f"pull_all{key}", "W6", f"{said}pull all 1,001 into an empty store", "s", 1),
        Goal(f"pull_one{key}", "W6", f"{said}pull one of them into an empty store", "ms", 50),
        Goal(f"page_small{key}", "W8", f"{said}a page of 100 of 1,000 executions", "ms", 10),
        Goal(f"page_middle{key}", "W8", f"{said}a page of 100 of 10,000 executions", "ms", 10),
        Goal(f"page_large{key}", "W8", f"{said}a page of 100 of 1,000,000 executions", "ms", 15),
        Goal(f"page_selective_large{key}", "W8", f"{said}a page of those that a selective filter lets by", "ms", 50),
        Goal(f"page_broad_large{key}", "W8", f"{said}a page that a broad filter fills", "ms", 50),
        Goal(f"page_none_large{key}", "W8", f"{said}what two broad conditions let by that none satisfies", "ms", 250),
        Goal(f"start_empty{key}", "W8", f"{said}start of an empty one", "s", 0.6),
        Goal(f"start_full{key}", "W8", f"{said}start with 1,000,000 executions", "s", 0.6),
        Goal(f"memory_empty{key}", "W8", f"{said}memory of an empty one", "MiB", 80),
        Goal(f"memory_full{key}", "W8", f"{said}memory with 1,000,000 executions, after these pages", "MiB", 200),
        Goal(
            f"million_pushed{key}", "W10", f"{said}10^6 records sealed and pushed, until all are acknowledged", "s", 30
        ),
        Goal(f"million_folded{key}", "W10", f"{said}the same folded from nothing at the hub", "s", 25),
    )


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
    Goal("loop_slow", "W3", "10^6 steps of 1 ms with `run.log` of 3 names, to as many without: wall time", "×", 1.03),
    Goal("loop_slow_processor", "W3", "the same: processor time of all threads", "×", 1.03),
    Goal("data_large", "W4", "version 1 GiB, durable: times as long as `cp` and fsync", "×", 1.25),
    Goal("data_large_again", "W4", "version it again, unchanged", "ms", 5),
    Goal("data_many", "W4", "version 10,000 files of 10 KiB, durable", "s", 0.6),
    Goal("data_many_again", "W4", "version them again, unchanged", "s", 0.1),
    *_of_a_hub("", ""),
    *_of_a_hub("_postgres", "hub on PostgreSQL: "),
    Goal("chain_walk", "W7", "ancestors in a chain of 300: the walk", "ms", 5),
    Goal("chain_views", "W7", "the same, everything met as views", "ms", 5),
    Goal("layered_walk", "W7", "ancestors in 50 layers of 100, each of three: the walk", "ms", 15),
    Goal("layered_views", "W7", "the same, everything met as views", "ms", 15),
    Goal("many_to_folder", "W9", "push 10,000 files of 10 KiB to a folder", "s", 1.5),
    Goal("many_to_bucket", "W9", "push them to S3: times as long as their bytes put raw, in packs", "×", 1.3),
    Goal("many_from_folder", "W9", "pull them from the folder", "s", 1.5),
    Goal("large_to_folder", "W9", "push 1 GiB to a folder", "s", 1.2),
    Goal("large_to_bucket", "W9", "push it to S3: times as long as its bytes put raw", "×", 1.2),
    Goal("large_from_folder", "W9", "pull it from the folder", "s", 1.5),
    Goal("recorded", "W11", "64 processes x 10,000 records at once: recorded", "records/s", 300_000, rate=True),
    Goal("committed", "W11", "the same, committed as truth by one collector", "records/s", 120_000, rate=True),
    Goal("folded", "W11", "the same, folded", "records/s", 40_000, rate=True),
    Goal(
        "mass_points",
        "W12",
        "1.02 × 10^8 noisy points in 34 runs of three names, until durable",
        "points/s",
        1_000_000,
        rate=True,
    ),
    Goal("mass_bytes", "W12", "what is stored of them in all", "bytes/point", 7.5),
    Goal("mass_bytes_alone", "W12", "the same of one name alone, 10^6 points", "bytes/point", 9),
    Goal("chart_first", "W12", "a chart of 10^6 points of that store, the first time", "ms", 200),
    Goal("chart_again", "W12", "the same chart again", "ms", 200),
)

PEER_GOALS = (
    Goal("files_many", "W4", "version 10,000 files of 10 KiB", "s", 0),
    Goal("files_many_again", "W4", "version them again, unchanged", "s", 0),
    Goal("files_large", "W4", "version 1 GiB", "s", 0),
    Goal("files_large_again", "W4", "version it again, unchanged", "s", 0),
    Goal("push_many_folder", "W9", "push 10,000 files of 10 KiB to a folder", "s", 0),
    Goal("push_many_bucket", "W9", "push them to S3", "s", 0),
    Goal("pull_many_folder", "W9", "pull them from the folder", "s", 0),
    Goal("push_large_folder", "W9", "push 1 GiB to a folder", "s", 0),
    Goal("push_large_bucket", "W9", "push it to S3", "s", 0),
    Goal("pull_large_folder", "W9", "pull it from the folder", "s", 0),
    Goal("peer_steps", "W3", "10,000 steps × 3 metrics of one run, one call a step, until kept", "ms", 0),
    Goal("peer_read", "W3", "one series of these read back", "ms", 0),
    Goal("peer_writers", "W11", "8 processes at once, each 100 metrics one by one, until all are kept", "ms", 0),
    Goal("peer_mass", "W12", "10^5 points of one name in one run, until kept", "ms", 0),
    Goal("peer_mass_bytes", "W12", "what is stored of them, beside a run without", "bytes/point", 0),
    Goal("peer_chart", "W12", "what a chart of them is drawn from, read the first time", "ms", 0),
)
"""What is measured beside peers alone, since they would take minutes for our own sizes. Without a goal."""

UNGOALED = {
    "native_row": "µs for a row of three names in a C program, written (W3)",
    "native_metric": "µs for a final metric in a C program, written (W3)",
    "loop_fast": "× as long does a loop of 10 µs a step take with `run.log` of 3 names, wall time (W3)",
    "loop_fast_processor": "× the same, processor time of all threads (W3)",
    "mass_packed": "points/s with the time that collecting them into chunks takes (W12)",
    "mass_alone": "points/s of one name alone (W12)",
    "mass_memory": "MiB of memory that one run of 3 × 10^6 points takes (W12)",
    "data_large_copy": "s for `cp` and fsync of 1 GiB (W4)",
    "data_large_hash": "s for `sha256sum` of that copy (W4)",
    "data_many_copy": "s for `cp -r` and sync of 10,000 files of 10 KiB (W4)",
    "data_many_hash": "s for `sha256sum` of these copies (W4)",
    "data_small": "s to version 200,000 files of 1 KiB (W4)",
    "data_small_again": "s to version them again, unchanged (W4)",
    "data_small_copy": "s for `cp -r` and sync of them (W4)",
    "data_small_hash": "s for `sha256sum` of these copies (W4)",
    "data_small_memory": "MiB of memory that versioning them takes (W4)",
    "many_to_folder_copy": "s for `cp -r` and sync of 10,000 files of 10 KiB (W9)",
    "many_to_bucket_raw": "s to put their bytes to S3 raw (W9)",
    "large_to_folder_copy": "s for `cp` and sync of 1 GiB (W9)",
    "large_to_bucket_raw": "s to put its bytes to S3 raw (W9)",
    "push_first_bytes": "kB on the wire of the first push (W5)",
    "pull_all_bytes": "kB on the wire of a first pull (W6)",
    "push_first_bytes_postgres": "kB on the wire of the first push to a hub on PostgreSQL (W5)",
    "million_memory": "MiB of memory that this push takes beyond what the site held before (W10)",
    "million_memory_postgres": "MiB the same, to a hub on PostgreSQL (W10)",
    "pull_all_bytes_postgres": "kB on the wire of a first pull from it (W6)",
    **{
        f"difference_{move}_least{key}": f"ms to {what}, with 10^4 records at a hub{on} (W5)"
        for key, on in (("", ""), ("_postgres", " on PostgreSQL"))
        for move, what in _MOVES.items()
    },
}
"""Measured beside the goals, for who wants to compare."""

_VIEWS = (
    "a hundred executions are made into views, with all their parameters and metrics, and sent as JSON; to find them "
    "takes a millisecond of it."
)
_FOLDS = "the hub checks each record and applies it to its tables, one after the other in one process of Python"
_PROOF = (
    "behind each push that moved something the hub is asked to show that its log holds it, which is one request more."
)
WHY = {
    **{f"page_{size}{kind}": _VIEWS for size in ("small", "middle", "large") for kind in ("", "_postgres")},
    **{f"million_pushed{kind}": f"{_FOLDS}, before it acknowledges them." for kind in ("", "_postgres")},
    **{f"million_folded{kind}": f"{_FOLDS}." for kind in ("", "_postgres")},
    "start_empty_postgres": "the tables are made in it first, and a database is connected to.",
    "push_one": _PROOF,
    "push_one_bytes": _PROOF,
    "push_one_bytes_postgres": _PROOF,
    "push_one_postgres": "PostgreSQL is asked some twenty times in the transaction that commits a segment, each time "
    "over a socket, and " + _PROOF,
    "push_first_postgres": "as on a file; PostgreSQL checks and stores each row once more, in a process of its own.",
    "large_from_folder": "it is copied, hashed and synced before it counts as here.",
    "many_to_bucket": "the packs are hashed and framed in Python before they are sent, and what the bucket holds is "
    "asked first; the raw way reads and sends.",
    "push_first": "most of it is not sending: the journals of 1,000 executions are folded here before they are sealed, "
    "and each record is decoded, checked and folded once more at the hub, in one process and one thread.",
    "chain_views": "the walk is what the goal means; with views, each execution comes with all its events, parameters "
    "and metrics, decoded one by one in Python.",
    "data_many_again": "a third is the walk itself, a `stat` for each file; the rest is a row of the stat memory, an "
    "object looked for and a line of the manifest for each, in Python.",
    "layered_walk": "the database needs most of it to find 10,650 steps by two lookups each, 50 levels one after the "
    "other; each becomes an object of Python once.",
    "layered_views": "3,650 executions with 25,000 events are decoded into views, of which a page shows a few.",
    "recorded": "each record is encoded in Python in the process that made it; 64 processes share the cores there are, "
    "so two cores give twice what one Python process can.",
    "committed": "one collector, one Python process: most of each record goes into reading its frame, checking, "
    "salting and hashing it in Python, the rest into its row.",
    "folded": "the same process applies each record to the tables in turn, since a record means what came before it.",
    "mass_points": "each row of three is a call in Python, in one process after the other.",
    "chart_first": "the first chart of a run decodes all of its chunks once and keeps a thinned form of each.",
}
"""Why a goal may be missed, said beneath the table where it is."""
