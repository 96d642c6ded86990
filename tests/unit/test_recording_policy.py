"""A policy given by argument or by rule, as a script and `cmf status` and `cmf verify` see it."""

from pathlib import Path

import pytest

from tests.commands import cmf, script

RECORD = """
import cmf
with cmf.run("p/train") as run:
    run.output("left.bin", policy="reference", name="left", note="mine")
    run.output("kept.bin", name="kept")
    try:
        run.output("kept.bin", policy="lend")
    except cmf.UsageError as error:
        print(error.message, error.hint)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("left.bin", "kept.bin"):
        (tmp_path / name).write_bytes(name.encode() * 50_000)
    return tmp_path


def test_a_reference_is_recorded_as_such_and_a_later_change_is_noticed(project: Path) -> None:
    done = script(project, RECORD)
    assert done.out.strip() == "'lend' is no policy. It is one of copy, link, reference."
    found = cmf(project, "show", "left", "--json").json["artifact"]
    assert found["uses"][0]["attributes"] == {"note": "mine", "policy": "reference"}
    status = cmf(project, "status", "--json").json
    assert (status["references"], status["drifted"]) == (1, [])
    assert "1 reference to data that no copy was kept of" in cmf(project, "status").out
    assert "all good" in cmf(project, "verify").out
    (project / "kept.bin").write_bytes(b"changed, but a copy is kept")
    (project / "left.bin").write_bytes(b"changed")
    (drifted,) = cmf(project, "status", "--json").json["drifted"]
    assert (drifted["path"], drifted["state"]) == ("left.bin", "changed")
    assert "left.bin changed since it was recorded" in cmf(project, "status").out
    assert "file left.bin: changed since it was recorded as sha256:" in cmf(project, "verify", code=5).out
    (project / "left.bin").unlink()
    assert "left.bin gone since it was recorded" in cmf(project, "status").out


def test_what_was_recorded_last_at_a_path_counts(project: Path) -> None:
    script(project, RECORD)
    (project / "left.bin").write_bytes(b"a new version" * 9_999)
    script(project, RECORD)
    status = cmf(project, "status", "--json").json
    assert (status["references"], status["drifted"]) == (1, [])


def test_rules_in_the_settings_hold_for_what_is_recorded(project: Path) -> None:
    (project / ".cmf").mkdir()
    (project / ".cmf" / "config.yaml").write_text(
        "v: 1\ndata:\n  - path: left.bin\n    policy: reference\n  - policy: link\n    bytes_min: 300000\n"
    )
    script(
        project,
        "import cmf\nwith cmf.run('p/train') as run:\n    run.output('left.bin')\n    run.input('kept.bin')\n"
        "    run.output('left.bin', policy='copy', name='copied')\n",
    )
    status = cmf(project, "status", "--json").json
    assert status["references"] == 1
    assert (project / "kept.bin").stat().st_nlink == 2
    assert not (project / "kept.bin").stat().st_mode & 0o222
    cmf(project, "verify")


def test_a_wrong_rule_is_said_and_recording_goes_on(project: Path) -> None:
    (project / ".cmf").mkdir()
    (project / ".cmf" / "config.yaml").write_text("v: 1\ndata:\n  - policy: lend\n")
    done = script(project, "import cmf\nwith cmf.run('p/train') as run:\n    run.output('kept.bin')\n")
    assert "holds a wrong setting" in done.err
    assert "data[0].policy" in cmf(project, "status", code=5).err
