"""Read a CSV file with Arrow's own reader and write it as Parquet."""

import pyarrow.csv
import pyarrow.parquet

pyarrow.parquet.write_table(pyarrow.csv.read_csv("sheep.csv"), "sheep.parquet")
