"""Where a run is recorded and with whom: resumed, by several processes, into another folder, not at all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cmf
from tests.commands import script

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
RECORD = "import cmf\nwith cmf.run('p/a') as run: run.metrics(f1=0.5)\n"


def executions(folder: Path) -> list[Any]:
    with cmf.open(folder) as repo:
        return list(repo.executions())


# ---- resumed -----------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_a_new_attempt_of_the_same_execution(tmp_path: Path) -> None:
    script(
        tmp_path,
        "import cmf\n"
        "with cmf.run('p/train', params={'lr': 0.1}, name='long-one') as run:\n"
        "    for step in range(5): run.log({'loss': 1.0}, step=step)\n"
        "    raise RuntimeError('preempted')\n",
        code=1,
    )
    (first,) = executions(tmp_path)
    assert first.status == "failed"
    text = f"import cmf\nwith cmf.run('p/other', resume={first.id!r}, params={{'lr': 9}}) as run:\n"
    script(tmp_path, text + "    for step in range(3, 8): run.log({'loss': 2.0}, step=step)\n")
    (second,) = executions(tmp_path)
    assert (second.id, second.scope, second.name) == (first.id, "p/train", "long-one")
    assert (second.status, second.exit, second.error) == ("finished", 0, {})
    assert second.params == {"lr": 0.1}, "those of the birth"
    assert second.started == first.started
    assert not second.conflict
    assert [attempt.partition("-")[0] for attempt in second.attempts] == ["1", "2"]
    with cmf.open(tmp_path) as repo:
        assert list(repo.series(second, "loss").steps) == [3, 4, 5, 6, 7], "of the newest attempt"
        assert list(repo.series(second, "loss", attempt=first.attempts[0]).steps) == [0, 1, 2, 3, 4]


def test_a_run_that_was_killed_can_be_resumed_again_and_again(tmp_path: Path) -> None:
    script(tmp_path, "import cmf, os\nrun = cmf.run('p/train')\nrun.metrics(f1=0.1)\nos._exit(1)", code=1)
    (found,) = executions(tmp_path)
    for number in (2, 3):
        script(tmp_path, f"import cmf\nwith cmf.run(resume={found.id[24:32]!r}) as run: run.metrics(f1={number})\n")
        (found,) = executions(tmp_path)
        assert (found.status, found.metrics, len(found.attempts)) == ("finished", {"f1": number}, number)


def test_a_run_that_is_not_here_is_not_resumed_and_nothing_is_recorded(tmp_path: Path) -> None:
    done = script(tmp_path, "import cmf\ncmf.run('p/a', resume='0123456789')\n", code=1)
    assert "NotFoundError" in done.err
    script(tmp_path, RECORD)
    done = script(tmp_path, "import cmf\ncmf.run('p/a', resume='0123456789')\n", code=1)
    assert "NotFoundError" in done.err
    assert len(executions(tmp_path)) == 1


# ---- by several processes ----------------------------------------------------------------------------------------


def ranks(folder: Path, texts: list[str], **more: str) -> None:
    """Run one script a rank, all at once, as one execution."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "import cmf, sys\n" + text],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CMF_EXECUTION": ID, "CMF_ATTEMPT": "1-aaaaaaaa", "CMF_RANK": str(rank), **more},
        )
        for rank, text in enumerate(texts)
    ]
    for child in children:
        _, said = child.communicate(timeout=60)
        assert "CmfWarning" not in said


def test_two_processes_record_one_execution(tmp_path: Path) -> None:
    text = (
        "with cmf.run('p/a', params={'lr': 0.1}) as run:\n"
        "    for step in range(100): run.log({'loss': run.rank + step / 100}, step=step)\n"
        "    run.metrics({f'final{run.rank}': run.rank})\n"
    )
    ranks(tmp_path, [text, text])
    (found,) = executions(tmp_path)
    assert (found.id, found.status, found.attempts) == (ID, "finished", ("1-aaaaaaaa",))
    assert found.params == {"lr": 0.1}
    assert not found.conflict, "only the first of them writes the birth"
    assert {name: value for name, value in found.metrics.items() if name != "loss"} == {"final0": 0, "final1": 1}
    with cmf.open(tmp_path) as repo:
        for rank in (0, 1):
            points = repo.series(found, "loss", rank=rank)
            assert list(points.values) == [rank + step / 100 for step in range(100)]


