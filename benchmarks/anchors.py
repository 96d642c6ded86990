"""Figures of other frameworks from an earlier comparison. They are quoted, not measured by this package."""

DATE = "2026-11-23"

ANCHORS = (
    (
        "W0",
        "core install",
        "HPE CMF 0.1.0: 763 MB, 141 packages; trackio 133 MB, 32; mlflow 616 MB, 87; dvc 100 MB, 97",
    ),
    ("W1", "import, above the bare interpreter", "HPE CMF 3.6 s, 191 MiB; wandb 1.0 s; dvc.api 1.3 s"),
    ("W1", "the command tells its version", "HPE CMF 5.0 s; dvc 0.26 s"),
    ("W2", "one execution", "HPE CMF 7.8 s; trackio 13 ms, without files"),
    ("W3", "step metrics until durable", "HPE CMF 4,000 to 7,400 points/s; trackio 81,000; mlflow 8,600 in batches"),
    ("W3", "one series of 100,000 read back", "mlflow 3.4 s"),
    ("W5", "1,000 executions pushed, first time", "HPE CMF 268 s (60 s with pandas 2); mlflow 272 s"),
    ("W5", "one more pushed", "HPE CMF 216 s (18.6 s with pandas 2), 2.9 MB; mlflow 0.27 s, 2.6 kB"),
    ("W5", "nothing new pushed", "HPE CMF 93 s (10.6 s with pandas 2), 2.9 MB; dvc 2.7 s"),
    ("W6", "all 1,001 pulled / one of them", "HPE CMF 45 / 6.9 s (29 / 5.8 s with pandas 2)"),
    ("W7", "ancestors in a chain of 300", "HPE CMF 5.9 s"),
    ("W7", "ancestors in 50 layers", "HPE CMF never ends: every layer takes 3.6 times as long as the one before"),
)
