"""Clean the survey as it came from the field: complete measurements only; part it into a pool and a holdout."""

import csv
import sys
from pathlib import Path

import cmf

MEASURES = ["Culmen Length (mm)", "Culmen Depth (mm)", "Flipper Length (mm)", "Body Mass (g)"]


def main(survey: Path) -> None:
    """Read the survey, and write pool.csv and holdout.csv beside it."""
    with cmf.run("penguins/ingest", params={"holdout_every": 3}) as run:
        with open(run.input(survey, type="dataset"), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        good = [row for row in rows if all(row[name] not in ("", "NA") for name in MEASURES)]
        parts = {"pool": [], "holdout": []}  # type: dict[str, list[dict[str, str]]]
        for number, row in enumerate(good):
            parts["holdout" if number % 3 == 2 else "pool"].append(row)
        for part, members in parts.items():
            path = survey.parent / f"{part}.csv"
            with open(path, "w", encoding="utf-8", newline="") as file:
                table = csv.writer(file)
                table.writerow(["penguin", "species", *MEASURES])
                for row in members:
                    penguin = f"{row['studyName']}-{row['Sample Number']}-{row['Species'].split()[0]}"
                    table.writerow([penguin, row["Species"].split()[0], *(row[name] for name in MEASURES)])
            run.output(path, type="dataset", name=part)
        run.metrics({"penguins": len(good), "incomplete": len(rows) - len(good)})
        print(f"{len(good)} of {len(rows)} penguins are measured completely")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
