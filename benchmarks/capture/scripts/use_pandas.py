"""Join two tables and keep the mean of each barn."""

import pandas as pd  # type: ignore[import-untyped]

sheep = pd.read_csv("sheep.csv").merge(pd.read_csv("barns.csv"), on="barn")
sheep.groupby("name")["weight"].mean().to_csv("means.csv")
