"""The permutation test of SEAT beside a loop over shuffled halves, as the released code draws them, in one run.

Both draw halves of the targets and count those whose sum reaches the observed one; the loop is timed on fewer draws and scaled up. The run
fails if their p values disagree by more than four standard errors. What the figures mean: bench/README.md.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray

from fairforget.stats.association import permutation_test

DRAWS = 100_000
"""Draws of our test."""


def looped(x: NDArray[np.float64], y: NDArray[np.float64], draws: int) -> tuple[float, float]:
    """Give the p value and processor seconds of `draws` shuffles."""
    values, generator = np.concatenate([x, y]), np.random.default_rng(1)
    places, observed, reached = np.arange(len(values)), x.sum(), 0
    start = time.process_time()
    for _ in range(draws):
        generator.shuffle(places)
        reached += values[places[: len(x)]].sum() >= observed
    return reached / draws, time.process_time() - start


def main() -> None:
    """Time both for several numbers of targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="targets a side")
    parser.add_argument("--draws", type=int, default=10_000, help="draws of the loop, scaled up")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print("targets a side  ours (s)  loop (s)  ratio")
    for size in given.sizes:
        generator = np.random.default_rng(0)
        x, y = generator.normal(0.2, 1, size), generator.normal(0, 1, size)
        taken: list[float] = []
        found = math.nan
        for _ in range(given.repeats):
            start = time.process_time()
            found = permutation_test(x, y).p
            taken.append(time.process_time() - start)
        p, seconds = looped(x, y, given.draws)
        if abs(found - p) > 4 * math.sqrt(max(p * (1 - p), 1e-4) / given.draws):
            raise SystemExit(f"{size} targets a side: p = {found:.4f} here and {p:.4f} in the loop")
        scaled = seconds * DRAWS / given.draws
        print(f"{size:>14}  {min(taken):8.2f}  {scaled:8.2f}  {scaled / min(taken):5.1f}")


if __name__ == "__main__":
    main()
