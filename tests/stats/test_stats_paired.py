"""McNemar, sign flips and equivalence against scipy, enumeration and hand-worked figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fairforget.errors import DataError, UsageError
from fairforget.stats import Interval, mcnemar, sign_flip_permutation, tost


class TestMcNemar:
    def test_hand_worked(self):
        test = mcnemar(12, 2)
        assert test.p_exact == pytest.approx(0.0129395, abs=5e-8)
        assert test.p_mid == pytest.approx(0.0073853, abs=5e-8)
        assert (test.lost, test.gained, test.note) == (12, 2, "")

    @given(st.integers(0, 300), st.integers(0, 300))
    def test_equals_scipy(self, lost, gained):
        test = mcnemar(lost, gained)
        if lost + gained == 0:
            assert (test.p_exact, test.p_mid, test.note) == (1.0, 1.0, "no item changed")
            return
        exact = stats.binomtest(lost, lost + gained, 0.5).pvalue
        assert test.p_exact == pytest.approx(exact, rel=1e-9)
        point = stats.binom.pmf(lost, lost + gained, 0.5)
        assert test.p_mid == pytest.approx(1.0 if lost == gained else exact - point, rel=1e-9, abs=1e-15)
        assert mcnemar(gained, lost).p_exact == test.p_exact

    @pytest.mark.parametrize("counts", [(-1, 2), (1.5, 2)])
    def test_refuses_what_is_not_a_count(self, counts):
        with pytest.raises(UsageError, match="whole numbers"):
            mcnemar(*counts)


class TestSignFlips:
    def test_equals_enumeration_by_hand(self):
        rng = np.random.default_rng(0)
        values, cluster = rng.normal(0.3, 1, 21), np.repeat(np.arange(7), 3)
        sums = values.reshape(7, 3).sum(axis=1)
        patterns = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=7)]
        expected = np.mean([value >= abs(sums.sum()) - 1e-9 for value in patterns])
        test = sign_flip_permutation(values, cluster)
        assert (test.p_value, test.exact, test.permutations, test.clusters) == (expected, True, 128, 7)
        assert test.mean == pytest.approx(values.mean())

    def test_equals_scipy_for_single_items(self):
        values = np.random.default_rng(1).normal(0.4, 1, 12)
        expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip_permutation(values, np.arange(12)).p_value == pytest.approx(expected)

    def test_drawn_patterns_come_near_to_all_patterns(self):
        values, cluster = np.random.default_rng(2).normal(0.3, 1, 16), np.arange(16)
        full = sign_flip_permutation(values, cluster, permutations=2**16)
        drawn = sign_flip_permutation(values, cluster, permutations=20_000)
        assert (full.exact, drawn.exact) == (True, False)
        assert drawn.p_value == pytest.approx(full.p_value, abs=0.015)

    def test_copies_of_an_item_add_no_evidence(self):
        values = np.random.default_rng(3).normal(0.5, 1, 10)
        once = sign_flip_permutation(values, np.arange(10))
        copied = sign_flip_permutation(np.repeat(values, 50), np.repeat([f"template {c}" for c in range(10)], 50))
        assert copied.p_value == once.p_value
        assert sign_flip_permutation(np.repeat(values, 50), np.arange(500)).p_value < once.p_value

    def test_size_under_no_change(self):
        rng = np.random.default_rng(4)
        rejected = [
            sign_flip_permutation(rng.normal(0, 1, 20)[np.repeat(np.arange(20), 4)] + rng.normal(0, 1, 80), np.repeat(np.arange(20), 4),
                                  permutations=199, seed=run).p_value <= 0.05
            for run in range(400)
        ]
        assert 0.02 <= np.mean(rejected) <= 0.085  # standard error 1.1 points

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(0, 1000))
    def test_sign_of_the_change_does_not_matter(self, differences, seed):
        values, cluster = np.array(differences), np.arange(len(differences)) // 2
        test, turned = (sign_flip_permutation(sign * values, cluster, permutations=300, seed=seed) for sign in (1, -1))
        assert test.p_value == turned.p_value
        assert 0 < test.p_value <= 1

    def test_degenerate(self):
        assert sign_flip_permutation(np.zeros(40), np.arange(40)).p_value == 1.0
        few = sign_flip_permutation(np.ones(9), np.repeat(np.arange(3), 3))
        assert (few.p_value, few.note) == (0.25, "too few clusters (3)")
        empty = sign_flip_permutation(np.array([]), np.array([]))
        assert np.isnan([empty.mean, empty.p_value]).all()
        assert empty.note == "nothing was measured"
        with pytest.raises(DataError, match="1 differences are not finite"):
            sign_flip_permutation(np.array([1.0, np.nan]), np.arange(2))
        with pytest.raises(DataError, match="one cluster label"):
            sign_flip_permutation(np.ones(3), np.arange(2))
        with pytest.raises(UsageError, match="permutations"):
            sign_flip_permutation(np.ones(3), np.arange(3), permutations=5)


class TestEquivalence:
    def interval(self, value, error, clusters=30):
        return Interval(value, value - 2 * error, value + 2 * error, error, clusters, 100)

    def test_equals_two_one_sided_t_tests(self):
        values = np.random.default_rng(0).normal(0.1, 1, 40)
        test = tost(self.interval(values.mean(), values.std(ddof=1) / np.sqrt(40), clusters=40), 0.5)
        assert test.p_below == pytest.approx(stats.ttest_1samp(values, -0.5, alternative="greater").pvalue)
        assert test.p_above == pytest.approx(stats.ttest_1samp(values, 0.5, alternative="less").pvalue)
        assert test.p_value == max(test.p_below, test.p_above)

    def test_verdicts(self):
        assert tost(self.interval(0.0, 0.5), 2.0).equivalent
        assert not tost(self.interval(1.8, 0.5), 2.0).equivalent
        assert not tost(self.interval(0.0, 2.0), 2.0).equivalent
        assert not tost(self.interval(-5.0, 0.1), 2.0).equivalent
        assert tost(self.interval(0.0, 1.0), 2.0, degrees_of_freedom=3).p_value == pytest.approx(stats.t.sf(2, 3))

    @given(st.floats(-3, 3), st.floats(0.05, 3), st.floats(0.1, 4), st.integers(2, 200))
    def test_agrees_with_the_90_percent_interval(self, value, error, margin, clusters):
        half = stats.t.ppf(0.95, clusters - 1) * error
        inside = -margin < value - half and value + half < margin
        test = tost(self.interval(value, error, clusters), margin)
        if abs(test.p_value - 0.05) > 1e-9:
            assert test.equivalent == inside

    def test_no_interval_is_no_equivalence(self):
        test = tost(Interval(0.0, np.nan, np.nan, np.nan, 3, 9, "too few clusters (3)"), 2.0)
        assert np.isnan(test.p_value)
        assert not test.equivalent
        assert test.note == "too few clusters (3)"

    @pytest.mark.parametrize(("margin", "alpha"), [(0.0, 0.05), (-1.0, 0.05), (1.0, 0.0), (1.0, 0.7), (float("nan"), 0.05)])
    def test_refuses_bad_settings(self, margin, alpha):
        with pytest.raises(UsageError, match="margin above 0"):
            tost(self.interval(0.0, 1.0), margin, alpha=alpha)
