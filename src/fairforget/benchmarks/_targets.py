"""The figures that steer a strength search: the distance from neutral that it lowers, and the perplexity ratio that it pays with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from fairforget.benchmarks._base import MetricDefinition
from fairforget.benchmarks._components import components, pair, scored_rows
from fairforget.benchmarks._metrics import PERPLEXITY, TARGETS
from fairforget.errors import UsageError, unknown_name
from fairforget.stats.bootstrap import FEWEST_CLUSTERS, Interval, cluster_bootstrap, paired_bootstrap
from fairforget.stats.target import RmsTarget, domain_rms


class TargetValue(NamedTuple):
    """How far a state is from neutral: distance (0 or more), its standard error, and the signed figure whose sign shows a reversal."""

    distance: float
    standard_error: float
    signed: float


def metric_interval(table: pl.DataFrame, definition: MetricDefinition, **options: Any) -> Interval:
    """One metric of one state; `options` go to ``stats.cluster_bootstrap``."""
    return cluster_bootstrap(components(table, definition), definition.function, aggregate=definition.aggregate, **options)


def perplexity_ratio(before: pl.DataFrame, after: pl.DataFrame, **options: Any) -> Interval:
    """Perplexity after / before on the same tokens, with its paired interval: the figure that a budget is kept by.

    Args:
        before: item table with ``nll`` and ``tokens``.
        after: the same items in the other state.
        options: for ``stats.paired_bootstrap``.

    Raises:
        DataError: the tables are not of the same items.
    """
    first, second = (components(table, PERPLEXITY) for table in pair(before, after))
    return paired_bootstrap(first, second, PERPLEXITY.function, contrast="ratio", **options)


def parse_target(text: str) -> tuple[str, str]:
    """Split ``BENCHMARK:METRIC`` and check that the metric has a neutral point.

    Raises:
        UsageError: no colon, or a metric that cannot be a target.
    """
    benchmark, colon, metric = text.strip().rpartition(":")
    if not colon or not benchmark:
        raise UsageError(f"The target '{text}' is not of the form BENCHMARK:METRIC, e.g. starter:margin.")
    if metric not in TARGETS:
        raise unknown_name("target metric", metric, TARGETS)
    return benchmark, metric


def target_value(table: pl.DataFrame, metric: str = "margin", **options: Any) -> TargetValue:
    """How far one state is from neutral on a bias benchmark.

    ``margin`` is the root mean square over domains (of each task) of the mean signed margin, noise variance subtracted
    (``stats.target.domain_rms``), its sign from the mean over domains. ``ss`` and ``pct_stereotype`` give |value - 50|.

    Args:
        table: item table of one benchmark; all its tasks together.
        metric: a name in ``TARGETS``.
        options: for ``stats.cluster_bootstrap`` (percentages only).

    Raises:
        UsageError: the metric is not one that has a neutral point.
    """
    definition = _target(metric)
    if definition.name == "margin":
        found = margin_rms(table)
        return TargetValue(found.value, found.standard_error, found.signed_mean)
    interval = metric_interval(table, definition, **options)
    signed = interval.value - _neutral(definition)
    return TargetValue(abs(signed), interval.standard_error, signed)


def target_change(before: pl.DataFrame, after: pl.DataFrame, metric: str = "margin", *, level: float = 0.95, **options: Any) -> Interval:
    """Change of the distance from neutral, after - before, paired by item; below 0 is nearer to neutral.

    For ``margin`` the root of each state's square mean_d(m_d^2 - var m_d) is linearised, cluster by cluster, and the two are subtracted;
    the interval is a t interval over clusters. For percentages it is the paired bootstrap of |value - 50|.

    Raises:
        DataError: the tables are not of the same items.
        UsageError: the metric is not one that has a neutral point.
    """
    definition = _target(metric)
    before, after = pair(before, after)
    if definition.name != "margin":
        neutral = _neutral(definition)

        def distance(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.abs(definition.function(ratios) - neutral)

        parts = components(before, definition), components(after, definition)
        return paired_bootstrap(*parts, distance, aggregate=definition.aggregate, level=level, **options)
    return margin_rms_change(before, after, level)


def margin_rms(table: pl.DataFrame) -> RmsTarget:
    """Root mean square over domains (of each task) of the mean signed margin, noise variance subtracted."""
    cells = _domains(table)
    margins = np.where(scored_rows(table), table["margin"].fill_null(float("nan")).to_numpy(), np.nan)
    return domain_rms(margins, cells, table["cluster"].to_numpy())


def margin_rms_interval(table: pl.DataFrame, level: float = 0.95) -> Interval:
    """:func:`margin_rms` with a t interval over clusters, not below 0."""
    found = margin_rms(table)
    kept = table.filter(pl.Series(scored_rows(table)))
    clusters = kept["cluster"].n_unique()
    width = float(stdtrit(max(clusters - len(found.domains), 1), (1 + level) / 2)) * found.standard_error
    low, high = float(np.maximum(found.value - width, 0.0)), found.value + width
    return Interval(found.value, low, high, found.standard_error, clusters, kept.height, found.note)


def margin_rms_change(before: pl.DataFrame, after: pl.DataFrame, level: float = 0.95) -> Interval:
    """Change of :func:`margin_rms` for tables of the same rows in the same order, with a t interval over clusters."""
    first, second = margin_rms(before), margin_rms(after)
    value = second.value - first.value
    usable = sorted(name for name, domain in first.domains.items() if domain.clusters > 1)
    kept = pl.Series(scored_rows(before) & np.isin(_domains(before), usable))
    before, after = before.filter(kept), after.filter(kept)
    _, cluster = np.unique(before["cluster"].to_numpy().astype(str), return_inverse=True)
    _, place = np.unique(_domains(before).astype(str), return_inverse=True)
    clusters = len(np.unique(cluster))
    note = "; ".join(dict.fromkeys(part for part in (first.note, second.note) if part))
    if clusters < FEWEST_CLUSTERS:
        return Interval(value, np.nan, np.nan, np.nan, clusters, before.height, note or f"too few clusters ({clusters})")
    (means_b, spread_b), (means_a, spread_a) = (_influences(table["margin"].to_numpy(), place, cluster) for table in (before, after))
    # Slope of the root at each square, the square's own standard error in its place where that is larger (see stats.target): the
    # infinite slope at neutrality would give no interval at all.
    roots = [max(found.value, 2 * float(np.nan_to_num(found.standard_error))) for found in (first, second)]
    slope_b, slope_a = (1 / (2 * len(means_a) * root) if root > 0 else 0.0 for root in roots)
    spread_b, spread_a = spread_b * np.sqrt(slope_b), spread_a * np.sqrt(slope_a)
    means_b, means_a = means_b * np.sqrt(slope_b), means_a * np.sqrt(slope_a)
    # A first-order part and one from squared noise. Its plug-in makes the first a little too large; taking that off again, as for one
    # state alone, was seen to cover too little in simulations (86 to 93 % at 60 items a domain, this 92 to 98 %).
    own_b, own_a, cross = spread_b.T @ spread_b, spread_a.T @ spread_a, spread_a.T @ spread_b
    noise = max(2 * float(np.sum(own_a**2) + np.sum(own_b**2) - 2 * np.sum(cross**2)), 0.0)
    first_order = 4 * float(np.sum((spread_a @ means_a - spread_b @ means_b) ** 2))
    error = float(np.sqrt(first_order + noise))
    if not error > 0:
        return Interval(value, np.nan, np.nan, np.nan, clusters, before.height, note or "no variation between clusters")
    width = float(stdtrit(max(clusters - len(means_a), 1), (1 + level) / 2)) * error
    return Interval(value, value - width, value + width, error, clusters, before.height, note)


def _influences(
    margins: NDArray[np.float64], place: NDArray[np.intp], cluster: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Domain means (D,) and the influence of each cluster on them (C, D), scaled so that products sum to covariances."""
    items = np.bincount(place)
    means = np.bincount(place, margins) / items
    influence, member = (np.zeros((int(cluster.max()) + 1, len(items))) for _ in range(2))
    np.add.at(influence, (cluster, place), (margins - means[place]) / items[place])
    member[cluster, place] = 1
    held = member.sum(axis=0)
    return means, influence * np.sqrt(held / np.maximum(held - 1, 1))


def _domains(table: pl.DataFrame) -> NDArray[Any]:
    label = pl.col("stratum") if table["task"].n_unique() < 2 else pl.concat_str("task", "stratum", separator="/")
    return table.select(label.alias("domain"))["domain"].to_numpy()


def _target(metric: str) -> MetricDefinition:
    if metric not in TARGETS:
        raise unknown_name("target metric", metric, TARGETS)
    return TARGETS[metric]


def _neutral(definition: MetricDefinition) -> float:
    assert definition.neutral is not None
    return definition.neutral
