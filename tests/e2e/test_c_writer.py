"""The C writer, `cmf.h`, compiled by the system's compilers: a C program says of its run what Python would."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cmf
from cmf import journal
from tests.commands import cmf as command
from tests.commands import run as start
from tests.commands import script

INCLUDE = Path(cmf.__file__).parent / "include"
SOURCE = Path(__file__).parent / "writer.c"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "any-language.md"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
COMPILERS = {
    "c": ("cc", "-std=c99", "-Wpedantic", *WARNINGS),
    "c++": ("c++", "-x", "c++", "-std=c++11", *WARNINGS),
}


@pytest.fixture(scope="module", params=COMPILERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler, *options = COMPILERS[request.param]
    if shutil.which(compiler) is None:
        pytest.fail(f"There is no compiler '{compiler}' on this machine: install gcc, g++ and the C library's headers.")
    made = tmp_path_factory.mktemp("built") / "writer"
    done = subprocess.run(
        [compiler, *options, "-O1", f"-I{INCLUDE}", str(SOURCE), "-o", str(made)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(made)


def run_python(folder: Path, body: str) -> None:
    script(folder, f"import cmf, os, subprocess, sys\nwith cmf.run('c/train') as run:\n{body}")


def test_a_child_of_a_python_run_records_what_python_would(tmp_path: Path, program: str) -> None:
    (tmp_path / "data.csv").write_bytes(b"1,2\n" * 50)
    (tmp_path / "model.bin").write_bytes(b"w" * 100_000)
    run_python(tmp_path, f"    subprocess.run([{program!r}, 'story'], check=True)\n")
    look_at_the_story(tmp_path)


def test_a_program_under_cmf_run_records_what_python_would(tmp_path: Path, program: str) -> None:
    (tmp_path / "data.csv").write_bytes(b"1,2\n" * 50)
    (tmp_path / "model.bin").write_bytes(b"w" * 100_000)
    command(tmp_path, "run", "--scope", "c/train", "--", program, "story")
    look_at_the_story(tmp_path)


def look_at_the_story(folder: Path) -> None:
    with cmf.open(folder) as here:
        (view,) = here.executions()
        assert view.status == "finished"
        assert view.params["lr"] == 0.1
        assert view.params["layers"] == 3
        assert view.params["optimizer"] == "adam"
        assert view.metrics["f1"] == 0.5
        loss, accuracy = here.series(view, "loss"), here.series(view, "accuracy")
        assert list(loss.steps) == list(range(11))
        assert list(loss.values) == [1 / (i + 1) for i in range(10)] + [0.0]
        assert list(accuracy.values) == [float(i) for i in range(11)]
        used = [(use.path, use.type, use.artifact) for use in view.inputs if use.path == "data.csv"]
        assert used == [("data.csv", "dataset", digest_of(b"1,2\n" * 50))]
        made = [(use.path, use.type, use.artifact) for use in view.outputs if use.path == "model.bin"]
        assert made == [("model.bin", "model", digest_of(b"w" * 100_000))]
        assert here.execution("detector").id == view.id
    command(folder, "verify")


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 65_535, 65_536, 65_537])
def test_files_of_every_size_have_their_hash(tmp_path: Path, program: str, size: int) -> None:
    for name in ("data.csv", "model.bin"):
        (tmp_path / name).write_bytes(name[:1].encode() * size)
    run_python(tmp_path, f"    subprocess.run([{program!r}, 'story'], check=True)\n")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert [use.artifact for use in view.outputs] == [digest_of(b"m" * size)]


def test_odd_texts_and_numbers_are_what_they_were(tmp_path: Path, program: str) -> None:
    run_python(tmp_path, f"    subprocess.run([{program!r}, 'odd'], check=True)\n")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.params["ascii"] == "".join(map(chr, range(1, 128)))
        assert view.params['say"so\\\né'] == "€ 😀 \uffff"
        assert repr(view.metrics["nan"]) == "nan"
        assert view.metrics["inf"] == float("inf")
        assert view.metrics["ninf"] == -float("inf")
        assert view.metrics["large"] == 9007199254740994.0
        assert (view.metrics["huge"], view.metrics["tiny"], view.metrics["third"]) == (1e300, 5e-324, 1 / 3)
        assert view.metrics["a" * 505] == 1
    command(tmp_path, "verify")


def test_what_no_record_can_hold_is_refused(tmp_path: Path, program: str) -> None:
    run_python(tmp_path, f"    subprocess.run([{program!r}, 'refused'], check=True)\n")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert not view.params
        assert not view.metrics
        assert view.status == "finished"


def test_outside_a_run_all_of_it_does_nothing(tmp_path: Path, program: str) -> None:
    for told in ("", "x", "a/b:c:d:relative", "a/b:01a21014-c82c-7c3d-98c7-c663be9a4b5f:1-00000000:/nowhere/.cmf"):
        done = start([program, "outside"], tmp_path, env={"CMF_RUN": told})
        assert done.out + done.err == ""
    assert not list(tmp_path.iterdir())


def test_a_hundred_thousand_rows_come_back(tmp_path: Path, program: str) -> None:
    run_python(tmp_path, f"    subprocess.run([{program!r}, 'rows', '100000'], check=True)\n")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        points = here.series(view, "loss")
        assert list(points.steps) == list(range(100_000))
        assert list(points.values) == [i / 2 for i in range(100_000)]


def test_many_programs_at_once_lose_no_row(tmp_path: Path, program: str) -> None:
    run_python(
        tmp_path,
        f"    all = [subprocess.Popen([{program!r}, 'rows', '1000'], stdout=subprocess.PIPE) for _ in range(16)]\n"
        "    print(*(int(one.communicate()[0]) for one in all), file=open('ranks', 'w'))\n"
        "    assert not any(one.wait() for one in all)\n",
    )
    ranks = [int(rank) for rank in (tmp_path / "ranks").read_text().split()]
    assert len(set(ranks)) == 16
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        for rank in ranks:
            assert list(here.series(view, "loss", rank=rank).steps) == list(range(1000))


def test_a_forked_child_writes_nothing_that_is_its_parents(tmp_path: Path, program: str) -> None:
    run_python(tmp_path, f"    subprocess.run([{program!r}, 'forked'], check=True)\n")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.metrics == {"child": 1, "loss": 7.0}
        assert list(here.series(view, "loss").values) == [7.0]


def test_a_program_that_is_killed_loses_nothing_that_was_written(tmp_path: Path, program: str) -> None:
    run_python(
        tmp_path,
        f"    child = subprocess.Popen([{program!r}, 'killed', '5000'], stdout=subprocess.PIPE)\n"
        "    assert child.stdout.readline() == b'flushed\\n'\n"
        f"    child.kill()\n    assert child.wait() == -{int(signal.SIGKILL)}\n    run.metrics(after=1)\n",
    )
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.status == "finished"
        assert view.metrics["after"] == 1
        points = here.series(view, "loss")
        assert list(points.values[:5000]) == [i / 2 for i in range(5000)]
        assert set(points.values[5000:]) <= {-1.0}
        assert list(points.steps) == list(range(len(points.steps)))
    command(tmp_path, "verify")


def test_a_frame_that_a_full_disk_cut_short_is_taken_back(tmp_path: Path, program: str) -> None:
    (tmp_path / "limited.sh").write_text(f"ulimit -f 1\ntrap '' XFSZ\nexec {program} torn 500\n")
    run_python(tmp_path, "    subprocess.run(['bash', 'limited.sh'], check=True)\n    run.metrics(after=1)\n")
    for path in (tmp_path / ".cmf" / "journal").glob("*.j"):
        found = list(journal.frames(path))
        assert found[-1].end == path.stat().st_size
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.metrics == {"kept": 1, "after": 1}
        assert view.status == "finished"


def test_the_journal_names_its_process_as_python_does(tmp_path: Path, program: str) -> None:
    run_python(
        tmp_path,
        "    from cmf.worktree import machine\n    print(machine.process().host, file=open('host', 'w'))\n"
        f"    child = subprocess.Popen([{program!r}, 'killed', '10'], stdout=subprocess.PIPE)\n"
        "    child.stdout.readline()\n"
        "    from cmf import journal\n    import pathlib\n"
        "    (path,) = pathlib.Path('.cmf/journal').glob(f'*-{child.pid}-*.j')\n"
        "    frame = next(journal.frames(path))\n"
        "    process = journal.parse_open(frame.payload)\n"
        "    mine = machine.process()\n"
        "    assert machine.alive(process) is True\n"
        "    child.kill(); child.wait()\n"
        "    assert machine.alive(process) is False\n"
        "    assert (process.host, process.boot, process.space, process.uid) == "
        "(mine.host, mine.boot, mine.space, mine.uid)\n"
        "    assert path.name.startswith(f'{journal.host_in_name(mine.host)}-{child.pid}-{process.start}-')\n"
        "    import msgspec\n    from cmf.model import encoding\n"
        "    assert encoding.encode({**msgspec.to_builtins(process), 'v': 1}) == frame.payload\n",
    )


def test_a_header_that_comes_too_late_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "late.c").write_text('#include <stdio.h>\n#include "cmf.h"\nint main(void) { return 0; }\n')
    compile_late = ["cc", "-std=c99", f"-I{INCLUDE}", "late.c", "-o", "late"]
    said = start(compile_late, tmp_path, code=1).err
    assert "Include cmf.h before any other header" in said
    start([*compile_late, "-D_XOPEN_SOURCE=700"], tmp_path)


def test_numbers_are_json_where_the_language_of_the_program_has_a_decimal_comma(tmp_path: Path) -> None:
    # Few machines have such a locale installed, so the C library's own function is made to speak as in one.
    text = """
    #define _XOPEN_SOURCE 700
    #include <stdarg.h>
    #include <stdio.h>
    #include <string.h>
    static int in_german(char *at, size_t room, const char *format, ...) {
        va_list values;
        int size;
        va_start(values, format);
        size = vsnprintf(at, room, format, values);
        va_end(values);
        if (strstr(format, "%.*g") && strchr(at, '.')) *strchr(at, '.') = ',';
        return size;
    }
    #define snprintf in_german
    #include "cmf.h"
    int main(void) {
        cmf_run run;
        return cmf_open(&run) || cmf_metric(&run, "half", 0.5) || cmf_metric(&run, "tiny", -1.25e-7) || cmf_close(&run);
    }
    """
    (tmp_path / "comma.c").write_text(text)
    start(["cc", "-std=c99", f"-I{INCLUDE}", "comma.c", "-o", "comma"], tmp_path)
    run_python(tmp_path, "    subprocess.run(['./comma'], check=True)\n")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.metrics == {"half": 0.5, "tiny": -1.25e-7}


def test_the_header_lies_where_the_documentation_says(tmp_path: Path) -> None:
    done = start(
        [sys.executable, "-c", "import cmf, pathlib; print(pathlib.Path(cmf.__file__).parent / 'include')"], tmp_path
    )
    assert os.listdir(done.out.strip()) == ["cmf.h"]


@pytest.mark.parametrize("compiler", ["cc -std=c99", "c++ -x c++ -std=c++11"])
def test_the_program_on_the_page_does_what_it_says(tmp_path: Path, compiler: str) -> None:
    (tmp_path / "train.c").write_text(block("c"))
    (tmp_path / "sheep.csv").write_text("1\n")
    start([*compiler.split(), f"-I{INCLUDE}", "train.c", "-o", "train"], tmp_path)
    command(tmp_path, "run", "--scope", "farm/train", "--", "./train")
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.params["optimizer"] == "adam"
        assert view.metrics["final loss"] == 0.001
        assert len(here.series(view, "accuracy")) == 1000


def test_the_shell_steps_on_the_page_do_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "sheep.csv").write_text("b\na\n")
    (tmp_path / "steps.sh").write_text(block("sh"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command(tmp_path, "run", "--scope", "farm/sort", "--", "sh", "-e", "steps.sh", env={"PATH": path})
    with cmf.open(tmp_path) as here:
        view = here.execution("sorted")
        assert (view.params["threads"], view.params["codec"]) == (4, "zstd")
        assert [use.path for use in view.inputs if use.type] == ["sheep.csv"]
        assert view.metrics["rows"] == 3


def block(language: str) -> str:
    """Return the first block of the page in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]
