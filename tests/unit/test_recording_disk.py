"""A disk that refuses: the program goes on with its own result, is told once, and what is missing is counted."""

import os
from pathlib import Path

import pytest

import cmf
from tests.commands import Done, script
from tests.commands import cmf as command

# A file may grow to so many bytes, and from `free` on as it likes: what a disk does that fills up and is cleared.
FULL = """
import glob, resource
def limit(more):
    (journal,) = glob.glob('.cmf/journal/*.j')
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(journal) + more, resource.RLIM_INFINITY))
def free():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""

# Without its capabilities, the superuser too is bound by what a folder allows.
UNPRIVILEGED = """
import ctypes
class Header(ctypes.Structure):
    _fields_ = [('version', ctypes.c_uint32), ('pid', ctypes.c_int)]
ctypes.CDLL(None).capset(ctypes.byref(Header(0x20080522, 0)), (ctypes.c_uint32 * 6)())
"""

PROGRAM = """
run = cmf.run('p/a', params={'lr': 0.1})
run.input('data.csv')
for step in range(10): run.log({'loss': 1.0}, step=step)
run.flush()
run.metrics(f1=0.5)
run.set('title', 'x')
run.output('data.csv', name='model')
run.label('best')
run.finish()
print('done')
"""


def program(folder: Path, text: str, *, code: int = 0) -> Done:
    """Run a script in a folder with some data."""
    (folder / "data.csv").write_text("1,2\n" * 50)
    return script(folder, "import cmf, os, sys\n" + text, code=code)


def test_a_full_disk_changes_nothing_of_the_program_and_is_told_once(tmp_path: Path) -> None:
    done = program(tmp_path, f"{FULL}cmf.run('p/first').finish()\nlimit(0)\n{PROGRAM}")
    assert done.out == "done\n"
    assert done.err.count("could not record something") == 1
    assert "Traceback" not in done.err


def test_what_could_be_counted_nowhere_is_told_at_the_end(tmp_path: Path) -> None:
    nothing = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))"  # no journal anew has room either
    )
    text = f"{FULL}cmf.run('p/first').finish()\n{nothing}\nrun = cmf.run('p/a')\nrun.metrics(f1=1)\n"
    done = program(tmp_path, text)
    assert "nowhere could they be counted" in done.err
    counted = command(tmp_path, "status", "--json").json["dropped"]
    done = program(tmp_path, f"{FULL}run = cmf.run('p/a')\nlimit(0)\nrun.metrics(f1=1)\nfree()\n")
    assert "nowhere could they be counted" not in done.err
    assert command(tmp_path, "status", "--json").json["dropped"] == counted + 1


def test_a_program_that_makes_errors_of_warnings_gets_none_from_a_full_disk(tmp_path: Path) -> None:
    text = f"{FULL}import warnings\nwarnings.simplefilter('error')\ncmf.run('p/first').finish()\nlimit(0)\n{PROGRAM}"
    assert program(tmp_path, text).out == "done\n"


def test_a_full_disk_leaves_the_programs_own_exit_and_error_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    start = f"{FULL}run = cmf.run('p/a')\nlimit(0)\n"
    assert program(one, f"{start}with run: sys.exit(3)", code=3).err.count("could not record something") == 1
    done = program(two, f"{start}with run: raise ValueError('mine')", code=1)
    assert "ValueError: mine" in done.err
    assert "OSError" not in done.err


def test_what_a_full_disk_refused_is_counted_and_what_it_took_is_there(tmp_path: Path) -> None:
    text = (
        f"{FULL}run = cmf.run('p/a')\nrun.metrics(before=1)\nlimit(2000)\n"
        "for number in range(3): run.set(f'tag/{number}', 'x' * 10_000)\n"
        "free()\nrun.metrics(after=2)\nrun.finish()\n"
    )
    done = program(tmp_path, text)
    assert done.err.count("could not record something") == 1
    said = command(tmp_path, "status", "--json").json
    assert said["dropped"] == 3
    assert said["problems"] == []
    assert "3 things could not be recorded" in command(tmp_path, "status").out
    with cmf.open(tmp_path) as repo:
        (found,) = repo.executions()
    assert (found.status, found.metrics) == ("finished", {"before": 1, "after": 2})
    assert not [key for key in found.properties if key.startswith("tag/")]


def test_what_was_refused_while_not_a_byte_was_free_is_counted_once_there_is_room(tmp_path: Path) -> None:
    text = (
        f"{FULL}run = cmf.run('p/a')\nrun.metrics(before=1)\nlimit(0)\n"
        "for number in range(3): run.set(f'tag/{number}', 'x')\n"
        "free()\nrun.metrics(after=2)\nrun.finish()\n"
    )
    program(tmp_path, text)
    with cmf.open(tmp_path) as repo:
        assert repo.status().dropped == 3
        assert repo.executions()[0].metrics == {"before": 1, "after": 2}


@pytest.mark.parametrize(("rows", "room"), [(100, 1_000), (40_000, 600_000)])
def test_rows_that_a_full_disk_refused_take_no_later_row_with_them(tmp_path: Path, rows: int, room: int) -> None:
    text = (
        f"{FULL}run = cmf.run('p/a')\nlimit({room})\n"
        f"for step in range({rows}): run.log({{'loss': 1.0}}, step=step)\n"
        "run.flush()\nfree()\n"
        f"for step in range({rows}, {rows} + 1000): run.log({{'loss': 2.0}}, step=step)\n"
        "run.finish()\n"
    )
    done = program(tmp_path, text)
    assert done.err.count("could not record something") == 1
    with cmf.open(tmp_path) as repo:
        points = repo.series(repo.executions()[0], "loss")
        assert [step for step in points.steps if step >= rows] == list(range(rows, rows + 1000))
        assert len(set(points.steps)) == len(points.steps), "no row is there twice"
        assert all(value == (1.0 if step < rows else 2.0) for step, _, value in points)
        assert repo.status().dropped > 0


def test_a_disk_that_does_not_answer_holds_up_no_row(tmp_path: Path) -> None:
    text = (
        "import threading\n"
        "answers, asked, write = threading.Event(), threading.Event(), os.write\n"
        "def slow(*given):\n"
        "    asked.set(); answers.wait(60)\n"
        "    return write(*given)\n"
        "run = cmf.run('p/a')\n"
        "os.write = slow\n"
        "run.log({'loss': 0.0}, step=0)\n"
        "assert asked.wait(60)\n"
        "for step in range(1, 120_000): run.log({'loss': 1.0}, step=step)\n"
        "answers.set()\n"
        "run.finish()\n"
    )
    assert program(tmp_path, text).err == ""
    with cmf.open(tmp_path) as repo:
        assert len(repo.series(repo.executions()[0], "loss")) == 120_000


def test_large_parameters_on_a_full_disk_change_nothing_of_the_program(tmp_path: Path) -> None:
    text = f"{FULL}cmf.run('p/first').finish()\nlimit(0)\n"
    text += "run = cmf.run('p/a', params={'all': ['x' * 100] * 1000})\nrun.finish()\nprint('done')\n"
    done = program(tmp_path, text)
    assert done.out == "done\n"
    assert done.err.count("could not record something") == 1


def test_a_folder_that_nobody_may_write_changes_nothing_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n" * 50)
    tmp_path.chmod(0o555)
    try:
        done = script(tmp_path, f"import cmf, os, sys\n{UNPRIVILEGED}{PROGRAM}")
    finally:
        tmp_path.chmod(0o755)
    assert done.out == "done\n"
    assert done.err.count("could not record something") == 1
    assert "Permission denied" in done.err
    assert os.listdir(tmp_path) == ["data.csv"]


def test_a_store_that_nobody_may_write_changes_nothing_of_the_program(tmp_path: Path) -> None:
    program(tmp_path, PROGRAM)
    folders = [tmp_path / ".cmf", *(path for path in (tmp_path / ".cmf").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = script(tmp_path, f"import cmf, os, sys\n{UNPRIVILEGED}{PROGRAM}")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.out == "done\n"
    assert done.err.count("could not record something") == 1
    with cmf.open(tmp_path) as repo:
        (found,) = repo.executions()
        assert (found.status, found.metrics["f1"]) == ("finished", 0.5), "what was there is as it was"


def test_a_file_in_the_place_of_the_store_changes_nothing_of_the_program(tmp_path: Path) -> None:
    (tmp_path / ".cmf").write_text("mine")
    done = program(tmp_path, PROGRAM)
    assert done.out == "done\n"
    assert done.err.count("could not record something") == 1
    assert (tmp_path / ".cmf").read_text() == "mine"


def test_a_file_that_nobody_may_read_is_counted_and_its_path_is_returned(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("1,2\n" * 50)
    (tmp_path / "secret.csv").chmod(0)
    text = f"{UNPRIVILEGED}\nwith cmf.run('p/a') as run: print(run.input('secret.csv'))\n"
    done = program(tmp_path, text)
    assert done.out == "secret.csv\n"
    assert done.err.count("could not record something") == 1
    with cmf.open(tmp_path) as repo:
        assert repo.status().dropped == 1
        assert repo.executions()[0].inputs == ()
