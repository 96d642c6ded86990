"""A real S3 server for the tests that need one: SeaweedFS, on free ports of the loopback."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 60
KEY, SECRET = "tester", "only-for-tests"
NAME = "data"


def free_port() -> int:
    """Return a port that nobody listens at, such that the one 10,000 above is free too: SeaweedFS takes both."""
    while True:
        with socket.socket() as probe, socket.socket() as above:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                above.bind(("127.0.0.1", port - 10_000))
                return port - 10_000


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a server with a bucket `data` in a folder of its own; yield its address."""
    weed = Path(sys.executable).parent / "weed"
    with tempfile.TemporaryDirectory(prefix="cmf-s3-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        identity = {
            "name": KEY,
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        master, volume, filer, s3 = (free_port() for _ in range(4))
        command = [
            *(str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"),
            *("-s3", f"-s3.config={folder / 's3.json'}", "-s3.iam=false", "-volume.max=50"),
            *("-master.volumeSizeLimitMB=1024", "-master.telemetry=false", "-volume.preStopSeconds=0"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        ]
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env={"HOME": name, "PATH": os.defpath}
            )
        try:
            url = f"http://127.0.0.1:{s3}"
            _wait(server, url, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGKILL)  # nothing of it is wanted any more, and its own end takes long
            server.wait(STOP_SECONDS)


def options(url: str) -> dict[str, str]:
    """Return what obstore is told to reach the server."""
    return {"endpoint": url, "region": "us-east-1", "access_key_id": KEY, "secret_access_key": SECRET}


def environment(url: str) -> dict[str, str]:
    """Return the variables by which a command finds the server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until the bucket can be made, which is when all parts of the server have found each other."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    settings = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
    store = S3Store(NAME, config=options(url), **settings)  # type: ignore[arg-type]
    until = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        with contextlib.suppress(BaseError):
            obstore.put(store, "probe", b"")
            return
