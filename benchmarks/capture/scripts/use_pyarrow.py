"""Read a CSV file with Arrow's own reader and write it as Parquet."""

import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

pyarrow.parquet.write_table(pyarrow.csv.read_csv("sheep.csv"), "sheep.parquet")
