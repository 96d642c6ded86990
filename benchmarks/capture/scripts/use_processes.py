"""Count the letters of each page in a pool of processes."""

import multiprocessing as mp
from pathlib import Path


def count(number: int) -> None:
    """Count the letters of one page."""
    Path(f"count-{number}.txt").write_text(str(len(Path(f"pages/{number}.txt").read_text())))


if __name__ == "__main__":
    with mp.get_context("spawn").Pool(2) as pool:
        pool.map(count, range(3))
