"""What tests install on first use, below build/: once for all processes, and anew when its list changes."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def once(name: str, listed: Path, install: Callable[[Path], None]) -> Path:
    """Return the folder that `install` filled from the list; others wait meanwhile, and one that failed starts anew."""
    place = ROOT / "build" / name
    place.parent.mkdir(exist_ok=True)
    done = place / "installed"
    with open(place.with_name(f"{name}.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file() or done.read_bytes() != listed.read_bytes():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            install(place)
            done.write_bytes(listed.read_bytes())
    return place
