"""The search for an edit's strength: as near to neutral as the budget allows, on the `select` part alone, with the whole curve kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from fairforget.benchmarks._targets import TargetValue, perplexity_ratio, target_change, target_value
from fairforget.workflows.recipe import Search

COLLAPSE_RATIO = 3.0
"""A state whose perplexity is this many times the base's no longer models language, whatever its bias figures say."""

STRENGTH_SCHEMA: dict[str, pl.DataType] = {
    "strength": pl.Float64(),
    "phase": pl.String(),  # "budget" (perplexity only) or "target"
    "perplexity_ratio": pl.Float64(),
    "ratio_low": pl.Float64(),
    "ratio_high": pl.Float64(),
    "target": pl.Float64(),
    "target_se": pl.Float64(),
    "signed_mean": pl.Float64(),
    "within_budget": pl.Boolean(),
    "reversed": pl.Boolean(),
    "chosen": pl.Boolean(),
    "note": pl.String(),
}

Measure = Callable[[float, str], pl.DataFrame]
"""Item table at a strength, of ``perplexity`` or of ``target``."""


@dataclass(frozen=True)
class StrengthSearch:
    """The chosen strength and the curve behind it.

    Attributes:
        strength: 0 where no strength within the budget is nearer to neutral than the base by more than noise.
        limit: largest strength found within the budget.
        curve: ``STRENGTH_SCHEMA``, by strength.
        reason: why this strength, in a sentence.
    """

    strength: float
    limit: float
    curve: pl.DataFrame
    reason: str


@dataclass
class _Point:
    strength: float
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    within: bool | None = None
    target: TargetValue | None = None
    table: pl.DataFrame | None = None
    note: str = ""

    def row(self, chosen: float, base: TargetValue) -> dict[str, object]:
        target = self.target
        return {
            "strength": self.strength,
            "phase": "budget" if target is None else "target",
            "perplexity_ratio": self.ratio,
            "ratio_low": self.low,
            "ratio_high": self.high,
            "target": target.distance if target else None,
            "target_se": target.standard_error if target else None,
            "signed_mean": target.signed if target else None,
            "within_budget": self.within,
            "reversed": is_reversed(base, target) if target else None,
            "chosen": self.strength == chosen and target is not None,
            "note": self.note,
        }


def is_reversed(base: TargetValue, now: TargetValue) -> bool:
    """Whether the signed figure lies on the other side of neutral than the base's, by more than its standard error."""
    return base.signed * now.signed < 0 and abs(now.signed) > now.standard_error


