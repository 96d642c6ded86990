"""What the project's own files promise: hashed lists without addresses, and a Makefile that explains itself."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTS = sorted((ROOT / "requirements").glob("*.txt"))
PINNED = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; ([^\\]+))? \\$", flags=re.MULTILINE)


def pins(requirements: Path) -> dict[tuple[str, str], str]:
    """Return the version of each distribution and marker that a hashed list names."""
    found = PINNED.findall(requirements.read_text(encoding="utf-8"))
    return {(name, version): marker for name, version, marker in found}


def names_of(dependencies: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace(".", "-").replace("_", "-") for line in dependencies}


@pytest.mark.parametrize("requirements", LISTS, ids=lambda path: path.stem)
def test_every_requirement_is_pinned_and_hashed_and_none_has_an_address(requirements: Path) -> None:
    text = requirements.read_text(encoding="utf-8")
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert PINNED.match(entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_lists_agree_with_each_other() -> None:
    everything = pins(ROOT / "requirements/dev.txt").keys()
    for requirements in LISTS:
        if requirements.stem == "dvc":  # an environment of its own, where the real DVC runs
            continue
        assert pins(requirements).keys() <= everything, f"{requirements.name}: run 'make requirements'"


def test_the_lists_hold_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    core = names_of(project["project"]["dependencies"])
    hub = core | names_of(project["project"]["optional-dependencies"]["hub"])
    tools = [line for group in project["dependency-groups"].values() for line in group if isinstance(line, str)]
    for requirements, wanted in {"core": core, "hub": hub, "dev": hub | names_of(tools)}.items():
        held = {name for name, _ in pins(ROOT / f"requirements/{requirements}.txt")}
        assert wanted <= held, f"{requirements}.txt lacks {wanted - held}: run 'make requirements'"


def test_no_lock_file_with_download_addresses_is_in_the_tree() -> None:
    assert not [name for name in ("uv.lock", "poetry.lock", "pdm.lock", "pylock.toml") if (ROOT / name).exists()]


def test_the_lock_of_what_tests_take_from_npm_has_a_hash_for_each_package_and_no_address() -> None:
    folder = ROOT / "tests" / "npm"
    packages = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert packages.pop("")["dependencies"] == json.loads((folder / "package.json").read_text())["dependencies"]
    ours = {"absent", *(name for name, package in packages.items() if package.get("link"))}
    assert {package.get("resolved", "absent") for package in packages.values()} == {"absent"}
    assert not [name for name in packages.keys() - ours if not packages[name]["integrity"].startswith("sha512-")]


def test_make_without_a_target_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: ([a-z-]+)$", makefile, flags=re.MULTILINE))
    done = subprocess.run(["make", "--no-print-directory"], check=True, text=True, capture_output=True, cwd=ROOT)
    explained = {line.split()[1] for line in done.stdout.splitlines() if len(line.split()) > 2}
    assert explained == targets
    assert {"demo", "test", "check", "bench", "bench-peers", "requirements", "clean", "help"} <= targets
