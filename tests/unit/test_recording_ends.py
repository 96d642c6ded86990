"""How a run ends: as what became of the process that recorded it, whichever way that went."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cmf
from cmf.graph import views
from tests.commands import Done, script
from tests.commands import cmf as command

WAIT_SECONDS = 30


def only(folder: Path) -> views.Execution:
    """Return the one execution that a folder's store holds."""
    with cmf.open(folder) as repo:
        (found,) = repo.executions()
    return found


def ended(folder: Path, text: str, *, code: int = 0) -> tuple[views.Execution, Done]:
    """Run a script that makes one run, and return what was recorded of it and what the script said."""
    done = script(folder, "import cmf, os, signal, sys\n" + text, code=code)
    return only(folder), done


@contextlib.contextmanager
def child(folder: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """Start a script that says a word when it is ready, and wait for that word."""
    started = subprocess.Popen(
        [sys.executable, "-c", "import cmf, os, signal, sys, time\n" + text],
        cwd=folder,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        yield started
    finally:
        started.kill()
        started.communicate()


def steps_of_every_rank(repo: cmf.Repo, found: views.Execution) -> list[int]:
    """Return the steps of `loss`: each process that logs to a run has a line of its own."""
    ranks = {held.rank for held in repo.store.index.series(found.node, "loss")}
    return sorted(step for rank in ranks for step in repo.series(found, "loss", rank=rank).steps)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true"


def test_a_run_that_is_left_is_finished(tmp_path: Path) -> None:
    found, done = ended(tmp_path, "with cmf.run('p/a') as run: pass")
    assert (found.status, found.exit, found.error) == ("finished", 0, {})
    assert found.started is not None
    assert found.ended is not None
    assert found.ended >= found.started
    assert done.err == ""


def test_an_exception_makes_it_failed_and_goes_on_into_the_program(tmp_path: Path) -> None:
    found, done = ended(tmp_path, "with cmf.run('p/a') as run:\n    raise ValueError('no data')", code=1)
    assert (found.status, found.exit) == ("failed", 1)
    assert found.error["type"] == "ValueError"
    assert found.error["message"] == "no data"
    assert "ValueError: no data" in done.err
    with cmf.open(tmp_path) as repo:
        text = repo.read(found.error["traceback"]["$object"]).decode()
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: no data\n")


def test_an_exception_that_is_hard_to_describe_is_described_nonetheless(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "with cmf.run('p/a') as run:\n    raise ValueError('\\udcff' + 'x' * 100_000)", code=1)
    assert (found.status, found.exit, found.error["type"]) == ("failed", 1, "ValueError")
    assert len(found.error["message"]) <= 2000


def test_an_exception_that_cannot_say_what_it_is_goes_on_into_the_program(tmp_path: Path) -> None:
    text = "class Mute(Exception):\n    def __str__(self): raise RuntimeError('no words')\n"
    found, done = ended(tmp_path, f"{text}with cmf.run('p/a') as run:\n    raise Mute", code=1)
    assert (found.status, found.exit, found.error["type"]) == ("failed", 1, "Mute")
    assert done.err.splitlines()[-1].endswith("Mute: <exception str() failed>")


@pytest.mark.parametrize(
    ("said", "code", "status"),
    [("", 0, "finished"), ("0", 0, "finished"), ("3", 3, "failed"), ("'sorry'", 1, "failed")],
)
def test_an_exit_is_what_its_code_says(tmp_path: Path, said: str, code: int, status: str) -> None:
    found, _ = ended(tmp_path, f"with cmf.run('p/a') as run:\n    sys.exit({said})", code=code)
    assert (found.status, found.exit) == (status, code)


def test_a_keyboard_interrupt_makes_it_killed(tmp_path: Path) -> None:
    text = "with cmf.run('p/a') as run:\n    signal.raise_signal(signal.SIGINT)"
    found, _ = ended(tmp_path, text, code=-signal.SIGINT)
    assert (found.status, found.exit, found.error["type"]) == ("killed", 130, "KeyboardInterrupt")


def test_an_end_that_the_user_names_is_kept(tmp_path: Path) -> None:
    text = "cmf.run('p/a').finish('failed', exit=4, error={'type': 'Diverged', 'message': 'loss is nan'})"
    found, _ = ended(tmp_path, text)
    assert (found.status, found.exit, found.error) == (
        "failed",
        4,
        {"type": "Diverged", "message": "loss is nan"},
    )


def test_the_first_end_counts(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "with cmf.run('p/a') as run:\n    run.finish()\n    raise ValueError", code=1)
    assert found.status == "finished"


def test_a_run_that_nobody_ends_is_finished_when_the_program_is(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "run = cmf.run('p/a')\nrun.log({'loss': 0.5})\nrun.metrics(f1=1)")
    assert (found.status, found.exit) == ("finished", 0)
    assert found.metrics == {"loss": 0.5, "f1": 1}


def test_a_run_that_nobody_ends_fails_with_the_program(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "run = cmf.run('p/a')\nraise KeyError('lr')", code=1)
    assert (found.status, found.exit, found.error["type"]) == ("failed", 1, "KeyError")


def test_a_run_that_nobody_ends_is_killed_with_the_program(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "run = cmf.run('p/a')\nsignal.raise_signal(signal.SIGINT)", code=-signal.SIGINT)
    assert (found.status, found.exit) == ("killed", 130)


@pytest.mark.parametrize("way", ["sys.exit({})", "raise SystemExit({})", "exit({})"])
@pytest.mark.parametrize(
    ("said", "code", "status"),
    [("", 0, "finished"), ("3", 3, "failed"), ("-1", 255, "failed"), ("'sorry'", 1, "failed")],
)
def test_a_run_that_nobody_ends_ends_by_the_code_that_the_program_exits_with(
    tmp_path: Path, way: str, said: str, code: int, status: str
) -> None:
    text = f"try:\n    sys.exit(0)\nexcept SystemExit: pass\nrun = cmf.run('p/a')\n{way.format(said)}"
    found, _ = ended(tmp_path, text, code=code)
    assert (found.status, found.exit, found.error) == (status, code, {})
    assert found.ended is not None
    assert found.started is not None
    assert found.ended > found.started
    assert os.listdir(tmp_path / ".cmf" / "journal") == []


def test_an_exit_that_the_program_catches_ends_no_run(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "run = cmf.run('p/a')\ntry:\n    sys.exit(3)\nexcept SystemExit: pass")
    assert (found.status, found.exit) == ("finished", 0)


def test_an_exception_that_the_program_or_a_thread_survives_ends_no_run(tmp_path: Path) -> None:
    text = (
        "import threading\n"
        "run = cmf.run('p/a')\n"
        "try: raise KeyError('lr')\n"
        "except KeyError as error: sys.last_value, sys.last_traceback = error, error.__traceback__.tb_next\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start(); thread.join()\n"
    )
    found, _ = ended(tmp_path, text)
    assert (found.status, found.exit) == ("finished", 0)


def test_a_module_and_a_script_end_alike(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import cmf, sys\nrun = cmf.run('p/a')\nif len(sys.argv) > 1: raise SystemExit(4)"
    )
    for how in (["train.py"], ["-m", "train"]):
        for more, code in (([], 0), (["x"], 4)):
            done = subprocess.run([sys.executable, *how, *more], cwd=tmp_path, timeout=60, check=False)
            assert done.returncode == code
    with cmf.open(tmp_path) as repo:
        assert sorted((view.status, view.exit) for view in repo.executions()) == [
            *[("failed", 4)] * 2,
            *[("finished", 0)] * 2,
        ]


SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("way", ["run = cmf.run('p/a')", "run = cmf.run('p/a').__enter__()"])
def test_a_signal_kills_as_before_and_the_run_says_so(tmp_path: Path, number: signal.Signals, way: str) -> None:
    # Short sleeps: Python runs no handler for a signal that comes just before the system call, until that returns.
    text = f"{way}\nrun.log({{'loss': 0.5}})\nprint('ready', flush=True)\nwhile True: time.sleep(1)"
    with child(tmp_path, text) as process:
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == -number
    found = only(tmp_path)
    assert (found.status, found.exit, found.metrics) == ("killed", 128 + number, {"loss": 0.5})
    with cmf.open(tmp_path) as repo:
        (write,) = [
            w
            for w in repo.store.index.history(found.node)
            if w.key.startswith("status/") and w.value["status"] == "killed"
        ]
        assert write.value["signal"] == number


def test_a_programs_own_handler_of_a_signal_is_the_one_that_runs(tmp_path: Path) -> None:
    text = (
        "def mine(number, frame): sys.exit(5)\n"
        "{}\n"
        "with cmf.run('p/a') as run:\n"
        "    {}\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    install = "signal.signal(signal.SIGTERM, mine)"
    for before, within in ((install, "pass"), ("pass", install)):
        script(tmp_path, "import cmf, signal, sys\n" + text.format(before, within), code=5)
    with cmf.open(tmp_path) as repo:
        assert [(view.status, view.exit) for view in repo.executions()] == [("failed", 5)] * 2


def test_handlers_of_signals_are_there_while_a_run_is_open_and_only_then(tmp_path: Path) -> None:
    text = (
        "import faulthandler\n"
        "faulthandler.register(signal.SIGUSR1)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "every = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU)\n"
        "before = [signal.getsignal(number) for number in every]\n"
        "one, two = cmf.run('p/a'), cmf.run('p/a')\n"
        "within = [signal.getsignal(number) for number in every]\n"
        "assert [a is b for a, b in zip(before, within)] == [False, True, True, True, False]\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "one.finish()\n"
        "assert [signal.getsignal(number) for number in every] == within\n"
        "two.finish()\n"
        "assert [signal.getsignal(number) for number in every] == before\n"
        "import threading\n"
        "thread = threading.Thread(target=lambda: cmf.run('p/a').finish())\n"
        "thread.start(); thread.join()\n"
    )
    assert "most recent call first" in script(tmp_path, "import cmf, signal\n" + text).err


def test_runs_in_runs_end_each_as_its_own(tmp_path: Path) -> None:
    script(
        tmp_path,
        "import cmf\n"
        "with cmf.run('p/outer') as outer:\n"
        "    try:\n"
        "        with cmf.run('p/inner', parent=outer) as inner:\n"
        "            raise ValueError('inner')\n"
        "    except ValueError:\n"
        "        pass\n",
    )
    with cmf.open(tmp_path) as repo:
        found = {view.stage: view for view in repo.executions()}
    assert {stage: view.status for stage, view in found.items()} == {"outer": "finished", "inner": "failed"}
    assert found["inner"].parent == found["outer"].node


def test_a_killed_process_is_lost_and_what_it_recorded_a_second_before_is_there(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n" * 50)
    text = (
        "run = cmf.run('p/a', params={'lr': 0.1})\n"
        "run.input('data.csv', name='data')\n"
        "run.metrics(f1=0.5)\n"
        "run.set('title', 'long')\n"
        "for step in range(1000): run.log({'loss': step / 2}, step=step)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with child(tmp_path, text) as killed, cmf.open(tmp_path) as repo:
        wait_until(lambda: _has_points(repo))
        assert repo.executions()[0].status == "running"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        found = repo.executions()[0]
        assert (found.status, found.exit, found.ended) == ("lost", None, None)
        assert found.started is not None
        assert found.heard is not None
        assert found.heard > found.started
        assert "last heard" in command(tmp_path, "show", found.id).out
        assert "lost" in command(tmp_path, "log").out
        assert "> " in command(tmp_path, "log").out
        assert found.params == {"lr": 0.1}
        assert found.metrics == {"f1": 0.5, "loss": 499.5}
        assert found.properties["title"] == "long"
        assert [use.name for use in found.inputs] == ["data"]
        assert list(repo.series(found, "loss").values) == [step / 2 for step in range(1000)]
        assert repo.status().dropped == 0


def _has_points(repo: cmf.Repo) -> bool:
    try:
        return len(repo.series(repo.executions()[0], "loss")) == 1000
    except cmf.NotFoundError:
        return False


def test_a_process_that_ends_without_python_noticing_is_lost_and_never_finished(tmp_path: Path) -> None:
    found, _ = ended(tmp_path, "run = cmf.run('p/a')\nrun.metrics(f1=1)\nos._exit(0)")
    assert (found.status, found.metrics) == ("lost", {"f1": 1})


FORKS = {
    "exit": "    sys.exit(7)",
    "os._exit": "    os._exit(7)",
    "end": "    run.finish('failed', exit=9)\n    os._exit(7)",
    "exception": "    raise ValueError('in the child')",
}


@pytest.mark.parametrize("way", FORKS)
def test_a_forked_child_never_ends_its_parents_run(tmp_path: Path, way: str) -> None:
    text = (
        "with cmf.run('p/a') as run:\n"
        "    for step in range(10): run.log({'loss': step * 1.0}, step=step)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        f"    {FORKS[way].replace(chr(10), chr(10) + '    ')}\n"
        "    os.waitpid(child, 0)\n"
        "    with cmf.open() as repo: assert repo.executions()[0].status == 'running'\n"
        "    run.metrics(f1=0.5)\n"
    )
    found, _ = ended(tmp_path, text)
    assert (found.status, found.exit, found.metrics) == ("finished", 0, {"f1": 0.5, "loss": 9.0})
    with cmf.open(tmp_path) as repo:
        assert list(repo.series(found, "loss").steps) == list(range(10)), "the child didn't write its parent's rows"
        assert repo.status().dropped == 0
        assert repo.status().problems == []


def test_what_a_forked_child_records_of_its_parents_run_is_there_too(tmp_path: Path) -> None:
    text = (
        "with cmf.run('p/a') as run:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        run.metrics(child=1)\n"
        "        run.set('tag/by', 'child')\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    run.metrics(parent=2)\n"
    )
    found, _ = ended(tmp_path, text)
    assert found.metrics == {"child": 1, "parent": 2}
    assert found.properties["tag/by"] == "child"
    assert found.status == "finished"


def test_rows_that_a_forked_child_logs_take_none_of_its_parents_away(tmp_path: Path) -> None:
    text = (
        "with cmf.run('p/a') as run:\n"
        "    for step in range(10): run.log({'loss': step * 1.0}, step=step)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        for step in range(100, 150): run.log({'loss': step * 1.0}, step=step)\n"
        "        run.flush()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    for step in range(10, 20): run.log({'loss': step * 1.0}, step=step)\n"
    )
    found, _ = ended(tmp_path, text)
    with cmf.open(tmp_path) as repo:
        steps = set(repo.series(found, "loss").steps)
    assert steps >= set(range(20))


def test_a_run_that_a_forked_child_starts_is_its_own(tmp_path: Path) -> None:
    text = (
        "import cmf, os, sys\n"
        "run = cmf.run('p/parent')\n"
        "if os.fork() == 0:\n"
        "    own = cmf.run('p/child', parent=run)\n"
        "    own.log({'loss': 1.0})\n"
        "    sys.exit(0)\n"
        "os.wait()\n"
        "run.log({'loss': 2.0})\n"
    )
    script(tmp_path, text)
    with cmf.open(tmp_path) as repo:
        found = {view.stage: view for view in repo.executions()}
        assert {stage: view.status for stage, view in found.items()} == {"parent": "finished", "child": "finished"}
        assert {stage: view.metrics for stage, view in found.items()} == {
            "parent": {"loss": 2.0},
            "child": {"loss": 1.0},
        }


@pytest.mark.parametrize("way", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_a_forked_child_logs_in_its_last_moment_is_there(tmp_path: Path, way: str) -> None:
    text = (
        "with cmf.run('p/a') as run:\n"
        "    if os.fork() == 0:\n"
        "        for step in range(20): run.log({'loss': step}, step=step)\n"
        f"        {way}\n"
        "    os.wait()\n"
    )
    found, _ = ended(tmp_path, text)
    assert (found.status, found.exit) == ("finished", 0)
    with cmf.open(tmp_path) as repo:
        assert steps_of_every_rank(repo, found) == list(range(20))


@pytest.mark.parametrize("end", ["pool.close(); pool.join()", "pool.terminate(); pool.join()"])
def test_what_a_worker_of_multiprocessing_logs_in_its_last_moment_is_there(tmp_path: Path, end: str) -> None:
    text = (
        "import multiprocessing\n"
        "def work(step): run.log({'loss': step}, step=step)\n"
        "with cmf.run('p/a') as run:\n"
        "    pool = multiprocessing.get_context('fork').Pool(2)\n"
        "    pool.map(work, range(20))\n"
        f"    {end}\n"
    )
    found, _ = ended(tmp_path, text)
    assert found.status == "finished"
    with cmf.open(tmp_path) as repo:
        assert steps_of_every_rank(repo, found) == list(range(20))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [("pass", "finished", 0), ("sys.exit(6)", "failed", 6), ("raise KeyError('lr')", "failed", 1)],
)
def test_a_run_that_a_worker_starts_and_leaves_open_ends_as_the_worker_does(
    tmp_path: Path, body: str, status: str, code: int
) -> None:
    text = (
        "import multiprocessing\n"
        "def work():\n"
        "    run = cmf.run('p/child')\n"
        f"    {body}\n"
        "cmf.run('p/parent').finish()\n"
        "worker = multiprocessing.get_context('fork').Process(target=work)\n"
        "worker.start(); worker.join()\n"
        f"assert worker.exitcode == {code}, worker.exitcode\n"
    )
    script(tmp_path, "import cmf, sys\n" + text)
    with cmf.open(tmp_path) as repo:
        found = {view.stage: (view.status, view.exit) for view in repo.executions()}
    assert found == {"parent": ("finished", 0), "child": (status, code)}


def test_a_clock_that_is_set_back_makes_no_run_end_before_it_started(tmp_path: Path) -> None:
    text = (
        "import time\n"
        "real, back = time.time_ns, 0\n"
        "time.time_ns = lambda: real() - back\n"
        "run = cmf.run('p/a')\n"
        "run.metrics(f1=1)\n"
        "back = 3_600_000_000_000\n"
        "run.metrics(f1=2)\n"
        "run.finish()\n"
    )
    found, _ = ended(tmp_path, text)
    assert (found.status, found.metrics) == ("finished", {"f1": 2})
    assert found.started is not None
    assert found.ended is not None
    assert found.ended > found.started


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_leave_the_run_to_their_parent(tmp_path: Path, method: str) -> None:
    (tmp_path / "train.py").write_text(
        "import multiprocessing, sys\n"
        "import cmf\n"
        "def square(number):\n"
        "    return number * number\n"
        "if __name__ == '__main__':\n"
        "    with cmf.run('p/a') as run:\n"
        "        run.log({'loss': 1.0})\n"
        "        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:\n"
        "            for number in pool.map(square, range(20)): run.log({'square': number})\n"
    )
    done = subprocess.run(
        [sys.executable, "train.py", method], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = only(tmp_path)
    assert (found.status, found.exit) == ("finished", 0)
    with cmf.open(tmp_path) as repo:
        assert list(repo.series(found, "square").values) == [float(number * number) for number in range(20)]
        assert len(repo.series(found, "loss")) == 1
        assert repo.status().dropped == 0


def test_a_worker_that_outlives_the_run_never_reopens_it(tmp_path: Path) -> None:
    text = (
        "with cmf.run('p/a') as run:\n"
        "    run.log({'loss': 1.0})\n"
        "    out, into = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        os.close(into)\n"
        "        os.read(out, 1)\n"  # the parent has ended
        "        sys.exit(5)\n"
    )
    found, _ = ended(tmp_path, text)
    assert (found.status, found.exit) == ("finished", 0)
    assert os.listdir(tmp_path / ".cmf" / "journal") == []
