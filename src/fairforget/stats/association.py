"""Association tests between sets: effect size and permutation test of WEAT and SEAT.

Sources: Caliskan, Bryson, Narayanan 2017 (WEAT); May et al. 2019 (SEAT); Meade et al. 2022 (bias-bench, whose weat.py this repeats).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairforget.errors import DataError

EXACT_SPLITS = 100_000
"""Up to so many splits all are counted; above, splits are drawn (bias-bench)."""
DRAWS = 99_999
"""Drawn splits; with the observed one that makes 100,000 (bias-bench)."""

_CHUNK_WORDS = 2**19  # words of 64 bits drawn at once: 4 MiB
_EQUAL = 1e-12  # sums that differ by less, relative to the sum of sizes, are equal: they add the same terms in another order


@dataclass(frozen=True)
class PermutationTest:
    """One-sided p value, and how it came about.

    Attributes:
        p: share of splits whose first set has a sum at least as large as the observed one; ``nan`` where all associations are equal.
        splits: how many splits that share is taken over, the observed one included.
        exact: whether these are all splits there are.
    """

    p: float
    splits: int
    exact: bool


def associations(targets: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """s(w) = mean over a of cos(w, a) - mean over b of cos(w, b).

    Args:
        targets: vectors w (n, width), not zero.
        first: attribute vectors a, one or more (k, width), not zero.
        second: attribute vectors b, one or more (l, width), not zero.

    Returns:
        (n,), between -2 and 2.
    """
    # The mean of cosines with unit vectors is one product with their mean.
    return _units(targets) @ (_units(first).mean(axis=0) - _units(second).mean(axis=0))


def effect_size(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Effect size d = (mean of x - mean of y) / standard deviation of both (with n - 1); ``nan`` where nothing varies."""
    both = np.concatenate([x, y])
    spread = float(np.std(both, ddof=1)) if len(both) > 1 else 0.0
    return (float(np.mean(x)) - float(np.mean(y))) / spread if spread > 0 else math.nan


def permutation_test(
    x: NDArray[np.float64], y: NDArray[np.float64], *, exact_splits: int = EXACT_SPLITS, draws: int = DRAWS, seed: int = 0
) -> PermutationTest:
    """How often a random split into two equal sets associates the first with A as much as the observed one does.

    Args:
        x: associations s(w) of the first set.
        y: those of the second set, as many.
        exact_splits: count all splits where there are at most so many.
        draws: else draw so many; p is (1 + hits) / (1 + draws).
        seed: of the draws.

    Raises:
        DataError: the sets are empty or of different sizes.
    """
    if not len(x) or len(x) != len(y):
        raise DataError(f"An association test needs two target sets of one size, not of {len(x)} and {len(y)}.")
    both = np.concatenate([x, y])
    values = both - both.mean()
    exact = math.comb(len(both), len(x)) <= exact_splits
    splits = math.comb(len(both), len(x)) if exact else 1 + draws
    size = float(np.abs(values).sum())
    if not size > _EQUAL * float(np.abs(both).sum()):
        return PermutationTest(math.nan, splits, exact)
    observed = float(values[: len(x)].sum()) - _EQUAL * size
    if exact:
        hits = sum(1 for members in itertools.combinations(values.tolist(), len(x)) if math.fsum(members) >= observed)
        return PermutationTest(hits / splits, splits, exact)
    drawn = _drawn_splits(len(x), draws, np.random.default_rng(seed))
    hits = sum(int((_sums(members, values) >= observed).sum()) for members in drawn)
    return PermutationTest((1 + hits) / splits, splits, exact)


def _units(vectors: NDArray[Any]) -> NDArray[np.float64]:
    found = np.asarray(vectors, dtype=np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _drawn_splits(first: int, draws: int, generator: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Chunks (rows, bytes) of random halves of 2 `first` items, a bit for each item.

    Random words whose bits are half ones are kept (7 in 100 of 128 bits), which makes every half equally likely; that is ten times as fast
    as to shuffle.
    """
    count = 2 * first
    words = -(-count // 64)
    mask = np.zeros(8 * words, dtype=np.uint8)
    mask[: -(-count // 8)] = np.packbits(np.ones(count, dtype=np.uint8))
    used = mask.view(np.uint64)[:, None]
    while draws > 0:
        bits = generator.integers(0, 2**64 - 1, (words, _CHUNK_WORDS // words), dtype=np.uint64, endpoint=True) & used
        kept = bits[:, np.bitwise_count(bits).sum(axis=0, dtype=np.int64) == first][:, :draws]
        draws -= kept.shape[1]
        yield np.ascontiguousarray(kept.T).view(np.uint8)


def _sums(members: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product of the membership matrix with the values, eight of its columns at a time: a byte has 256 sums, made once."""
    blocks = -(-len(values) // 8)
    padded = np.zeros(8 * blocks)
    padded[: len(values)] = values
    tables = padded.reshape(blocks, 8) @ np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).T.astype(np.float64)
    totals = np.zeros(len(members))
    for block, table in enumerate(tables):
        totals += table[members[:, block]]
    return totals
