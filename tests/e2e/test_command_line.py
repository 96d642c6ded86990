"""What a person types at one site, with real processes: record, ask, and be told clearly what is wrong."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import cmf, script
from tests.hubs import running
from tests.objects import flip

TRAIN = """
import sys, json
print("training with", sys.argv[1:])
open("model.bin", "w").write("weights" * 50)
json.dump({"f1": 0.9}, open("scores.json", "w"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "data.csv").write_text("1,2\n" * 100)
    return folder


def recorded(project: Path) -> None:
    """Record two stages: one with the command, one with the API."""
    cmf(project, "init", "--site", "lab")
    cmf(project, "run", "--param", "lr=0.1", "--", sys.executable, "train.py", "--lr", "0.1")
    script(
        project,
        """
import cmf
with cmf.run("detector/evaluate", params={"k": 3}) as run:
    run.input("model.bin")
    for step in range(20):
        run.log({"loss": 1 / (step + 1)}, step=step)
    open("report.txt", "w").write("report " * 20)
    run.output("report.txt", name="report", type="metrics")
    run.metrics({"f1": 0.91})
    run.label("best")
""",
    )


def test_a_command_is_recorded_without_a_change_to_its_code(project: Path) -> None:
    done = cmf(project, "run", "--param", "lr=0.1", "--name", "first", "--", sys.executable, "train.py", "--lr", "0.1")
    assert done.out == "training with ['--lr', '0.1']\n", "its output is its own"
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert found["scope"] == "detector/train"
    assert found["name"] == "first"
    assert found["status"] == "finished"
    assert found["exit"] == 0
    assert found["params"] == {"lr": 0.1}
    assert found["command"][1:] == ["train.py", "--lr", "0.1"]
    assert sorted(use["path"] for use in found["outputs"]) == ["model.bin", "scores.json"]
    assert found["environment"].startswith("sha256:")
    assert found["duration"] >= 0


def test_a_commands_exit_code_is_passed_on_and_recorded(project: Path) -> None:
    cmf(project, "run", "--", sys.executable, "-c", "raise SystemExit(7)", code=7)
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert (found["status"], found["exit"]) == ("failed", 7)


def test_a_command_that_is_killed_is_recorded_as_killed(project: Path) -> None:
    cmf(project, "run", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", code=137)
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert (found["status"], found["exit"]) == ("killed", 137)


def test_a_termination_reaches_the_command_which_may_end_in_its_own_way(project: Path) -> None:
    text = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').write('x' * 80), sys.exit(5)))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "cmf", "run", "--", sys.executable, "-c", text],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 5
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert (found["status"], found["exit"]) == ("failed", 5)
    assert [use["path"] for use in found["outputs"]] == ["saved"]


def test_ignored_files_are_no_outputs(project: Path) -> None:
    (project / ".cmfignore").write_text("*.tmp\nscratch/\n")
    text = "import os; os.mkdir('scratch'); [open(n, 'w').write('x') for n in ('a.tmp', 'scratch/b', 'kept')]"
    cmf(project, "run", "--", sys.executable, "-c", text)
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert [use["path"] for use in found["outputs"]] == ["kept"]


def test_the_log_is_newest_first_filtered_and_paged(project: Path) -> None:
    recorded(project)
    found = cmf(project, "log", "--json").json["executions"]
    assert [view["stage"] for view in found] == ["evaluate", "train"]
    assert [view["site"] for view in found] == ["lab", "lab"]
    only = cmf(project, "log", "metrics.f1 > 0.9 and params.k = 3", "--json").json["executions"]
    assert [view["stage"] for view in only] == ["evaluate"]
    assert cmf(project, "log", "metrics.f1 > 0.95").out == "No execution matches.\n"
    page = cmf(project, "log", "-n", "1", "--json").json
    rest = cmf(project, "log", "-n", "1", "--cursor", page["cursor"], "--json").json
    assert [page["executions"][0]["stage"], rest["executions"][0]["stage"]] == ["evaluate", "train"]
    assert rest["cursor"] == ""
    assert "f1 0.91" in cmf(project, "log").out


def test_names_labels_paths_digests_and_short_ids_all_lead_to_the_same(project: Path) -> None:
    recorded(project)
    report = cmf(project, "show", "report", "--json").json
    digest = report["artifact"]["digest"]
    for name in ("report@best", "detector:report", "report.txt", digest, digest[:15]):
        assert cmf(project, "show", name, "--json").json["artifact"]["digest"] == digest
    evaluate = report["execution"]
    for name in (evaluate["id"], evaluate["short"], evaluate["id"][:20], evaluate["name"], evaluate["node"]):
        assert cmf(project, "show", name, "--json").json["id"] == evaluate["id"]
    assert cmf(project, "show", evaluate["short"], "--json").json["series"] == ["loss"]
    history = cmf(project, "show", evaluate["short"], "--history", "--json").json
    assert "metric/f1" in {write["key"] for write in history}


def test_lineage_goes_up_and_down_through_files(project: Path) -> None:
    recorded(project)
    up = cmf(project, "lineage", "report", "--json").json
    assert [step["how"] for step in up["steps"]] == ["via"]
    assert "detector/train" in cmf(project, "lineage", "report").out
    assert "detector/evaluate" in cmf(project, "lineage", "model.bin", "--down").out


def test_a_step_metric_is_drawn_and_given_as_columns(project: Path) -> None:
    recorded(project)
    (found,) = cmf(project, "log", "--json", "stage = evaluate").json["executions"]
    chart = cmf(project, "show", found["id"], "--series", "loss").out.splitlines()
    assert chart[0] == "loss"
    assert chart[1].split()[0] == "1", "the greatest value is at the top"
    assert chart[-2].split()[0] == "0.05", "and the least at the bottom"
    assert chart[-1].split() == ["0", "19"]
    assert {len(line) for line in chart[1:-1]} == {len(chart[1])}
    found = cmf(project, "show", found["id"], "--series", "loss", "--json", "--points", "8").json
    assert found["steps"][0] == 0
    assert found["steps"][-1] == 19
    assert found["values"] == [1 / (step + 1) for step in found["steps"]]
    assert len(found["times"]) == len(found["steps"]) <= 8


@pytest.mark.parametrize("values", ["[1e308, -1e308]", "[float('nan')]", "[5e-324, 0.0]", "[2.0]", "[float('inf'), 1]"])
def test_odd_values_are_drawn_without_a_fault(project: Path, values: str) -> None:
    script(project, f"import cmf\nwith cmf.run('p/odd') as run:\n  [run.log({{'x': v}}) for v in {values}]")
    (found,) = cmf(project, "log", "--json").json["executions"]
    assert cmf(project, "show", found["id"], "--series", "x").out.startswith("x")
    assert len(cmf(project, "show", found["id"], "--series", "x", "--json").json["values"]) == values.count(",") + 1


def test_status_tells_what_waits_and_verify_that_all_is_well(project: Path) -> None:
    recorded(project)
    status = cmf(project, "status", "--json").json
    assert status["site"] == "lab"
    assert status["counts"]["execution"] == 2
    assert status["counts"]["pending"] > 0
    assert "waiting to be sealed" in cmf(project, "status").out
    assert "all good" in cmf(project, "verify").out


def test_a_flipped_byte_in_an_object_is_found_and_named(project: Path) -> None:
    recorded(project)
    digest = cmf(project, "show", "report", "--json").json["artifact"]["digest"]
    flip(project / ".cmf" / "objects", digest, at=3)
    done = cmf(project, "verify", code=5)
    assert digest in done.out


MISTAKES = [
    (("frobnicate",), 2, "no command 'frobnicate'"),
    (("lgo",), 2, "Did you mean 'cmf log'"),
    (("log", "--frob"), 2, "--frob"),
    (("log", "metrics.f1 >"), 2, "not a comparison"),
    (("log", "colour = red"), 2, "'colour' is not a field"),
    (("log", "--cursor", "xyz"), 2, "not a page's cursor"),
    (("show", "nothing-like-this"), 3, "Nothing here is called"),
    (("show",), 2, "NAME"),
    (("lineage", "sha256:abcdef"), 3, "Nothing here is called"),
    (("run", "--scope", "bad scope/x!", "--", "true"), 2, "is not a scope"),
    (("run", "--param", "novalue", "--", "true"), 2, "is not a parameter"),
    (("push",), 3, "no remote 'origin'"),
    (("push", "nowhere"), 3, "no remote 'nowhere'"),
    (("pull", "--scope", "a/*", "--ancestors", "x"), 2, "go with no other choice"),
    (("remote", "add", "origin", "ftp://somewhere"), 2, "no remote that cmf can use"),
    (("remote", "add", "origin", "hub.example.org"), 2, "A hub is https://hub.example.org; a folder that the"),
    (("remote", "remove", "origin"), 3, "no remote 'origin'"),
    (("init", "--site", "not a name"), 2, "not a site's name"),
    (("init", "no/such/folder"), 3, "There is no folder"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES, ids=[" ".join(case[0])[:30] for case in MISTAKES])
def test_a_mistake_gets_one_clear_sentence_and_its_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    cmf(tmp_path, "init")
    done = cmf(tmp_path, *arguments, code=code)
    assert said in done.err
    assert done.err.startswith("cmf: ")
    assert len(done.err.splitlines()) <= 3
    assert "Traceback" not in done.err


def test_without_a_store_every_question_says_how_to_get_one(tmp_path: Path) -> None:
    for command in (("log",), ("status",), ("verify",), ("show", "x")):
        done = cmf(tmp_path, *command, code=3)
        assert "There is no store" in done.err
    assert not (tmp_path / ".cmf").exists(), "asking makes nothing"


def test_a_hub_that_is_down_is_said_to_be_and_nothing_is_lost(project: Path) -> None:
    recorded(project)
    cmf(project, "remote", "add", "origin", "http://127.0.0.1:9")
    for command in ("push", "pull"):
        done = cmf(project, command, code=7)
        assert "The hub http://127.0.0.1:9 cannot be reached: nothing answers there." in done.err
    with running(project / "hub", project / "state") as hub:
        cmf(project, "remote", "add", "origin", hub.url.replace("http:", "https:"))
        assert "cannot be reached: TLS failed (" in cmf(project, "push", code=7).err
    assert len(cmf(project, "log", "--json").json["executions"]) == 2


@pytest.mark.parametrize(
    ("file", "damage", "code", "said"),
    [
        ("store.db", b"this is not a database, and it never was one", 5, "is damaged"),
        ("config.yaml", b"site: [", 5, "not valid YAML"),
        ("config.yaml", b"v: 99\n", 8, "Upgrade cmf"),
        ("config.yaml", b"colour: red\n", 5, "wrong setting"),
        ("site", b"{}", 5, "is damaged"),
    ],
)
def test_a_damaged_store_is_named_and_left_as_it_is(
    project: Path, file: str, damage: bytes, code: int, said: str
) -> None:
    recorded(project)
    path = project / ".cmf" / file
    for beside in (path.with_name("store.db-wal"), path.with_name("store.db-shm")):
        if file == "store.db":
            beside.unlink(missing_ok=True)
    path.write_bytes(damage)
    done = cmf(project, "log", code=code)
    assert said.lower() in done.err.lower()
    assert path.read_bytes() == damage


def test_a_database_of_a_newer_version_is_left_alone(project: Path) -> None:
    import sqlite3

    recorded(project)
    cmf(project, "log")
    connection = sqlite3.connect(project / ".cmf" / "store.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    done = cmf(project, "log", code=8)
    assert "Upgrade cmf" in done.err


def test_a_full_disk_is_said_to_be_full_and_nothing_is_lost(project: Path) -> None:
    """A limit on the size of files stands for the full disk: the collector's write fails as on one."""
    script(
        project,
        "import cmf\nfor i in range(30):\n    with cmf.run('p/t') as run:\n        run.metrics({'i': i})\n",
    )
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "sys.argv = ['cmf', 'log']; from cmf.cli import main; main()"
    )
    done = script(project, limited, code=7)
    assert "full" in done.err
    assert "Traceback" not in done.err
    assert len(cmf(project, "log", "-n", "100", "--json").json["executions"]) == 30


def test_help_teaches_every_command(tmp_path: Path) -> None:
    names = [
        line.split()[0] for line in cmf(tmp_path, "--help").out.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert "lineage" in names
    for name in names:
        said = cmf(tmp_path, name, "--help").out
        assert said.startswith("Usage: cmf")
        assert len(said.splitlines()) > 4


def test_output_that_nobody_reads_ends_quietly(project: Path) -> None:
    recorded(project)
    command = f"{sys.executable} -m cmf log --json | true"
    done = subprocess.run(["sh", "-c", command], cwd=project, capture_output=True, text=True, check=False, timeout=30)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_json_says_infinity_and_nan_as_records_do(tmp_path: Path) -> None:
    script(tmp_path, "import cmf\nwith cmf.run('a/b', params={'x': float('inf')}) as run: run.metrics(m=float('nan'))")
    (found,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert (found["params"], found["metrics"]) == ({"x": {"$f": "inf"}}, {"m": {"$f": "nan"}})
