"""Association tests and tests of paired differences: hand-worked answers, and bias-bench's weat.py stated again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fairforget.errors import DataError
from fairforget.stats.association import _drawn_splits, _sums, associations, effect_size, permutation_test
from fairforget.stats.location import location_test, signed_rank_sums


def bias_bench(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Associations, effect size and exact p, vector by vector and split by split."""
    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(np.dot(u, v) / math.sqrt(np.dot(u, u) * np.dot(v, v)))

    targets = [*x, *y]
    s = np.array([np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b]) for w in targets])
    d = (np.mean(s[: len(x)]) - np.mean(s[len(x):])) / np.std(s, ddof=1)
    splits = list(itertools.combinations(range(len(targets)), len(x)))
    observed = s[: len(x)].sum()
    hits = sum(s[list(split)].sum() >= observed - 1e-12 for split in splits)
    return s, float(d), hits / len(splits)


@pytest.mark.parametrize(("count", "d", "splits"), [(2, 1.7320508, 6), (4, 1.8708287, 70)])
def test_targets_that_are_their_own_attributes(count: int, d: float, splits: int):
    first, second = np.tile([1.0, 0.0], (count, 1)), np.tile([0.0, 1.0], (count, 1))
    x, y = associations(first, first, second), associations(second, first, second)
    assert effect_size(x, y) == pytest.approx(d, abs=1e-7)
    assert effect_size(x, y) == pytest.approx(2 * math.sqrt((2 * count - 1) / (2 * count)), abs=1e-12)
    found = permutation_test(x, y)
    assert (found.p, found.splits, found.exact) == (pytest.approx(1 / splits), splits, True)
    assert effect_size(y, x) == -effect_size(x, y)
    assert permutation_test(y, x).p == 1


def test_equal_sets_have_no_effect():
    values = np.array([0.1, -0.2, 0.4])
    assert effect_size(values, values[::-1]) == pytest.approx(0, abs=1e-15)
    assert permutation_test(values, values).p > 0.5


def test_what_does_not_vary_has_no_effect_size_and_no_p():
    values = np.full(4, 0.3)
    assert math.isnan(effect_size(values, values))
    assert math.isnan(permutation_test(values, values).p)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 2)])
def test_sets_that_are_empty_or_unequal_are_refused(first: int, second: int):
    with pytest.raises(DataError, match="two target sets of one size"):
        permutation_test(np.zeros(first), np.zeros(second))


@pytest.mark.parametrize("count", [10, 32, 45, 70])
def test_drawn_halves_are_halves_and_every_item_is_as_likely(count: int):
    members = np.concatenate(list(_drawn_splits(count, 4000, np.random.default_rng(5))))
    bits = np.unpackbits(members, axis=1)[:, : 2 * count]
    assert bits.shape == (4000, 2 * count) and (bits.sum(axis=1) == count).all()
    assert np.unpackbits(members, axis=1).sum() == 4000 * count
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(4000)
    values = np.random.default_rng(6).normal(size=2 * count)
    assert _sums(members, values) == pytest.approx(bits.astype(np.float64) @ values, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4))
def test_parity_with_bias_bench(seed: int, count: int, first: int, second: int):
    generator = np.random.default_rng(seed)
    x, y, a, b = (generator.normal(size=(size, 6)) for size in (count, count, first, second))
    s, d, p = bias_bench(x, y, a, b)
    found = associations(np.concatenate([x, y]), a, b)
    assert found == pytest.approx(s, abs=1e-12)
    assert effect_size(found[:count], found[count:]) == pytest.approx(d, abs=1e-9)
    assert permutation_test(found[:count], found[count:]).p == pytest.approx(p, abs=1e-12)


def test_drawn_splits_agree_with_all_of_them():
    generator = np.random.default_rng(3)
    x, y = generator.normal(0.5, 1, 6), generator.normal(0, 1, 6)
    exact, drawn = permutation_test(x, y), permutation_test(x, y, exact_splits=1, draws=19_999)
    assert (exact.exact, exact.splits, drawn.exact, drawn.splits) == (True, 924, False, 20_000)
    assert abs(exact.p - drawn.p) < 3 * math.sqrt(exact.p * (1 - exact.p) / 20_000)


def test_drawn_p_counts_the_observed_split_and_follows_the_seed():
    x, y = np.linspace(10, 11, 40), np.linspace(0, 1, 40)
    assert permutation_test(x, y, draws=999).p == 1 / 1000
    near = np.linspace(0.02, 1.02, 40)
    assert permutation_test(near, y, draws=999, seed=1) == permutation_test(near, y, draws=999, seed=1)
    assert permutation_test(near, y, draws=999, seed=1) != permutation_test(near, y, draws=999, seed=2)


def test_normal_differences_are_tested_by_t():
    differences = np.array([0.3, -0.1, 0.5, 0.2, 0.4, 0.1, 0.25, -0.2, 0.35, 0.15])
    found = location_test(differences)
    assert found is not None and found.kind == "paired t"
    expected = stats.ttest_rel(differences, np.zeros(10))
    assert (found.statistic, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_skewed_differences_are_tested_by_ranks_and_r_has_their_sign():
    differences = np.concatenate([np.arange(1, 20) ** 4.0, [-1.5, -20.0]])
    found = location_test(differences)
    assert found is not None and found.kind == "Wilcoxon" and found.shapiro_p < 0.05
    ranks = stats.rankdata(np.abs(differences))
    w, n = ranks[differences > 0].sum(), len(differences)
    z = (w - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    assert found.r == pytest.approx(z / math.sqrt(n))
    assert found.statistic == n * (n + 1) / 2 - w == signed_rank_sums(differences)[1]
    reversed_ = location_test(-differences)
    assert reversed_ is not None and reversed_.r == -found.r and reversed_.p == found.p


@pytest.mark.parametrize("differences", [[1.0, 2.0], [0.5] * 8])
def test_too_few_or_equal_differences_have_no_test(differences: list[float]):
    assert location_test(np.array(differences)) is None
