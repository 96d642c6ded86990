"""Run every check of the house, and say of each whether it passed.

All of them run, so that one look shows everything there is to mend. A check that fails prints what it found; one
that passes prints only its notes.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
CODE = [folder for folder in ("src", "tests", "tools", "benchmarks") if any(Path(folder).rglob("*.py"))]
PROSE = ["docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "NOTICE", "Makefile", ".ci/run"]

CHECKS: dict[str, list[str]] = {
    "style": [str(BIN / "ruff"), "check", "--quiet", "--output-format=concise", *CODE],
    "format": [str(BIN / "ruff"), "format", "--check", "--quiet", *CODE],
    "types": [str(BIN / "mypy"), "--no-error-summary", *CODE],
    "layers": [str(BIN / "lint-imports"), "--no-logo"],
    "dependencies": [str(BIN / "deptry"), "--no-ansi", "src"],
    "spelling": [str(BIN / "codespell"), *CODE, *filter(os.path.exists, PROSE)],
    "sizes": [sys.executable, "-m", "tools.sizes", "src", "tests"],
    "documentation": [sys.executable, "-m", "pytest", "-q", "--no-header", "tests/docs"],
}


def main(names: list[str]) -> int:
    """Run the checks that are named, or all of them; return 1 if one failed."""
    failed: list[str] = []
    for name in names or CHECKS:
        started = time.monotonic()
        environment = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run(
            CHECKS[name], check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        verdict = "failed" if done.returncode else "ok"
        print(f"{name:<14} {verdict:<7} {time.monotonic() - started:5.1f} s", flush=True)
        notes = [line for line in done.stdout.splitlines() if done.returncode or line.startswith("note: ")]
        for line in notes:
            print(f"    {line}", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}. One alone: .venv/bin/python -m tools.checks {failed[0]}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
