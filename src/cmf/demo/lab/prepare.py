"""Scale the batches that came so far by the mean and spread of the whole survey, and join them."""

import csv
import json
import statistics
import sys
from pathlib import Path

import cmf

MEASURES = ["Culmen Length (mm)", "Culmen Depth (mm)", "Flipper Length (mm)", "Body Mass (g)"]


def main(survey: Path, train: Path, batches: list[Path]) -> None:
    """Write the training set and, beside it, scaling.json."""
    with cmf.run("penguins/prepare", params={"batches": len(batches)}) as run:
        with open(run.input(survey, type="dataset", role="reference"), encoding="utf-8", newline="") as file:
            columns = list(zip(*([row[name] for name in MEASURES] for row in csv.DictReader(file)), strict=True))
        numbers = [[float(text) for text in column if text not in ("", "NA")] for column in columns]
        scaling = [(statistics.fmean(column), statistics.pstdev(column)) for column in numbers]
        (train.parent / "scaling.json").write_text(json.dumps(scaling))
        examples = []
        for batch in batches:
            with open(run.input(batch, type="dataset"), encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    scaled = [(float(row[name]) - mean) / spread for name, (mean, spread) in zip(MEASURES, scaling)]
                    examples.append({"species": row["species"], "x": scaled})
        train.write_text(json.dumps(examples))
        run.output(train, type="dataset", name=train.stem)
        run.output(train.parent / "scaling.json", type="parameters", name="scaling")
        run.metrics({"examples": len(examples), "species": len({example["species"] for example in examples})})
        print(f"{len(examples)} examples ready")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(batch) for batch in sys.argv[3:]])
