"""A real sshd for the tests that need one: Debian's openssh-server, as this user, on a free port of the loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 60
CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Sshd:
    """A server: its port, and a folder with its keys and ours."""

    port: int
    folder: Path

    def url(self, path: str | Path, port: int = 0) -> str:
        """Return a remote's address; ``port``: of a proxy before the server."""
        return f"ssh://127.0.0.1:{port or self.port}{path}"

    def introduce(self, home: Path) -> Path:
        """Make a user whose home this is one who has a key and knows the host's; return their ``~/.ssh``."""
        private = home / ".ssh"
        private.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.folder / "user", private / "id_ed25519")
        (private / "known_hosts").write_text(f"127.0.0.1 {(self.folder / 'host.pub').read_text()}")
        return private


def program() -> str | None:
    """Return where sshd is; None if it isn't installed."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running() -> Iterator[Sshd]:
    """Run a server until the end."""
    found = program()
    assert found, "needs Debian's openssh-server"
    with tempfile.TemporaryDirectory(prefix="cmf-sshd-") as name:
        folder = Path(name)
        for key in ("host", "user"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", str(folder / key)]
            subprocess.run(make, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # root's sshd insists on it; its service makes it
        log = folder / "log"
        server = subprocess.Popen([found, "-D", "-f", str(folder / "config"), "-E", str(log)])
        try:
            _wait(server, port, log)
            yield Sshd(port, folder)
        finally:
            server.terminate()
            server.wait(STOP_SECONDS)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
