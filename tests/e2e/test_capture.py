"""`cmf run` finds the files that a program reads and writes, with `strace` and without."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import cmf, git, run, script

WAYS = [
    pytest.param("strace", marks=pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")),
    "python",
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "farm"
    folder.mkdir()
    (folder / "data.csv").write_text("a,b\n1,2\n")
    return folder


def files(project: Path, way: str, *command: str, code: int = 0) -> tuple[list[str], list[str]]:
    """Run a command, and return the paths of its inputs and its outputs."""
    cmf(project, "run", "--trace", way, "--", *command, code=code)
    (found,) = cmf(project, "log", "--json").json["executions"]
    return sorted(use["path"] for use in found["inputs"]), sorted(use["path"] for use in found["outputs"])


def executions(project: Path) -> list[dict[str, Any]]:
    """Return every execution in full, newest first."""
    ids = [found["id"] for found in cmf(project, "log", "--json").json["executions"]]
    return [cmf(project, "show", id_, "--json").json for id_ in ids]


def python(project: Path, way: str, text: str) -> tuple[list[str], list[str]]:
    (project / "work.py").write_text(text)
    return files(project, way, sys.executable, "work.py")


@pytest.mark.parametrize("way", WAYS)
def test_what_a_script_reads_and_writes_is_found_and_the_script_is_code(project: Path, way: str) -> None:
    found = python(project, way, "open('out é.csv', 'w').write(open('data.csv').read() * 2)")
    assert found == (["data.csv"], ["out é.csv"])


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_moved_counts_where_it_ends_and_one_that_is_deleted_does_not(project: Path, way: str) -> None:
    text = (
        "import os\nopen('a.tmp', 'w').write('x' * 9)\nos.rename('a.tmp', 'a')\n"
        "open('gone', 'w').write('y')\nopen('gone').read()\nos.remove('gone')\n"
        "os.mkdir('draft')\nopen('draft/part', 'w').write('z')\nos.rename('draft', 'final')\n"
    )
    assert python(project, way, text) == ([], ["a", "final/part"])


@pytest.mark.parametrize("way", WAYS)
def test_what_a_run_wrote_itself_is_no_input(project: Path, way: str) -> None:
    text = "import subprocess\nsubprocess.run(['cp', 'data.csv', 'copy'])\nprint(open('copy').read())\n"
    found = python(project, way, text)
    assert found[1] == ["copy"]
    assert found[0] == (["data.csv"] if way == "strace" else []), "only strace sees what cp reads"


@pytest.mark.parametrize("way", WAYS)
def test_a_database_that_is_only_asked_is_an_input(project: Path, way: str) -> None:
    make = "import sqlite3\nc = sqlite3.connect('herd.db')\nc.execute('create table sheep (n)')\nc.commit()\n"
    cmf(project, "run", "--trace", "off", "--", sys.executable, "-c", make)
    ask = "import sqlite3\nprint(sqlite3.connect('herd.db').execute('select * from sheep').fetchall())\n"
    (project / "ask.py").write_text(ask)
    cmf(project, "run", "--trace", way, "--", sys.executable, "ask.py")
    found = cmf(project, "log", "--json").json["executions"][0]
    assert [use["path"] for use in found["inputs"]] == ["herd.db"]
    assert found["outputs"] == []


@pytest.mark.parametrize("way", WAYS)
def test_spawned_and_forked_workers_are_seen(project: Path, way: str) -> None:
    text = (
        "import multiprocessing as mp\n"
        "def work(name):\n    open(name, 'w').write(open('data.csv').read())\n"
        "if __name__ == '__main__':\n"
        "    for kind in ('fork', 'spawn'):\n"
        "        worker = mp.get_context(kind).Process(target=work, args=(kind,))\n"
        "        worker.start()\n        worker.join()\n"
    )
    assert python(project, way, text) == (["data.csv"], ["fork", "spawn"])


@pytest.mark.parametrize("way", WAYS)
def test_a_sites_own_sitecustomize_still_runs(
    project: Path, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "site"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins\nbuiltins.flock = 'twelve sheep'\n")
    monkeypatch.setenv("PYTHONPATH", str(own))
    assert python(project, way, "open('said', 'w').write(flock)") == ([], ["said"])


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_read_and_written_over_is_told(project: Path, way: str) -> None:
    (project / "work.py").write_text("t = open('data.csv').read()\nopen('data.csv', 'w').write(t + '3,4')\n")
    done = cmf(project, "run", "--trace", way, "--", sys.executable, "work.py")
    assert "data.csv was read and then written over" in done.err


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")
def test_strace_sees_every_program_and_passes_its_end_on(project: Path) -> None:
    text = "cat data.csv > 'one\ntwo'; mkdir k; cd k; cp ../data.csv z; mv z zz; kill -TERM $$"
    assert files(project, "strace", "sh", "-c", text, code=143) == (["data.csv"], ["k/zz", "one\ntwo"])


def test_without_strace_that_is_said(project: Path) -> None:
    done = cmf(project, "run", "--trace", "python", "--", "true")
    assert "without strace: reads of Python programs only" in done.err


DECLARES = """
import cmf
with cmf.run({scope}params={{"k": 3}}) as run:
    text = run.input("data.csv").read_text()
    open("model.bin", "w").write(text * 9)
    run.output("model.bin", name="model")
    open("notes", "w").write("twelve sheep")
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_run_inside_a_recorded_command_is_the_same_execution_and_records_nothing_twice(
    project: Path, way: str
) -> None:
    (project / "work.py").write_text(DECLARES.format(scope="name='my own', "))
    assert files(project, way, sys.executable, "work.py") == (["data.csv"], ["model.bin", "notes"])
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert (found["status"], found["params"], found["scope"]) == ("finished", {"k": 3}, "farm/work")
    assert [use["name"] for use in found["outputs"] if use["path"] == "model.bin"] == ["model"]
    assert "my own" in cmf(project, "show", found["id"]).out


