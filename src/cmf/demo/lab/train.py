"""Train a softmax classifier by gradient descent."""

import json
import math
import sys
from pathlib import Path

import cmf


def softmax(weights: list[list[float]], x: list[float]) -> list[float]:
    """Return the probability of each class."""
    scores = [row[-1] + sum(weight * value for weight, value in zip(row, x)) for row in weights]
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def main(train: Path, model: Path, rate: float, epochs: int) -> None:
    """Learn from the training set, and write the model."""
    with cmf.run("penguins/train", params={"rate": rate, "epochs": epochs}) as run:
        examples = json.loads(run.input(train, type="dataset").read_text())
        species = sorted({example["species"] for example in examples})
        weights = [[0.0] * (len(examples[0]["x"]) + 1) for _ in species]
        loss = 0.0
        for epoch in range(epochs):
            gradient = [[0.0] * len(row) for row in weights]
            loss = 0.0
            for example in examples:
                found = softmax(weights, example["x"])
                loss -= math.log(found[species.index(example["species"])])
                for k, row in enumerate(gradient):
                    error = found[k] - (species[k] == example["species"])
                    for i, value in enumerate([*example["x"], 1.0]):
                        row[i] += error * value / len(examples)
            weights = [[w - rate * g for w, g in zip(*pair)] for pair in zip(weights, gradient)]
            loss /= len(examples)
            run.log({"loss": loss}, step=epoch)
        model.write_text(json.dumps({"species": species, "weights": weights}))
        run.output(model, type="model", name="classifier", framework="the standard library")
        run.metrics({"loss": loss})
        print(f"loss {loss:.4f} after {epochs} epochs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
