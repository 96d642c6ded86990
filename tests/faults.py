"""The fault suite: a recorded program is killed, and its disk fills up, at every write of it and at random ones.

`python -m tests.faults` runs every fault once; `--kills 2000` adds so many kills at random. Each case runs in a process
of its own, which notes what it was told is recorded; then the store is opened, without any repair, and must hold all
of it and say how the run ended.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

import cmf

STEPS = 4
ROWS = 10
KILLS = ("before", "within", "after")
FULL = ("once", "for ever")


class Case(msgspec.Struct, frozen=True):
    """A fault, at the so-manyth write into `.cmf` of the program (0: none)."""

    kind: str
    at: int


NO_FAULT = Case("none", 0)


class Outcome(msgspec.Struct):
    """What became of a case: how the process ended, and what it had noted after how many writes."""

    ended: int
    noted: list[tuple[int, str]]


def program(note: Callable[[str], None]) -> None:
    """Record a bit of everything; note each thing when the call that records it has returned."""
    with cmf.run("p/a", params={"lr": 0.1}, see_params=False) as run:
        note("birth")
        run.input("data.csv", name="data")
        note("input data")
        for number in range(STEPS):
            for row in range(ROWS):
                run.log({"loss": row / 2}, step=number * ROWS + row)
            run.flush()
            note(f"rows {(number + 1) * ROWS}")
            run.metrics({f"m{number}": number})
            note(f"metric m{number}")
        run.set("title", "x")
        note("title")
        run.output("model.bin", name="model")
        note("output model")
        run.label("best")
        note("label")
    note("end")


class Faults:
    """The system calls that write, with one fault at one of them."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.count = 0
        write, pwrite = os.write, os.pwrite

        def writing(fd: int, data: Any, /) -> int:
            return self._faulty(fd, lambda part: write(fd, bytes(data)[:part]), len(data))

        def writing_at(fd: int, data: Any, at: int, /) -> int:
            return self._faulty(fd, lambda part: pwrite(fd, bytes(data)[:part], at), len(data))

        def writing_parts_at(fd: int, parts: Any, at: int, flags: int = 0, /) -> int:
            return writing_at(fd, b"".join(bytes(part) for part in parts), at)

        os.write, os.pwrite, os.pwritev = writing, writing_at, writing_parts_at

    def _faulty(self, fd: int, write: Callable[[int], int], size: int) -> int:
        if "/.cmf/" not in os.readlink(f"/proc/self/fd/{fd}"):
            return write(size)
        self.count += 1
        kind, since = self._case.kind, self.count - self._case.at
        if kind in FULL:
            # As a disk does that fills up: it takes some of the bytes, and the next call is told.
            if since == 0:
                return write(size // 2)
            if since == 1 or (kind == "for ever" and since > 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif since == 0:
            if kind != "before":
                write(size // 2 if kind == "within" else size)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(size)


def run(folder: Path, case: Case, *, after_s: float | None = None) -> Outcome:
    """Run the program in a forked process with a fault, or killed after some seconds, and wait for its end."""
    folder.mkdir()
    (folder / "data.csv").write_bytes(b"1,2\n" * 50)
    (folder / "model.bin").write_bytes(bytes(100_000))
    child = os.fork()
    if child == 0:
        _be(folder, case)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    lines = (folder / "noted").read_text().splitlines() if (folder / "noted").exists() else []
    noted = [(int(count), text) for count, _, text in (line.partition(" ") for line in lines)]
    return Outcome(os.waitstatus_to_exitcode(ended), noted)


def _be(folder: Path, case: Case) -> None:
    """Be the process that is recorded: never return."""
    code = 70
    try:
        atexit._clear()  # what is the parent's to do
        os.chdir(folder)
        notes = os.open("noted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        write = os.write
        faults = Faults(case)
        warnings.simplefilter("ignore", cmf.CmfWarning)

        def note(text: str) -> None:
            write(notes, f"{faults.count} {text}\n".encode())

        program(note)
        atexit._run_exitfuncs()
        note("exit")
        code = 0
    except BaseException:  # noqa: BLE001  # what nobody would see otherwise
        traceback.print_exc()
    finally:
        os._exit(code)


def problems(folder: Path, case: Case, outcome: Outcome) -> Iterator[str]:
    """Open the store as anybody would, and return what is missing or untrue."""
    is_full = case.kind in FULL
    done = {text for _, text in outcome.noted}
    with cmf.open(folder) as repo:
        found = repo.executions()
        status = repo.status()
        yield from status.problems
        yield from (f"{problem.where}: {problem.what}" for problem in repo.verify().problems)
        if is_full and outcome.ended != 0:
            yield f"the program ended by {outcome.ended}, not as it would without cmf"
        if not is_full and status.dropped:
            yield f"{status.dropped} things were counted as dropped, the first: {status.dropped_first}"
        if done and os.listdir(folder / ".cmf" / "journal"):
            yield "a journal was left"
        # What a full disk refused was told in a warning; what was recorded before must be there.
        yield from _missing(repo, found, [text for count, text in outcome.noted if not is_full or count < case.at])
        for view in found:
            ends = {"lost"} if not done >= {"label"} else {"finished"} if "end" in done else {"lost", "finished"}
            if case.kind == "for ever":
                ends = {"finished", "lost"}
            if view.status not in ends:
                yield f"the status is {view.status}, not {' or '.join(sorted(ends))}"
            if view.duration is not None and view.duration < 0:
                yield "it ended before it started"


def _missing(repo: cmf.Repo, found: list[Any], noted: list[str]) -> Iterator[str]:
    if noted and len(found) != 1:
        yield f"there are {len(found)} executions"
        return
    for note in noted:
        view = found[0]
        what, _, name = note.partition(" ")
        held: object = True
        if what == "birth":
            held = view.known and view.params == {"lr": 0.1}
        elif what in ("input", "output"):
            uses = view.inputs if what == "input" else view.outputs
            held = [use.name for use in uses] == [name] and bool(repo.read(uses[0].artifact))
        elif what == "rows":
            held = list(repo.series(view, "loss").steps)[: int(name)] == list(range(int(name)))
        elif what == "metric":
            held = view.metrics.get(name) == int(name[1:])
        elif what == "title":
            held = view.properties.get("title") == "x"
        elif what == "label":
            held = repo.artifact(repo.resolve("model@best").node.removeprefix("artifact:")) is not None
        if not held:
            yield f"it was told that {note} is recorded, and it isn't there"


def suite(folder: Path, *, kills: int, seed: int) -> tuple[dict[str, int], list[str]]:
    """Run every fault once, and so many kills at random; return how many of each, and what was wrong."""
    started = time.monotonic()
    whole = run(folder / "whole", NO_FAULT)
    took_s = time.monotonic() - started
    wrong = [f"without a fault: {problem}" for problem in problems(folder / "whole", NO_FAULT, whole)]
    if whole.ended != 0:
        wrong.append(f"without a fault: it ended by {whole.ended}")
    writes = whole.noted[-1][0]
    counts = {"writes": writes}
    for number, case in enumerate(Case(kind, at) for at in range(1, writes + 1) for kind in (*KILLS, *FULL)):
        name = "full disk" if case.kind in FULL else "kill at a write"
        outcome = run(folder / f"case{number}", case)
        counts[name] = counts.get(name, 0) + (case.kind in FULL or outcome.ended == -signal.SIGKILL)
        wrong += [f"{case.kind} write {case.at}: {problem}" for problem in _looked_into(folder, number, case, outcome)]
    chance = random.Random(seed)
    counts["kill at random"] = 0
    number = 10_000
    while counts["kill at random"] < kills:
        after_s = chance.uniform(0, took_s)
        outcome = run(folder / f"case{number}", NO_FAULT, after_s=after_s)
        counts["kill at random"] += outcome.ended == -signal.SIGKILL
        found = _looked_into(folder, number, NO_FAULT, outcome)
        wrong += [f"killed after {after_s:.4f} s: {problem}" for problem in found]
        number += 1
    return counts, wrong


def _looked_into(folder: Path, number: int, case: Case, outcome: Outcome) -> list[str]:
    place = folder / f"case{number}"
    try:
        found = list(problems(place, case, outcome)) if (place / ".cmf").exists() else []
    except cmf.CmfError as error:
        found = [f"{type(error).__name__}: {error.message}"]
    shutil.rmtree(place)
    return found


def main() -> int:
    """Run the suite; print what was done and what was wrong; return 1 if anything was."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50, help="kills at random times (50)")
    options.add_argument("--seed", type=int, default=1, help="what chance starts from (1)")
    given = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = suite(Path(folder), kills=given.kills, seed=given.seed)
    for line in wrong:
        print(line)
    took = time.monotonic() - started
    print(f"{', '.join(f'{name}: {count}' for name, count in counts.items())}; wrong: {len(wrong)}; {took:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
