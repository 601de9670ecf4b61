"""Noise-corrected dispersion, guarded ratios, independent differences and seeds: by hand and by simulation."""

import numpy as np
import pytest

from fairforget.errors import DataError, UsageError
from fairforget.stats import (
    Components,
    Statistic,
    cluster_bootstrap,
    dispersion,
    guarded_ratio,
    independent_difference,
    linearise,
    over_seeds,
)


def nested(rng, groups=9, clusters=25, size=20, tau=0.0, far=0.0):
    """Groups with clusters of their own."""
    cluster = np.repeat(np.arange(groups * clusters), size)
    group = cluster // clusters
    level = rng.normal(0, tau, groups) if tau else np.zeros(groups)
    level[0] += far
    values = 0.1 + rng.normal(0, 0.1, groups * clusters)[cluster] + level[group] + rng.normal(0, 0.4, len(cluster))
    return by_group(values, group, groups, cluster)


def shared(rng, groups=10, clusters=25, each=10):
    """Groups that share their clusters."""
    cluster = np.repeat(np.arange(clusters), groups * each)
    group = np.tile(np.arange(groups), clusters * each)
    values = 0.1 + rng.normal(0, 0.2, clusters)[cluster] + rng.normal(0, 0.4, len(cluster))
    return by_group(values, group, groups, cluster)


def by_group(values, group, groups, cluster):
    inside = (group[:, None] == np.arange(groups)).astype(float)
    return Components(values[:, None] * inside, inside, cluster, np.zeros(len(cluster), dtype=int))


def figures(components):
    return linearise(components, [Statistic((k,)) for k in range(components.count)])


class TestLinearise:
    def test_standard_errors_are_those_of_the_intervals(self):
        components = nested(np.random.default_rng(0), groups=3)
        found = figures(components)
        for k in range(3):
            one = Components(components.numerators[:, [k]], components.denominators[:, [k]], components.cluster, components.stratum)
            interval = cluster_bootstrap(one, resamples=100)
            assert found.values[k] == pytest.approx(interval.value)
            assert np.sqrt(found.covariance[k, k]) == pytest.approx(interval.standard_error)
            assert (found.clusters[k], found.items[k]) == (25, 500)

    def test_a_difference_has_the_variance_of_its_parts(self):
        components = shared(np.random.default_rng(1), groups=2)
        both = linearise(components, [Statistic((0,)), Statistic((1,)), Statistic((0, 1), lambda r: r[..., 0] - r[..., 1])])
        covariance = both.covariance
        assert covariance[2, 2] == pytest.approx(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], rel=1e-6)
        assert covariance[0, 1] > 0