def test_an_execution_fails_if_one_of_its_processes_does(tmp_path: Path) -> None:
    ranks(tmp_path, ["cmf.run('p/a').finish()", "with cmf.run('p/a'): sys.exit(4)"])
    (found,) = executions(tmp_path)
    assert (found.status, found.exit) == ("failed", 4)


def test_a_rank_whose_rank_0_never_runs_records_the_execution_whole(tmp_path: Path) -> None:
    script(tmp_path, RECORD, env={"CMF_RANK": "1"})
    (found,) = executions(tmp_path)
    assert (found.known, found.status, found.metrics) == (True, "finished", {"f1": 0.5})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CMF_EXECUTION", "what?"),
        ("CMF_EXECUTION", ID.upper()),
        ("CMF_ATTEMPT", "1/2"),
        ("CMF_RANK", "-1"),
        ("CMF_RANK", "²"),
        ("CMF_RANK", "10000000000"),
        ("CMF_MODE", "online"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_and_named(tmp_path: Path, name: str, value: str) -> None:
    done = script(tmp_path, RECORD, code=1, env={name: value})
    assert "UsageError" in done.err
    assert name in done.err
    assert os.listdir(tmp_path) == []


# ---- elsewhere, and not at all -----------------------------------------------------------------------------------


def test_a_run_goes_where_the_environment_says(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    there.mkdir()
    script(here, RECORD, env={"CMF_DIR": str(there / "store")})
    assert os.listdir(here) == []
    done = script(
        here,
        "import cmf\nwith cmf.open() as repo: print(len(repo.executions()))",
        env={"CMF_DIR": str(there / "store")},
    )
    assert done.out == "1\n"


def test_two_folders_of_one_program_are_two_stores(tmp_path: Path) -> None:
    text = (
        "import cmf, os\n"
        "for name in ('one', 'two'):\n"
        "    os.mkdir(name)\n"
        "    os.chdir(name)\n"
        "    os.mkdir('.cmf')\n"
        "    cmf.run('p/' + name).finish()\n"
        "    os.chdir('..')\n"
    )
    script(tmp_path, text)
    assert [[view.stage for view in executions(tmp_path / name)] for name in ("one", "two")] == [["one"], ["two"]]


def test_the_scope_comes_from_the_folder_and_the_script_if_nobody_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "My project (2)"
    folder.mkdir()
    (folder / "train it.py").write_text("import cmf\ncmf.run().finish()\ncmf.run('named').finish()\n")
    subprocess.run([sys.executable, "train it.py"], cwd=folder, check=True, timeout=60)
    assert sorted(view.scope for view in executions(folder)) == ["My-project-2/named", "My-project-2/train-it"]


def test_switched_off_nothing_is_written_and_the_program_runs_the_same(tmp_path: Path) -> None:
    text = (
        "import cmf, sys\n"
        "with cmf.run('p/a', params={'lr': 1}, name='mine') as run:\n"
        "    assert run.name == 'mine' and run.id and run.node\n"
        "    print(run.input('data.csv'), run.output('nowhere.bin', name='model'))\n"
        "    run.log({'loss': 0.5})\n"
        "    run.metrics({'f1': 1}, n=2)\n"
        "    run.set('title', 'x')\n"
        "    run.label('best')\n"
        "    run.link('a', 'b', 'c')\n"
        "    run.flush()\n"
        "    sys.exit(3)\n"
    )
    done = script(tmp_path, text, code=3, env={"CMF_MODE": "off"})
    assert (done.out, done.err) == ("data.csv nowhere.bin\n", "")
    assert os.listdir(tmp_path) == []


def test_switched_off_nothing_of_a_store_that_is_there_changes(tmp_path: Path) -> None:
    script(tmp_path, RECORD)
    before = sorted(path for path in (tmp_path / ".cmf").rglob("*"))
    script(
        tmp_path,
        "import cmf\nwith cmf.run('p/a', resume='nowhere') as run: run.metrics(f1=1)\n",
        env={"CMF_MODE": "off"},
    )
    assert sorted(path for path in (tmp_path / ".cmf").rglob("*")) == before
