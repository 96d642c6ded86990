"""The files that run a hub: no engine runs here, so they are read, and what they name is held against the command."""

import configparser
import json
import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from cmf.cli.hub import serve

ROOT = Path(__file__).resolve().parents[2]


def options() -> str:
    return CliRunner().invoke(serve, ["--help"]).output


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "deploy" / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def known(words: list[str]) -> None:
    assert words[1:3] == ["hub", "serve"]
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", options()), word


def test_the_unit_runs_the_command_as_a_user_of_its_own() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read(ROOT / "deploy" / "cmf-hub.service")
    assert {"Unit", "Service", "Install"} == set(unit.sections())
    service = unit["Service"]
    known(shlex.split(service["ExecStart"]))
    assert service["User"] not in ("", "root")
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"


def test_the_container_runs_the_command_as_a_user_of_its_own() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert set(names) <= {
        "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"
    }  # fmt: skip
    assert names.index("USER") < names.index("CMD")
    known(json.loads(dict(found)["CMD"]))
    for name, rest in found:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
    health = dict(found)["HEALTHCHECK"]
    assert "/v1/ready" in json.loads(health[health.index("[") :])[2]
