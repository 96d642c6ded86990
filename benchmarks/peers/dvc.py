"""W4 and W9 with DVC: its commands, as a person runs them. It hashes with MD5 and links or copies into its cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.workloads import data

DVC = Path(sys.executable).parent / "dvc"
BUCKET = "data"


def files(*, tiny: bool, server: str = "", key: str = "", secret: str = "") -> dict[str, list[float]]:
    """Add a folder of small files and a large one, twice; push them to a folder and to S3, and pull from the folder."""
    os.environ |= {"DVC_NO_ANALYTICS": "1", "PATH": f"{DVC.parent}{os.pathsep}{os.environ['PATH']}"}
    os.environ |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    place = Path("there").absolute()
    _seconds("git", "init", "--quiet")
    _seconds(DVC, "init", "--quiet")
    _seconds(DVC, "remote", "add", "--quiet", "place", place)
    _seconds(DVC, "remote", "add", "--quiet", "bucket", f"s3://{BUCKET}/dvc")
    _seconds(DVC, "remote", "modify", "--quiet", "bucket", "endpointurl", server)
    found = {}
    for name in ("many", "large"):
        path = data.made(name, tiny=tiny)
        os.sync()
        found[f"files_{name}"] = [_seconds(DVC, "add", "--quiet", path)]
        found[f"files_{name}_again"] = [_seconds(DVC, "add", "--quiet", path)]
        for remote, key_ in (("place", "folder"), ("bucket", "bucket")):
            os.sync()
            found[f"push_{name}_{key_}"] = [_seconds(DVC, "push", "--quiet", "-r", remote, f"{path}.dvc")]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(".dvc/cache")
        found[f"pull_{name}_folder"] = [_seconds(DVC, "pull", "--quiet", "-r", "place", f"{path}.dvc")]
        if not path.exists():
            raise RuntimeError("Nothing was pulled.")
    return found


def _seconds(*command: str | Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"files": files})
