"""Where the bytes are and what they cost, as a person asks and frees: with a folder and a real hub as remotes."""

from pathlib import Path

import pytest

from tests.commands import cmf, script
from tests.hubs import running

RECORD = """
from pathlib import Path
import cmf
Path("images").mkdir(exist_ok=True)
for n in range(5):
    Path("images", f"{n}.txt").write_text(f"image {n} " * 50)
Path("model.bin").write_bytes(bytes(range(256)) * 20_000)
with cmf.run("lab/train", name="first") as run:
    run.input("images", name="images")
    run.output("model.bin", name="model", type="model")
"""


def test_show_tells_where_the_bytes_are_and_which_site_had_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab, edge = tmp_path / "lab", tmp_path / "edge"
        for place in (lab, edge):
            place.mkdir()
            cmf(place, "init", "--site", place.name)
            cmf(place, "remote", "add", "origin", hub.url)
            cmf(place, "remote", "add", "disk", str(tmp_path / "disk"))
        script(lab, RECORD)
        assert "bytes       here\n" in cmf(lab, "show", "model").out
        cmf(lab, "push", "disk")
        assert "here · disk (checked just now)" in cmf(lab, "show", "model").out
        assert "here · disk (checked just now)" in cmf(lab, "show", "images").out
        cmf(lab, "push", "--data")
        assert {place["name"] for place in cmf(lab, "show", "model", "--json").json["whereabouts"]["places"]} == {
            *("here", "disk", "origin")
        }
        cmf(edge, "pull")
        said = cmf(edge, "show", "model").out
        assert "bytes       not here, and at no remote that was asked · recorded at lab (" in said, said
        cmf(edge, "pull", "disk")
        assert "bytes       here · disk (checked just now) · recorded at lab (" in cmf(edge, "show", "model").out