class TestDispersion:
    def test_by_hand(self):
        # two groups of five clusters of one item: 0 0 0 0 1 and 1 1 1 1 0; F = .2, .8; variance of each .2 / 5
        values = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0.0])
        found = dispersion(figures(by_group(values, np.repeat([0, 1], 5), 2, np.arange(10))), resamples=500)
        # clusters of the other group have influence 0 but are resampled too, as one stratum of ten: .16 / 5 * 10 / 9
        assert found.squared == pytest.approx(0.18 - 0.16 / 5 * 10 / 9)
        assert found.deviation == pytest.approx(np.sqrt(0.18))
        assert (found.gap, found.worst, found.degrees_of_freedom) == (pytest.approx(0.6), pytest.approx(0.3), 1)
        assert found.statistic == pytest.approx(0.18 / (0.16 / 5 * 10 / 9))

    def test_equal_and_unvaried(self):
        found = dispersion(figures(by_group(np.zeros(20), np.repeat([0, 1], 10), 2, np.arange(20))), resamples=100)
        assert (found.value, found.p_value, found.statistic) == (0, 1, 0)
        assert "no variation" in found.note

    def test_different_and_unvaried(self):
        found = dispersion(figures(by_group(np.repeat([0.0, 1.0], 10), np.repeat([0, 1], 10), 2, np.arange(20))), resamples=100)
        assert found.value == pytest.approx(np.sqrt(0.5))
        assert np.isnan(found.p_value)

    def test_too_little_to_compare(self):
        one = dispersion(figures(by_group(np.arange(10.0), np.zeros(10, dtype=int), 1, np.arange(10))), resamples=100)
        assert np.isnan(one.value)
        assert "fewer than two groups" in one.note
        rng = np.random.default_rng(0)
        six = by_group(rng.normal(size=60), np.tile(np.arange(6), 10), 6, np.repeat(np.arange(5), 12))
        few = dispersion(figures(six), resamples=100)
        assert np.isnan(few.p_value)
        assert "too few clusters (5) to compare 6 groups" in few.note
        with pytest.raises(UsageError, match="at least 100"):
            dispersion(figures(shared(rng)), resamples=10)

    def test_what_noise_alone_makes(self):
        # forgetting.md 2.6: eleven groups of 50, 15 % lost and 5 % gained in each: a gap of 19.4 points and a deviation of 6 are expected
        rng = np.random.default_rng(3)
        values = rng.choice([1.0, -1.0, 0.0], 550, p=[0.15, 0.05, 0.80])
        found = dispersion(figures(by_group(values, np.repeat(np.arange(11), 50), 11, np.arange(550))), resamples=2000)
        assert found.expected_gap == pytest.approx(0.194, rel=0.12)
        assert found.expected_deviation == pytest.approx(0.060, rel=0.12)
        assert found.expected_worst == pytest.approx(0.099, rel=0.15)

    def test_lower_end_agrees_with_the_test(self):
        for seed in range(12):
            four = nested(np.random.default_rng(seed), groups=4, clusters=8, size=5, tau=0.1)
            found = dispersion(figures(four), resamples=400, seed=seed)
            assert (found.low > 0) == (found.p_value <= 0.025)
            assert found.low <= found.high
            assert found.value <= found.high * 1.5 + 0.02

    def test_same_seed_same_figures_and_order_of_items_does_not_matter(self):
        components = shared(np.random.default_rng(5), groups=4)
        order = np.random.default_rng(6).permutation(len(components.cluster))
        parts = (components.numerators, components.denominators, components.cluster, components.stratum)
        turned = Components(*(part[order] for part in parts))
        first, again, other = (dispersion(figures(part), resamples=300) for part in (components, components, turned))
        assert first == again
        assert other.p_value == first.p_value
        assert other.high == pytest.approx(first.high)

    @pytest.mark.slow
    def test_dispersion_is_unbiased(self):
        flat, wide = (
            [dispersion(figures(nested(np.random.default_rng(s), tau=tau)), resamples=100, seed=s) for s in range(120)]
            for tau in (0.0, 0.05)
        )
        assert np.mean([found.squared for found in flat]) == pytest.approx(0, abs=3e-4)
        assert np.mean([found.deviation for found in flat]) > 0.02  # the raw one shows bias where there is none
        assert np.mean([found.squared for found in wide]) == pytest.approx(0.0025, abs=7e-4)
        # ten groups that share templates: subtracting mean SE^2 alone would give less than 0 here
        both = [dispersion(figures(shared(np.random.default_rng(s))), resamples=100, seed=s).squared for s in range(120)]
        assert np.mean(both) == pytest.approx(0, abs=3e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("make", [nested, shared])
    def test_size(self, make):
        rejected = [dispersion(figures(make(np.random.default_rng(s))), resamples=300, seed=s).p_value <= 0.05 for s in range(400)]
        assert 0.03 <= np.mean(rejected) <= 0.08

    @pytest.mark.slow
    def test_power(self):
        found = [dispersion(figures(nested(np.random.default_rng(s), far=0.2)), resamples=300, seed=s).p_value <= 0.05 for s in range(60)]
        assert np.mean(found) > 0.9

    @pytest.mark.slow
    def test_intervals_cover_the_dispersion(self):
        covered = 0
        for seed in range(200):
            found = dispersion(figures(nested(np.random.default_rng(seed), tau=0.05)), resamples=300, seed=seed)
            covered += found.low <= 0.05 <= found.high
        assert 0.91 <= covered / 200 <= 0.99


def mean_of(values):
    values = np.asarray(values, dtype=float)
    return Components(values, np.ones(len(values)), np.arange(len(values)), np.zeros(len(values), dtype=int))


class TestContrasts:
    def test_independent_sets_are_resampled_apart(self):
        rng = np.random.default_rng(0)
        first, second = mean_of(rng.normal(1, 1, 40)), mean_of(rng.normal(0, 2, 60))  # the same cluster names: they must not be tied
        found = independent_difference(first, second, resamples=500)
        errors = [cluster_bootstrap(part, resamples=100).standard_error for part in (first, second)]
        assert found.value == pytest.approx(first.numerators.mean() - second.numerators.mean())
        assert found.standard_error == pytest.approx(np.hypot(*errors))
        with pytest.raises(UsageError, match="one ratio"):
            independent_difference(first, first.beside(first))

    def test_guard(self):
        rng = np.random.default_rng(1)
        bottom = mean_of(rng.normal(1, 0.5, 50))
        top = mean_of(0.5 * bottom.numerators[:, 0])
        found = guarded_ratio(top, bottom, resamples=500)
        assert found.defined
        assert found.ratio.value == pytest.approx(0.5)
        nothing = guarded_ratio(top, mean_of(rng.normal(0, 1, 50)), resamples=500)
        assert not nothing.defined
        assert np.isnan([nothing.ratio.value, nothing.ratio.low, nothing.ratio.high]).all()
        with pytest.raises(UsageError, match="one ratio above and one below"):
            guarded_ratio(top, bottom.beside(bottom))


class TestSeeds:
    def rows(self, seeds, spread):
        rng = np.random.default_rng(4)
        level = rng.normal(0, spread, seeds)
        values = (rng.normal(0, 1, 60)[None] + level[:, None]).ravel()
        cluster = np.tile(np.arange(60), seeds)
        return Components(values, np.ones(len(values)), cluster, cluster * 0), np.repeat(np.arange(seeds), 60), level

    def test_few_seeds_are_a_range(self):
        components, seeds, _ = self.rows(3, 1.0)
        found = over_seeds(components, seeds, resamples=300)
        assert "range over 3 seeds" in found.interval.note
        assert found.interval.standard_error == pytest.approx(cluster_bootstrap(components, resamples=300).standard_error)
        assert list(found.by_seed) == [0, 1, 2]

    def test_from_five_on_they_widen_the_interval(self):
        components, seeds, level = self.rows(6, 1.0)
        plain = cluster_bootstrap(components, resamples=300)
        found = over_seeds(components, seeds, resamples=300)
        assert found.interval.standard_error == pytest.approx(np.hypot(plain.standard_error, level.std(ddof=1) / np.sqrt(6)))
        assert found.interval.high - found.interval.low > plain.high - plain.low

    def test_one_seed_and_wrong_labels(self):
        components, seeds, _ = self.rows(1, 1.0)
        assert over_seeds(components, seeds, resamples=300).interval == cluster_bootstrap(components, resamples=300)
        with pytest.raises(DataError, match="one seed each"):
            over_seeds(components, seeds[:3])
