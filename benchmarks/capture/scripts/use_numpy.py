"""Read an array through a memory map, and write one through another."""

import numpy as np

weights = np.load("weights.npy", mmap_mode="r")
half = np.lib.format.open_memmap("half.npy", mode="w+", dtype=weights.dtype, shape=weights.shape)
half[:] = weights / 2
half.flush()