@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_another_scope_inside_a_recorded_command_is_its_child_and_keeps_its_files(
    project: Path, way: str
) -> None:
    (project / "work.py").write_text(DECLARES.format(scope="'farm/inner', "))
    cmf(project, "run", "--trace", way, "--", sys.executable, "work.py")
    found = {view["scope"]: view for view in cmf(project, "log", "--json").json["executions"]}
    assert [use["path"] for use in found["farm/inner"]["outputs"]] == ["model.bin"]
    assert [use["path"] for use in found["farm/work"]["outputs"]] == ["notes"]
    assert found["farm/inner"]["parent"] == found["farm/work"]["node"]


def test_the_same_script_has_the_same_lineage_by_command_and_by_hand(project: Path) -> None:
    plain = "open('model.bin', 'w').write(open('data.csv').read() * 9)"
    by_command = python(project, "auto", plain)
    (project / "model.bin").unlink()
    by_hand = f"import cmf\nwith cmf.run('farm/work') as run:\n    run.input('data.csv')\n    {plain}\n"
    cmf(project, "status")
    script(project, by_hand + "    run.output('model.bin')\n")
    views = cmf(project, "log", "--json").json["executions"]
    uses = [[(use["path"], use["artifact"]) for use in view["inputs"] + view["outputs"]] for view in views]
    assert len(uses) == 2
    assert uses[0] == uses[1]
    assert by_command == (["data.csv"], ["model.bin"])


@pytest.mark.parametrize("way", WAYS)
def test_what_git_and_the_recorder_look_at_is_no_input(project: Path, way: str) -> None:
    git(project, "init")
    (project / "settings.txt").write_text("lr: 0.1")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    (project / "settings.txt").write_text("lr: 0.2")
    (project / "notes.txt").write_text("untracked")
    text = (
        "import cmf, subprocess\n"
        "subprocess.run(['git', 'diff'], check=True, stdout=subprocess.DEVNULL)\n"
        "with cmf.run() as run:\n    open('out.txt', 'w').write('made')\n"
    )
    assert python(project, way, text) == ([], ["out.txt"])


def test_the_exception_that_ended_a_script_is_kept_by_cmf_run_around_it(project: Path) -> None:
    (project / "work.py").write_text("import cmf\nwith cmf.run():\n    raise ValueError('no such sheep')\n")
    start = "from cmf.cli import main; main()"  # not by `-m`: the script's own traceback is on its standard error
    run([sys.executable, "-c", start, "run", "--", sys.executable, "work.py"], project, code=1)
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert (found["status"], found["exit"]) == ("failed", 1)
    assert (found["error"]["type"], found["error"]["message"]) == ("ValueError", "no such sheep")
    assert "traceback" in found["error"]


