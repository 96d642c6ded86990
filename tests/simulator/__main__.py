"""Run the simulator: `python -m tests.simulator --seed 7`, or `--seeds 300` from `--start` on."""

import argparse
import sys
import time
import traceback
from collections import Counter

from tests.simulator.run import simulate


def main() -> int:
    """Run the seeds that are asked for; return 1 if one of them found a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed")
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    asked = parser.parse_args()
    seeds = [asked.seed] if asked.seed is not None else range(asked.start, asked.start + asked.seeds)
    started = time.monotonic()
    taken: Counter[str] = Counter()
    failed = []
    for seed in seeds:
        try:
            taken += simulate(seed)
        except Exception:  # noqa: BLE001  # whatever it is, it is reported
            failed.append(seed)
            print(f"seed {seed}: {traceback.format_exc(limit=-3 if asked.seed is None else None)}", flush=True)
    print(f"{len(seeds)} seeds in {time.monotonic() - started:.1f} s, {taken.total()} steps: {dict(taken)}")
    print(f"failed: {failed}" if failed else "nothing was violated")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
