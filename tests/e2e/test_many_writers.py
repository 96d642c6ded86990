"""Many processes write one execution at once, and nothing of it is lost."""

import os
from pathlib import Path

import cmf
from tests.commands import script

WRITERS = 64
RECORDS = 500
EXECUTION = "0192f0c1-2d3e-8f4a-8b5c-6d7e8f901234"

TRAIN = """
import cmf, multiprocessing, os, sys

def write(rank):
    run = cmf.run("team/train", rank=rank)
    for number in range({records}):
        run.set(f"tag/{{rank}}-{{number}}", number)
    run.finish()

if __name__ == "__main__":
    import cmf.collect  # what all of them load is loaded once
    context = multiprocessing.get_context("fork")
    made = [context.Process(target=write, args=(rank,)) for rank in range({writers})]
    for process in made:
        process.start()
    with cmf.open() as repo:  # and one collects while they write
        repo.status()
    for process in made:
        process.join()
    sys.exit(any(process.exitcode for process in made))
"""


def test_64_processes_at_once_lose_no_record_of_one_execution(tmp_path: Path) -> None:
    (tmp_path / ".cmf").mkdir()
    script(tmp_path, TRAIN.format(writers=WRITERS, records=RECORDS), env={"CMF_EXECUTION": EXECUTION})
    with cmf.open(tmp_path) as repo:
        (view,) = repo.executions()
        assert (view.id, view.status, view.conflict, len(view.attempts)) == (EXECUTION, "finished", False, 1)
        held = [(row[1], row[5]) for row in repo.store.dump()["property"] if str(row[1]).startswith("tag/")]
        wanted = {(f"tag/{rank}-{number}", str(number)) for rank in range(WRITERS) for number in range(RECORDS)}
        assert set(held) == wanted
        assert len(held) == len(wanted)
        assert repo.status().dropped == 0
    assert os.listdir(tmp_path / ".cmf/journal") == []
