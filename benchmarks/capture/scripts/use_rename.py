"""Write beside the goal, then rename; leave no scratch file."""

import os
import tempfile

with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as file, open("barns.csv") as source:
    file.write(source.read().upper())
os.replace(file.name, "upper.csv")
with open("scratch.txt", "w") as scratch:
    scratch.write("not for long")
os.remove("scratch.txt")