@pytest.mark.parametrize("way", [*WAYS, "off"])
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("no-such-command", 127, "there is no such command"),
        ("./data.csv", 126, "it is not executable"),
        ("./folder", 126, "it is a folder"),
        ("./no-program", 126, "exec format error"),
        ("./no-interpreter", 126, "no such file or directory"),
    ],
)
def test_a_command_that_cannot_be_run_is_a_failed_execution_with_the_code_a_shell_gives(
    project: Path, way: str, command: str, code: int, said: str
) -> None:
    (project / "folder").mkdir()
    for name, text in (("no-program", "nothing"), ("no-interpreter", "#!/no/such/interpreter\n")):
        (project / name).write_text(text)
        (project / name).chmod(0o755)
    told = cmf(project, "run", "--trace", way, "--", command, code=code).err
    assert f"cmf: '{command}' cannot be run: {said}.\n" in told
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert (found["status"], found["exit"]) == ("failed", code)
    assert said in cmf(project, "show", found["id"]).out


CAPTURES = """
import subprocess, sys
import cmf
with cmf.run("farm/work", capture=True):
    text = open("data.csv").read()
    open("model.bin", "w").write(text * 9)
    open("model.bin").read()
    open("draft", "w").write(text)
    __import__("os").rename("draft", "report.txt")
    subprocess.run([sys.executable, "-c", "open('late.txt', 'w').write(open('more.txt').read())"], check=True)
open("data.csv", "a").write("after it")
"""


def test_a_script_that_captures_has_the_lineage_that_cmf_run_finds(project: Path) -> None:
    (project / "more.txt").write_text("more")
    plain = CAPTURES.replace('with cmf.run("farm/work", capture=True):', "if True:")
    plain = plain.replace('open("data.csv", "a").write("after it")', "")
    (project / "work.py").write_text(plain)
    by_command = files(project, "python", sys.executable, "work.py")
    for name in ("model.bin", "report.txt", "late.txt"):
        (project / name).unlink()
    script(project, CAPTURES)
    found = executions(project)[0]
    sides = [sorted(use["path"] for use in found[side]) for side in ("inputs", "outputs")]
    assert sides == [*by_command] == [["data.csv", "more.txt"], ["late.txt", "model.bin", "report.txt"]]
    assert (found["status"], found["scope"]) == ("finished", "farm/work")


def test_a_capture_leaves_the_process_as_it_was_and_two_may_overlap(project: Path) -> None:
    text = """
import os
import cmf
before = dict(os.environ)
outer = cmf.run("farm/outer", capture=True)
with cmf.run("farm/inner", capture=True):
    open("data.csv").read()
open("other.csv").read()
outer.finish()
assert dict(os.environ) == before
with cmf.run("farm/plain"):
    open("data.csv").read()
"""
    (project / "other.csv").write_text("c\n")
    script(project, text)
    found = {view["scope"]: [use["path"] for use in view["inputs"]] for view in executions(project)}
    assert found == {"farm/outer": ["data.csv", "other.csv"], "farm/inner": ["data.csv"], "farm/plain": []}


def test_inside_cmf_run_a_capture_records_nothing_twice(project: Path) -> None:
    text = "import cmf\nwith cmf.run(capture=True):\n    open('out', 'w').write(open('data.csv').read())\n"
    (project / "work.py").write_text(text)
    assert files(project, "python", sys.executable, "work.py") == (["data.csv"], ["out"])


DIFFERS = """
import cmf
with cmf.run({arguments}) as run:
    run.input("data.csv")
    run.input("folder")
    run.input("never.csv")
    open("data.csv").read()
    open("folder/part").read()
    open("secretly.csv").read()
"""


@pytest.mark.parametrize("way", [*WAYS, "inside"])
def test_what_is_declared_and_what_is_opened_are_compared(project: Path, way: str) -> None:
    (project / "folder").mkdir()
    for name in ("never.csv", "secretly.csv", "folder/part"):
        (project / name).write_text(name)
    if way == "inside":
        script(project, DIFFERS.format(arguments="'farm/work', capture=True"))
    else:
        (project / "work.py").write_text(DIFFERS.format(arguments=""))
        cmf(project, "run", "--trace", way, "--", sys.executable, "work.py")
    (found,) = executions(project)
    assert found["properties"].get("files/undeclared") == ["secretly.csv"]
    # Only strace sees every program and library open files: of the others no one can say that a file was not.
    assert found["properties"].get("files/unopened") == (["never.csv"] if way == "strace" else None)
    said = cmf(project, "show", found["id"]).out
    assert "secretly.csv" in said
