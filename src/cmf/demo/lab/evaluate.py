"""Judge a model by penguins that it never saw, and name those of the pool that it finds hard."""

import csv
import json
import sys
from pathlib import Path

from train import softmax

import cmf

MEASURES = ["Culmen Length (mm)", "Culmen Depth (mm)", "Flipper Length (mm)", "Body Mass (g)"]
HARD = 24


def main(model: Path, scaling: Path, holdout: Path, pool: Path, hard: Path) -> None:
    """Write the list of hard penguins, and record how good the model is."""
    with cmf.run("penguins/evaluate") as run:
        learned = json.loads(run.input(model, type="model", name="classifier").read_text())
        scales = json.loads(run.input(scaling, type="parameters").read_text())

        def judged(path: Path) -> list[tuple[dict[str, str], list[float]]]:
            with open(run.input(path, type="dataset"), encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            scaled = [[(float(row[m]) - mean) / spread for m, (mean, spread) in zip(MEASURES, scales)] for row in rows]
            return [(row, softmax(learned["weights"], x)) for row, x in zip(rows, scaled)]

        tested = judged(holdout)
        right = sum(row["species"] == learned["species"][p.index(max(p))] for row, p in tested)
        doubts = sorted((max(p), row["penguin"]) for row, p in judged(pool))
        with open(hard, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["penguin", "certainty"])
            table.writerows((penguin, round(certainty, 4)) for certainty, penguin in doubts[:HARD])
        run.output(hard, type="dataset", name="hard")
        accuracy = right / len(tested)
        if not cmf.open().executions(f"stage = evaluate and metrics.accuracy >= {accuracy}"):
            run.label("best", "classifier")
        run.metrics({"accuracy": round(accuracy, 4), "certainty": round(sum(d[0] for d in doubts) / len(doubts), 4)})
        print(f"accuracy {accuracy:.4f} on {len(tested)} penguins it never saw")


if __name__ == "__main__":
    main(*(Path(text) for text in sys.argv[1:6]))
