"""The cluster bootstrap against a slow, obvious reference, known standard errors, and coverage by simulation."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairforget.errors import DataError, UsageError
from fairforget.stats import Components, Statistic, cluster_bootstrap, paired_bootstrap, simultaneous
from fairforget.stats.cluster_sums import cluster_sums, resample_counts


def icat(ratios):
    lms, ss = ratios[..., 0], ratios[..., 1]
    return lms * np.minimum(ss, 100 - ss) / 50


def icat_partials(lms, ss):
    return np.array([min(ss, 100 - ss) / 50, (lms if ss < 50 else -lms) / 50])


def mean_of(values, cluster, stratum=None):
    return Components(values, np.ones(len(values)), cluster, np.zeros(len(values), dtype=int) if stratum is None else stratum)


def clustered(rng, clusters, size, cluster_sd=0.2, item_sd=0.4):
    values = rng.normal(0, cluster_sd, clusters)[:, None] + rng.normal(0, item_sd, (clusters, size))
    return values.ravel(), np.repeat(np.arange(clusters), size)


def reference_figure(numerators, denominators, strata, aggregate):
    """ICAT and its linearised standard error from lists with one entry per drawn cluster, in plain Python."""
    if aggregate == "macro":
        numerators, denominators = [n / d for n, d in zip(numerators, denominators, strict=True)], [np.ones(2) for _ in denominators]
    totals = sum(denominators)
    ratios = sum(numerators) / totals
    slopes = icat_partials(*ratios)
    variance = 0.0
    for name in sorted(set(strata)):
        own = [
            float(np.sum(slopes * (n - ratios * d) / totals))
            for n, d, stratum in zip(numerators, denominators, strata, strict=True) if stratum == name
        ]
        variance += len(own) * np.var(own, ddof=1)
    return float(icat(ratios)), float(np.sqrt(variance))


@pytest.mark.parametrize("aggregate", ["micro", "macro"])
def test_equals_the_slow_reference(aggregate):
    rng = np.random.default_rng(5)
    cluster = rng.permutation(np.concatenate([np.arange(14), rng.integers(0, 14, 90)]))
    stratum = cluster % 2
    quality = rng.uniform(0.6, 0.9, 14)[cluster]
    numerators = np.stack([100.0 * (rng.random(len(cluster)) < quality), 100.0 * (rng.random(len(cluster)) < 0.7)], axis=1)
    weights = np.stack([np.ones(len(cluster)), rng.integers(1, 4, len(cluster))], axis=1).astype(float)
    components = Components(numerators * weights, weights, cluster, stratum)

    sums = cluster_sums(components, "micro")
    order = sorted(range(14), key=lambda c: (c % 2, c))
    by_cluster = [((numerators * weights)[cluster == c].sum(axis=0), weights[cluster == c].sum(axis=0), c % 2) for c in order]
    value, error = reference_figure(*zip(*by_cluster, strict=True), aggregate)
    studentised = []
    for counts in np.concatenate(list(resample_counts(sums, 400, seed=3))):
        drawn = [entry for entry, times in zip(by_cluster, counts, strict=True) for _ in range(int(times))]
        replicate, replicate_error = reference_figure(*zip(*drawn, strict=True), aggregate)
        studentised.append((replicate - value) / replicate_error)
    lower, upper = np.quantile(studentised, [0.025, 0.975], method="inverted_cdf")

    interval = cluster_bootstrap(components, icat, aggregate=aggregate, resamples=400, seed=3)
    expected = [value, error, value - upper * error, value - lower * error]
    np.testing.assert_allclose([interval.value, interval.standard_error, interval.low, interval.high], expected, rtol=1e-7)
    assert (interval.clusters, interval.items, interval.note) == (14, 104, "")


def test_counts_are_multinomial_within_strata():
    cluster = np.arange(24)
    sums = cluster_sums(mean_of(np.arange(24.0), cluster, (cluster >= 8).astype(int)), "micro")
    counts = np.concatenate(list(resample_counts(sums, 20_000, seed=0)))
    assert (counts[:, :8].sum(axis=1) == 8).all()
    assert (counts[:, 8:].sum(axis=1) == 16).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.04)
    np.testing.assert_allclose(counts.var(axis=0), [7 / 8] * 8 + [15 / 16] * 16, atol=0.06)
    np.testing.assert_allclose(np.cov(counts[:, 0], counts[:, 1])[0, 1], -1 / 8, atol=0.03)


def test_resamples_do_not_depend_on_the_chunk(monkeypatch):
    components = mean_of(*clustered(np.random.default_rng(0), 20, 3))
    whole = cluster_bootstrap(components, resamples=500)
    monkeypatch.setattr("fairforget.stats.cluster_sums._CHUNK_ELEMENTS", 60)
    assert cluster_bootstrap(components, resamples=500) == whole


def test_one_item_per_cluster_gives_the_textbook_standard_error():
    values = np.random.default_rng(1).normal(size=200)
    interval = cluster_bootstrap(mean_of(values, np.arange(200)), resamples=4000)
    assert interval.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=1e-9)
    half = 1.972 * interval.standard_error  # t with 199 degrees of freedom
    assert interval.high - interval.value == pytest.approx(half, rel=0.08)
    assert interval.value - interval.low == pytest.approx(half, rel=0.08)


def test_clusters_not_items_decide_the_standard_error():
    # 25 templates of 147 items, template sd 0.2, item sd 0.4: the truth is sqrt(0.04/25 + 0.16/3675) = 0.0405; counting items gives 0.0074.
    errors = [cluster_bootstrap(mean_of(*clustered(np.random.default_rng(s), 25, 147)), resamples=100).standard_error for s in range(40)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(0.0405, rel=0.1)


def test_strata_take_their_differences_out():
    values, cluster = clustered(np.random.default_rng(2), 40, 5)
    far = values + 10.0 * (cluster % 4)
    flat = cluster_bootstrap(mean_of(far, cluster), resamples=200).standard_error
    stratified = cluster_bootstrap(mean_of(far, cluster, cluster % 4), resamples=200).standard_error
    assert stratified < 0.1 * flat
    assert stratified == pytest.approx(cluster_bootstrap(mean_of(values, cluster, cluster % 4), resamples=200).standard_error, rel=1e-9)


@pytest.mark.parametrize(("skewed", "clusters"), [(False, 25), (True, 40)])
def test_intervals_cover_the_truth(skewed, clusters):
    simulations, covered = 500, 0
    for number in range(simulations):
        rng = np.random.default_rng(number)
        sizes = rng.integers(1, 12, clusters)
        cluster = np.repeat(np.arange(clusters), sizes)
        values = rng.normal(0, 0.5, clusters)[cluster] + rng.normal(0, 0.5, len(cluster))
        if skewed:
            values = np.exp(values)
        truth = np.exp(0.25) if skewed else 0.0
        interval = cluster_bootstrap(mean_of(values, cluster, cluster % 3), resamples=500, seed=number)
        covered += interval.low <= truth <= interval.high
    # 500 simulations: standard error of the coverage 1 point.
    assert 0.92 <= covered / simulations <= 0.97


def test_micro_weighs_items_and_macro_weighs_clusters():
    cluster = np.repeat(np.arange(6), [10, 1, 1, 1, 1, 1])
    components = mean_of(np.where(cluster == 0, 1.0, 0.0), cluster)
    assert cluster_bootstrap(components, resamples=100).value == pytest.approx(10 / 15)
    assert cluster_bootstrap(components, aggregate="macro", resamples=100).value == pytest.approx(1 / 6)


def test_macro_leaves_out_clusters_without_measured_items():
    cluster = np.repeat(np.arange(8), 3)
    measured = (cluster != 7).astype(float)
    interval = cluster_bootstrap(Components(measured * (cluster + 1), measured, cluster, cluster * 0), aggregate="macro", resamples=200)
    assert interval.value == pytest.approx(4.0)
    assert (interval.clusters, interval.items) == (7, 21)


def test_pairing_shrinks_the_interval_and_equals_the_bootstrap_of_differences():
    rng = np.random.default_rng(3)
    before, cluster = clustered(rng, 30, 6)
    after = before + rng.normal(0.05, 0.02, len(before))
    paired = paired_bootstrap(mean_of(before, cluster), mean_of(after, cluster), resamples=1000)
    direct = cluster_bootstrap(mean_of(after - before, cluster), resamples=1000)
    np.testing.assert_allclose([paired.value, paired.low, paired.high], [direct.value, direct.low, direct.high], rtol=1e-5)
    assert paired.standard_error < 0.2 * cluster_bootstrap(mean_of(after, cluster), resamples=100).standard_error


def test_perplexity_ratio_by_delta_method():
    rng = np.random.default_rng(4)
    tokens = rng.integers(50, 100, 60).astype(float)
    cluster = np.arange(60) // 2
    base = tokens * rng.normal(3.0, 0.2, 60)
    edited = base + tokens * rng.normal(0.02, 0.01, 60)
    before, after = (Components(nll, tokens, cluster, cluster * 0) for nll in (base, edited))
    interval = paired_bootstrap(before, after, lambda r: np.exp(r[..., 0]), contrast="ratio", resamples=1000)
    change = cluster_bootstrap(Components(edited - base, tokens, cluster, cluster * 0), resamples=1000)
    assert interval.value == pytest.approx(np.exp(change.value), rel=1e-9)
    assert interval.standard_error == pytest.approx(interval.value * change.standard_error, rel=1e-4)
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("preference", [50, 54])
def test_intervals_of_icat_cover_the_truth_near_its_fold(preference):
    simulations, covered = 250, 0
    cluster = np.repeat(np.arange(60), 4)
    for number in range(simulations):
        rng = np.random.default_rng(number)
        chances = np.stack([rng.beta(16, 4, 60), rng.beta(preference / 5, 20 - preference / 5, 60)], axis=1)[cluster]
        components = Components(100.0 * (rng.random((240, 2)) < chances), np.ones((240, 2)), cluster, cluster % 4)
        interval = cluster_bootstrap(components, icat, resamples=300, seed=number)
        covered += interval.low <= 80 * (100 - preference) / 50 <= interval.high
    # 250 simulations: standard error of the coverage 1.4 points. Equal tails cover 82 % at 54.
    assert 0.91 <= covered / simulations <= 0.99


def test_a_fold_is_said_where_it_is_in_reach_only():
    def at(preference):
        rng = np.random.default_rng(0)
        values = 100.0 * (rng.random((400, 2)) < [0.9, preference])
        return cluster_bootstrap(Components(values, np.ones((400, 2)), np.arange(400), np.zeros(400)), icat, resamples=1000)

    near, far = at(0.52), at(0.75)
    assert near.note == "near a fold of the metric: symmetric interval"
    assert near.high - near.value == pytest.approx(near.value - near.low)
    assert far.note == ""


def test_standard_error_does_not_vanish_at_the_kink_of_icat():
    cluster = np.repeat(np.arange(50), 2)
    numerators = np.stack([np.full(100, 80.0), np.where(cluster % 2, 100.0, 0.0)], axis=1)
    interval = cluster_bootstrap(Components(numerators, np.ones((100, 2)), cluster, cluster * 0), icat, resamples=200)
    assert interval.value == pytest.approx(80.0)
    assert interval.standard_error == pytest.approx(80 / 50 * 50 / np.sqrt(49), rel=1e-3)


class TestDegenerate:
    def test_too_few_clusters(self):
        interval = cluster_bootstrap(mean_of(np.arange(8.0), np.arange(8) % 4))
        assert interval.value == 3.5
        assert np.isnan([interval.low, interval.high, interval.standard_error]).all()
        assert interval.note == "too few clusters (4)"

    def test_one_cluster(self):
        assert cluster_bootstrap(mean_of(np.arange(8.0), np.zeros(8))).note == "too few clusters (1)"

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e9 / 3])
    def test_no_variation(self, value):
        cluster = np.repeat(np.arange(30), 7)
        interval = cluster_bootstrap(mean_of(np.full(210, value), cluster))
        assert interval.value == pytest.approx(value)
        assert np.isnan([interval.low, interval.high, interval.standard_error]).all()
        assert interval.note == "no variation between clusters"

    def test_identical_states(self):
        values, cluster = clustered(np.random.default_rng(0), 30, 4)
        interval = paired_bootstrap(mean_of(values, cluster), mean_of(values, cluster))
        assert interval.value == 0.0
        assert interval.note == "no variation between clusters"

    def test_empty(self):
        nothing = np.array([])
        interval = cluster_bootstrap(Components(nothing, nothing, nothing, nothing))
        assert np.isnan([interval.value, interval.low, interval.high]).all()
        assert (interval.clusters, interval.items, interval.note) == (0, 0, "nothing was measured")

    def test_denominator_zero(self):
        cluster = np.arange(10)
        denominators = np.stack([np.ones(10), np.zeros(10)], axis=1)
        interval = cluster_bootstrap(Components(np.ones((10, 2)), denominators, cluster, cluster * 0), icat)
        assert np.isnan([interval.value, interval.low, interval.high]).all()
        assert interval.note == "a denominator is 0"

    def test_undefined_value(self):
        cluster = np.arange(10)
        interval = cluster_bootstrap(mean_of(cluster - 20.0, cluster), lambda r: np.log(r[..., 0]))
        assert np.isnan([interval.value, interval.low, interval.high]).all()
        assert interval.note == "not defined at these values"

    def test_too_often_undefined(self):
        # The mean is barely above 0, so it is below in nearly half of the resamples, where its logarithm is not defined.
        cluster = np.arange(8)
        interval = cluster_bootstrap(mean_of(np.array([-3.0, -2, -1, 0, 1, 2, 2, 2]), cluster), lambda r: np.log(r[..., 0]), resamples=1000)
        assert interval.value == pytest.approx(np.log(1 / 8))
        assert np.isnan([interval.low, interval.high]).all()
        assert interval.note.startswith("too often undefined; undefined in ")

    def test_strata_of_one_cluster_are_pooled_and_said(self):
        values, cluster = clustered(np.random.default_rng(0), 12, 3)
        each = cluster_bootstrap(mean_of(values, cluster, cluster), resamples=500)
        together = cluster_bootstrap(mean_of(values, cluster), resamples=500)
        assert (each.low, each.high) == (together.low, together.high)
        assert each.note == "12 strata of one cluster pooled"
        lonely = cluster_bootstrap(mean_of(values, cluster, (cluster == 0).astype(int)), resamples=500)
        assert lonely.note == "a stratum of one cluster pooled with another"
        assert (lonely.low, lonely.high) == (together.low, together.high)

    def test_rare_events_get_a_wide_t_interval(self):
        values = np.zeros(30)
        values[0] = 1.0
        interval = cluster_bootstrap(mean_of(values, np.arange(30)))
        assert interval.note.startswith("rare events: t interval with 2.")
        assert interval.high > 0.149  # the score interval of 1 in 30 ends at 0.167, the Wald interval at 0.098
        assert np.isfinite(interval.low)

    def test_wrong_input(self):
        ones, cluster = np.ones(6), np.arange(6)
        with pytest.raises(DataError, match="several strata"):
            cluster_bootstrap(Components(ones, ones, cluster // 2, cluster % 2))
        with pytest.raises(DataError, match="do not fit"):
            Components(ones, ones, cluster[:3], cluster)
        with pytest.raises(DataError, match="1 of 6 items"):
            Components(np.array([1, 2, np.nan, 3, 4, 5.0]), ones, cluster, cluster)
        with pytest.raises(DataError, match="negative"):
            Components(ones, -ones, cluster, cluster)
        with pytest.raises(DataError, match="paired"):
            paired_bootstrap(mean_of(ones, cluster), mean_of(ones, cluster[::-1]))
        with pytest.raises(DataError, match="1 ratios before, 2 after"):
            paired_bootstrap(mean_of(ones, cluster), Components(np.ones((6, 2)), np.ones((6, 2)), cluster, cluster * 0))
        with pytest.raises(UsageError, match="needs a function"):
            cluster_bootstrap(Components(np.ones((6, 2)), np.ones((6, 2)), cluster, cluster * 0))
        with pytest.raises(UsageError, match="must map"):
            cluster_bootstrap(Components(np.ones((6, 2)), np.ones((6, 2)), cluster, cluster * 0), lambda r: r)
        with pytest.raises(UsageError, match="resamples"):
            cluster_bootstrap(mean_of(ones, cluster), resamples=10)
        with pytest.raises(UsageError, match="level"):
            cluster_bootstrap(mean_of(ones, cluster), level=95)
        with pytest.raises(UsageError, match="aggregation"):
            cluster_bootstrap(mean_of(ones, cluster), aggregate="mean")

    def test_skipped_items_may_have_no_numerator(self):
        rng = np.random.default_rng(0)
        values, cluster = clustered(rng, 10, 4)
        weights = (rng.random(40) < 0.8).astype(float)
        with_gaps = cluster_bootstrap(Components(np.where(weights > 0, values, np.nan), weights, cluster, cluster * 0), resamples=200)
        scored = weights > 0
        assert with_gaps == cluster_bootstrap(mean_of(values[scored], cluster[scored]), resamples=200)


class TestSimultaneous:
    def groups(self, rng, clusters=30, size=8, groups=6):
        values, cluster = clustered(rng, clusters, size)
        member = rng.random((len(values), groups)) < 0.4
        return Components(values[:, None] * member, member.astype(float), cluster, cluster % 2)

    def test_wider_than_pointwise_and_no_wider_than_bonferroni(self):
        components = self.groups(np.random.default_rng(0))
        joint = simultaneous(components, {f"g{k}": Statistic((k,)) for k in range(6)}, resamples=4000)
        bonferroni = simultaneous(components, {"g2": Statistic((2,))}, resamples=4000, level=1 - 0.05 / 6)["g2"]
        single = simultaneous(components, {"g2": Statistic((2,))}, resamples=4000)["g2"]
        width = [round(interval.high - interval.low, 6) for interval in (single, joint["g2"], bonferroni)]
        assert width[0] < width[1] < 1.1 * width[2]
        assert list(joint) == [f"g{k}" for k in range(6)]

    def test_joint_coverage(self):
        simulations, kept = 250, 0
        for number in range(simulations):
            components = self.groups(np.random.default_rng(number))
            joint = simultaneous(components, {str(k): Statistic((k,)) for k in range(6)}, resamples=300, seed=number)
            kept += all(interval.low <= 0 <= interval.high for interval in joint.values())
        # 250 simulations: standard error of the coverage 1.4 points.
        assert 0.91 <= kept / simulations <= 0.985

    def test_a_group_without_interval_leaves_the_others_alone(self):
        rng = np.random.default_rng(1)
        values, cluster = clustered(rng, 30, 4)
        rare = np.zeros(120)
        rare[0] = 1.0
        member = np.stack([np.ones(120), (cluster < 3).astype(float), np.ones(120)], axis=1)
        components = Components(np.stack([values, values, rare], axis=1), member, cluster, cluster * 0)
        change = Statistic((0, 2), lambda r: r[..., 1] - r[..., 0])
        names = {"all": Statistic((0,)), "few": Statistic((1,)), "rare": Statistic((2,)), "change": change}
        joint = simultaneous(components, names, resamples=2000)
        assert joint["few"].note == "too few clusters (3)"
        assert np.isnan(joint["few"].low)
        assert joint["rare"].note.startswith("rare events")
        assert np.isfinite([joint[name].low for name in ("all", "rare", "change")]).all()
        assert joint["all"].high - joint["all"].low < 8 * joint["all"].standard_error

    def test_none_usable(self):
        components = mean_of(np.arange(4.0), np.arange(4))
        assert np.isnan(simultaneous(components, {"x": Statistic((0,))})["x"].low)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.1, 10))
def test_moves_and_scales_with_the_data(seed, shift, scale):
    values, cluster = clustered(np.random.default_rng(seed), 9, 3)
    plain = cluster_bootstrap(mean_of(values, cluster), resamples=150, seed=seed)
    moved = cluster_bootstrap(mean_of(values * scale + shift, cluster), resamples=150, seed=seed)
    expected = [plain.value * scale + shift, plain.low * scale + shift, plain.high * scale + shift, plain.standard_error * scale]
    np.testing.assert_allclose([moved.value, moved.low, moved.high, moved.standard_error], expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_order_of_items_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    values, cluster = clustered(rng, 12, 4)
    names = np.array([f"template {c}" for c in cluster], dtype=object)
    order = rng.permutation(len(values))
    first = cluster_bootstrap(mean_of(values, names, cluster % 2), resamples=150)
    second = cluster_bootstrap(mean_of(values[order], names[order], cluster[order] % 2), resamples=150)
    np.testing.assert_allclose([first.low, first.high], [second.low, second.high], rtol=1e-9)


def test_58_000_items_in_500_clusters_in_two_seconds():
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 500, 58_000)
    numerators = rng.random((58_000, 2)) * 100
    components = Components(numerators, np.ones_like(numerators), cluster, cluster % 11)
    start = time.perf_counter()
    interval = cluster_bootstrap(components, icat, aggregate="macro")
    assert time.perf_counter() - start < 2.0
    assert interval.low < interval.value < interval.high
