"""Ten programs as users write them, with the truth of what each reads and writes, and what `cmf run` finds of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).parent / "scripts"
WAYS = ("strace", "python")
PAGES = tuple(f"pages/{number}.txt" for number in range(3))


class Program(NamedTuple):
    """A program by its file's name, and the files that it reads and writes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def command(self) -> list[str]:
        """Return the words that start it, in a folder that `prepare` filled."""
        return ["./use_c"] if self.name == "use_c.c" else [sys.executable, self.name]


class Score(NamedTuple):
    """How much of the truth was found, and how much of what was found is true; both from 0 to 1."""

    recall: float
    precision: float


PROGRAMS = (
    Program("use_pandas.py", ("sheep.csv", "barns.csv"), ("means.csv",)),
    Program("use_numpy.py", ("weights.npy",), ("half.npy",)),
    Program("use_pyarrow.py", ("sheep.csv",), ("sheep.parquet",)),
    Program("use_sqlite.py", ("herd.db",), ("report.db",)),
    Program("use_shell.py", ("sheep.csv", "barns.csv"), ("sorted.csv", "count.txt")),
    Program("use_c.c", ("sheep.csv",), ("loud.csv",)),
    Program("use_processes.py", PAGES, tuple(f"count-{number}.txt" for number in range(3))),
    Program("use_archives.py", ("pages.zip",), ("pages.tar.gz", *(f"unpacked/{page}" for page in PAGES))),
    Program("use_rename.py", ("barns.csv",), ("upper.csv",)),
    Program("use_glob.py", PAGES, ("book.txt",)),
)


def prepare(program: Program, folder: Path) -> None:
    """Make the data that the programs read, and put one program beside it, compiled if it must be."""
    import sqlite3
    import zipfile

    import numpy as np

    (folder / "pages").mkdir(parents=True)
    for page in PAGES:
        (folder / page).write_text(f"This is {page}.\n", encoding="utf-8")
    with zipfile.ZipFile(folder / "pages.zip", "w") as archive:
        for page in PAGES:
            archive.write(folder / page, page)
    sheep = [(f"s{number}", number % 2, 40 + number) for number in range(30)]
    lines = ["sheep,barn,weight", *(",".join(map(str, row)) for row in sheep)]
    (folder / "sheep.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "barns.csv").write_text("barn,name\n0,north\n1,south\n", encoding="utf-8")
    np.save(folder / "weights.npy", np.array([float(row[2]) for row in sheep]))
    database = sqlite3.connect(folder / "herd.db")
    database.execute("CREATE TABLE sheep (name, barn, weight)")
    database.executemany("INSERT INTO sheep VALUES (?, ?, ?)", sheep)
    database.commit()
    database.close()
    shutil.copy(SCRIPTS / program.name, folder)
    if program.name.endswith(".c"):
        subprocess.run(("cc", "-O2", "-o", "use_c", program.name), cwd=folder, check=True)


def score(program: Program, way: str, folder: Path) -> Score:
    """Run a program once under `cmf run`, and compare what was recorded with the truth."""
    cmf = (sys.executable, "-m", "cmf")
    subprocess.run((*cmf, "run", "--trace", way, "--", *program.command()), cwd=folder, check=True, capture_output=True)
    told = subprocess.run((*cmf, "log", "--json"), cwd=folder, check=True, capture_output=True).stdout
    (view,) = json.loads(told)["executions"]
    found = {(side, use["path"]) for side in ("inputs", "outputs") for use in view[side]}
    true = {("inputs", path) for path in program.inputs} | {("outputs", path) for path in program.outputs}
    right = len(found & true)
    return Score(right / len(true), right / len(found) if found else 1.0)
