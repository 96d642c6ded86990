"""What an install of the core brings along, weighs and loads."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS_MAX = 15
SIZE_BYTES_MAX = 30_000_000
HEAVY_FOR_IMPORT = ("asyncio", "litestar", "rich", "ruamel", "urllib3")
HEAVY_FOR_VERSION = ("litestar", "rich", "urllib3", "uvicorn")
LICENCES_ALLOWED = {
    "Apache Software License",
    "Apache-2.0",
    "Apache-2.0 OR BSD-2-Clause",
    "BSD License",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "MIT License",
    "MIT-0",
    "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)",
    "PSF-2.0",
}

# One process builds the wheel and installs it, whatever number of them share the tests.
pytestmark = pytest.mark.xdist_group("footprint")


def run(*command: str | Path) -> str:
    """Run a command in the project's folder and return what it printed; fail with what it said."""
    done = subprocess.run([str(part) for part in command], check=False, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's wheel, as a release would."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, "--target", "wheel")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the core from its hashed list, and the wheel, where nothing else is; return the environment."""
    environment = tmp_path_factory.mktemp("core")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        environment / "bin/python",
    )
    try:
        run(*pip, "install", "--require-hashes", "--requirement", "requirements/core.txt")
    except AssertionError as failure:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"The core could not be installed here, which CI requires: {failure}")
    run(*pip, "install", "--no-deps", wheel)
    return environment


def site_packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python*/site-packages")
    return folder


def modules_after(statement: str, python: str | Path) -> set[str]:
    """Return the top-level modules that a fresh process has loaded after a statement."""
    script = (
        "import sys\n"
        "try:\n"
        f"    {statement}\n"
        "finally:\n"
        "    print('\\nloaded', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    return set(run(python, "-c", script).splitlines()[-1].split()[1:])


def listed(requirements: Path) -> Iterable[str]:
    return re.findall(r"^([A-Za-z0-9._-]+)==", requirements.read_text(encoding="utf-8"), flags=re.MULTILINE)


def licences(about: metadata.PackageMetadata) -> list[str]:
    """Return what a distribution says of its licence: the expression, else the classifiers, else the first line."""
    if "License-Expression" in about:
        return about["License-Expression"].split(" AND ")
    classifiers = about.get_all("Classifier") or []
    named = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: OSI Approved ::")]
    return named or (about["License"].splitlines()[:1] if "License" in about else ["none"])


def test_the_core_installs_at_most_fifteen_distributions(core: Path) -> None:
    names = {found.metadata["Name"] for found in metadata.distributions(path=[str(site_packages(core))])}
    assert "common-metadata-framework" in names
    assert len(names) <= DISTRIBUTIONS_MAX, sorted(names)


def test_the_core_weighs_less_than_thirty_megabytes_with_bytecode_and_our_wheel(core: Path) -> None:
    sizes = {path: path.stat().st_size for path in site_packages(core).rglob("*") if path.is_file()}
    assert any(path.suffix == ".pyc" and "cmf" in path.parts for path in sizes), "pip left no bytecode"
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert sum(sizes.values()) < SIZE_BYTES_MAX, heaviest


def test_importing_cmf_loads_nothing_heavy() -> None:
    loaded = modules_after("import cmf", sys.executable)
    assert "cmf" in loaded
    assert loaded.isdisjoint(HEAVY_FOR_IMPORT), loaded.intersection(HEAVY_FOR_IMPORT)


def test_the_command_tells_its_version_without_loading_anything_heavy() -> None:
    loaded = modules_after("sys.argv = ['cmf', '--version']; import cmf.cli; cmf.cli.main()", sys.executable)
    assert loaded.isdisjoint(HEAVY_FOR_VERSION), loaded.intersection(HEAVY_FOR_VERSION)


def test_the_command_works_with_the_core_alone(core: Path) -> None:
    assert metadata.version("common-metadata-framework") in run(core / "bin/cmf", "--version")
    assert "Usage" in run(core / "bin/cmf", "--help")


def test_the_wheel_carries_its_licence_and_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "cmf/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert not [name for name in names if not name.startswith(("cmf/", "common_metadata_framework-"))]


@pytest.mark.parametrize("requirements", ["core.txt", "hub.txt"])
def test_everything_that_is_installed_has_a_licence_that_allows_it(requirements: str) -> None:
    refused = {}
    for name in listed(ROOT / "requirements" / requirements):
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # a marker says that this platform or this Python doesn't need it
        if not LICENCES_ALLOWED.issuperset(licences(about)):
            refused[name] = licences(about)
    assert not refused