def search_strength(
    measure: Measure, metric: str, budget_percent: float | None, settings: Search, *, resamples: int = 10_000, seed: int = 0
) -> StrengthSearch:
    """Find the strength.

    First the largest strength up to ``max_strength`` whose upper 95 % paired bound of the perplexity ratio keeps the budget, by
    bisection; then the target at even strengths from 0 to it, on the same items. The least distance from neutral wins; of the strengths
    whose distance exceeds it by no more than one standard error of their paired difference, the smallest is taken. With the rule
    ``budget`` the largest strength that keeps the budget is taken, wherever the target is there.

    Args:
        measure: gives the item table at a strength; called once per strength and kind.
        metric: target metric: ``margin``, ``pct_stereotype`` or ``ss``.
        budget_percent: allowed rise of perplexity; None for no budget.
        settings: bounds and numbers of steps.
        resamples: bootstrap resamples of the ratio's interval.
        seed: of the resamples.
    """
    points: dict[float, _Point] = {0.0: _Point(0.0, 1.0, 1.0, 1.0, within=True)}
    allowed = math.inf if budget_percent is None else 1 + budget_percent / 100

    def keeps(strength: float) -> bool:
        base, edited = measure(0.0, "perplexity"), measure(strength, "perplexity")
        ratio = perplexity_ratio(base, edited, resamples=resamples, seed=seed)
        # Too few articles for an interval: the value itself has to do, and the note says so.
        bound = ratio.high if math.isfinite(ratio.high) else ratio.value
        within = math.isfinite(bound) and bound <= allowed
        points[strength] = _Point(strength, ratio.value, ratio.low, ratio.high, within, note=ratio.note)
        if not math.isfinite(ratio.value) or ratio.value > COLLAPSE_RATIO:
            points[strength].note = "collapsed: no longer a language model"
        return within

    limit = settings.max_strength if budget_percent is None else _largest(keeps, settings)
    base_target = target_value(measure(0.0, "target"), metric)
    if limit == 0:
        points[0.0].target, points[0.0].table = base_target, measure(0.0, "target")
        reason = f"No strength tried (the smallest was {min(s for s in points if s):g}) keeps perplexity within {budget_percent:g} %."
        return StrengthSearch(0.0, 0.0, _curve(points, 0.0, base_target), reason)
    strengths = [limit * step / (settings.points - 1) for step in range(settings.points)] if settings.rule == "target" else [0.0, limit]
    for strength in strengths:
        point = points.setdefault(strength, _Point(strength))
        point.table = measure(strength, "target")
        point.target = target_value(point.table, metric)
        if budget_percent is not None and math.isnan(point.ratio):
            keeps(strength)
            points[strength].target, points[strength].table = point.target, point.table
    if settings.rule == "budget":
        spent = "it keeps the budget" if budget_percent is not None else "there is no budget"
        reason = f"The largest strength up to {settings.max_strength:g} was asked for, and {spent}."
        return StrengthSearch(limit, limit, _curve(points, limit, base_target), reason)
    candidates = [point for _, point in sorted(points.items()) if point.target is not None and point.within is not False]
    chosen = _choose(candidates, metric, base_target)
    reason = (
        f"Of {settings.points} strengths from 0 to {limit:g} it is the smallest whose distance from neutral is within one standard error "
        "of the least."
        if chosen else "No strength within the budget is nearer to neutral than the base by more than one standard error of the difference."
    )
    return StrengthSearch(chosen, limit, _curve(points, chosen, base_target), reason)


def given_strength(
    measure: Measure, metric: str, strength: float, budget_percent: float | None, *, resamples: int = 10_000, seed: int = 0
) -> StrengthSearch:
    """The figures of a strength that was given, in the form of a search; arguments as in :func:`search_strength`."""
    points = {0.0: _Point(0.0, 1.0, 1.0, 1.0, within=True), strength: _Point(strength)}
    if budget_percent is not None:
        ratio = perplexity_ratio(measure(0.0, "perplexity"), measure(strength, "perplexity"), resamples=resamples, seed=seed)
        bound = ratio.high if math.isfinite(ratio.high) else ratio.value
        points[strength] = _Point(strength, ratio.value, ratio.low, ratio.high, bound <= 1 + budget_percent / 100, note=ratio.note)
    for point in points.values():
        point.target = target_value(measure(point.strength, "target"), metric)
    base = points[0.0].target
    assert base is not None
    return StrengthSearch(strength, strength, _curve(points, strength, base), "It was given, not searched.")


def _largest(keeps: Callable[[float], bool], settings: Search) -> float:
    """Largest strength that keeps the budget, as far as bisection finds it; 0 if none does."""
    if keeps(settings.max_strength):
        return settings.max_strength
    low, high = 0.0, settings.max_strength
    for _ in range(settings.bisections):
        middle = (low + high) / 2
        if keeps(middle):
            low = middle
        else:
            high = middle
    return low


def _choose(candidates: list[_Point], metric: str, base: TargetValue) -> float:
    usable = [point for point in candidates if point.target is not None and not is_reversed(base, point.target)]
    best = min(usable, key=lambda point: point.target.distance)  # type: ignore[union-attr]
    assert best.target is not None and best.table is not None
    for point in usable:
        assert point.target is not None and point.table is not None
        if point is best:
            break
        change = target_change(point.table, best.table, metric)
        error = change.standard_error if math.isfinite(change.standard_error) else 0.0
        if point.target.distance - best.target.distance <= error:
            return point.strength
    return best.strength


def _curve(points: dict[float, _Point], chosen: float, base: TargetValue) -> pl.DataFrame:
    return pl.DataFrame([point.row(chosen, base) for _, point in sorted(points.items())], schema=STRENGTH_SCHEMA)
