"""Select the next penguins to learn from: a few at first, then those that the lab found hard."""

import csv
import sys
from pathlib import Path

import cmf

FIRST = 12
HARD = 24


def main(pool: Path, batch: Path, hard: Path | None) -> None:
    """Write a batch of the pool: one in twenty, or those named in the lab's list of hard ones."""
    with cmf.run("penguins/select", params={"count": HARD if hard else FIRST}) as run:
        with open(run.input(pool, type="dataset"), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if hard is None:
            chosen = rows[:: len(rows) // FIRST][:FIRST]
        else:
            with open(run.input(hard, type="dataset", role="hard examples"), encoding="utf-8", newline="") as file:
                wanted = {row["penguin"] for row in csv.DictReader(file)}
            chosen = [row for row in rows if row["penguin"] in wanted][:HARD]
        with open(batch, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(chosen)
        run.output(batch, type="dataset", name=batch.stem)
        run.metrics({"chosen": len(chosen), "share": round(len(chosen) / len(rows), 4)})
        print(f"{len(chosen)} of {len(rows)} penguins chosen")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
