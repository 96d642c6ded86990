"""What every test stands on: a home of its own, a clean environment, and Hypothesis's profiles."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.hubs import HubProcess, running
from tests.sshd import Sshd

# A contract suite or a reference that tests import explains its assertions as the tests do.
pytest.register_assert_rewrite(*(f"tests.{path.name}" for path in Path(__file__).parent.iterdir() if path.is_dir()))

# Milliseconds are a benchmark, never a test: no deadline, and a slow machine is no finding.
settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# What a person, a scheduler or an outer git may have set, and what CMF would read.
FOREIGN_PREFIXES = (
    *("CMF_", "GIT_", "KUBERNETES_", "PBS_", "SLURM_", "SSH_", "XDG_"),
    *("LOCAL_", "MASTER_", "MPI_", "OMPI_", "PMIX_", "PMI_", "RANK", "TORCHELASTIC_", "WORLD_"),
)

GIT_CONFIG = """\
[user]
    name = Ada
    email = ada@example.org
[init]
    defaultBranch = main
[commit]
    gpgSign = false
"""


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Make `home` the home of this process and of those that it starts, and forget the machine's settings."""
    for name in os.environ:
        if name.startswith(FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
    (home / ".gitconfig").write_text(GIT_CONFIG, encoding="utf-8")
    places = {
        "HOME": home,
        "XDG_CACHE_HOME": home / ".cache",
        "XDG_CONFIG_HOME": home / ".config",
        "XDG_DATA_HOME": home / ".local/share",
        "XDG_STATE_HOME": home / ".local/state",
        "GIT_CONFIG_GLOBAL": home / ".gitconfig",
    }
    for name, place in places.items():
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("CMF_SYSTEM", "off")  # how long a test takes would decide what its runs record
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give fixtures that outlive a test a home that isn't the user's."""
    home = tmp_path_factory.mktemp("session-home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(monkeypatch, home)
        yield home


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty home, so that none sees the keys, tokens or settings of another."""
    home = tmp_path_factory.mktemp("home")
    isolate(monkeypatch, home)
    return home


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Run one hub for all tests of a module."""
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "hub", folder / "state") as process:
        yield process


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """Run one PostgreSQL for all tests of a process; those that ask for it share an xdist group."""
    from tests import databases

    with databases.running() as url:
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Run one S3 server for all tests of a process; those that ask for it share an xdist group."""
    from tests import buckets

    with buckets.running() as url:
        yield url


@pytest.fixture(scope="session")
def azure() -> Iterator[str]:
    """Run one emulator of Azure's blobs for all tests of a process; those that ask for it share an xdist group."""
    from tests import azurite

    with azurite.running() as url:
        yield url


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """Run one sshd for all tests of a process; those that ask for it share an xdist group. CI requires it."""
    from tests import sshd

    if sshd.program() is None and not os.environ.get("CI"):
        pytest.skip("needs sshd (apt install openssh-server)")
    with sshd.running() as server:
        yield server
