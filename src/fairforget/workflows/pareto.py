"""The search over two dials, a bias edit and a capability edit, on the `select` part: as near to neutral as the budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from fairforget.benchmarks._targets import TargetValue, perplexity_ratio, target_change, target_value
from fairforget.edits import WeightEdit, combine
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.settings import Settings
from fairforget.tables import write_table
from fairforget.workflows.audit import measure
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import parse_recipe
from fairforget.workflows.run_folder import RunFolder, benchmark_facts, dataset_facts, model_facts
from fairforget.workflows.strength import COLLAPSE_RATIO, is_reversed

PARETO_SCHEMA: dict[str, pl.DataType] = {
    "bias": pl.Float64(),
    "capability": pl.Float64(),
    "perplexity_ratio": pl.Float64(),
    "ratio_low": pl.Float64(),
    "ratio_high": pl.Float64(),
    "target": pl.Float64(),
    "target_se": pl.Float64(),
    "signed_mean": pl.Float64(),
    "within_budget": pl.Boolean(),
    "reversed": pl.Boolean(),
    "pareto": pl.Boolean(),
    "chosen": pl.Boolean(),
    "note": pl.String(),
}

Dials = tuple[float, float]
"""Strength of the bias edit and of the capability edit."""

DialMeasure = Callable[[Dials, str], pl.DataFrame]
"""Item table at two strengths, of ``perplexity`` or of ``target``."""


class DialSearch(Settings):
    """Bounds and steps of the search."""

    max_bias: float = Field(1.0, gt=0)
    """Largest strength of the bias edit; 1 is the change as found."""
    max_capability: float = Field(1.0, gt=0)
    """Largest strength of the capability edit."""
    points: int = Field(5, ge=2, le=50)
    """Even strengths from 0 to the largest in each line that is searched."""
    rounds: int = Field(2, ge=1, le=20)
    """Most passes over the two dials; the step about the present point is halved in each."""


@dataclass(frozen=True)
class DialResult:
    """The chosen strengths and every point that was measured.

    Attributes:
        bias: strength of the bias edit; 0, like that of the capability edit, where nothing within the budget helped.
        capability: strength of the capability edit.
        table: ``PARETO_SCHEMA``, by bias and capability; ``pareto`` marks points that no other beats in both figures.
        reason: why these strengths, in a sentence.
    """

    bias: float
    capability: float
    table: pl.DataFrame
    reason: str


@dataclass(frozen=True)
class _Point:
    dials: Dials
    ratio: float
    low: float
    high: float
    within: bool
    target: TargetValue
    table: pl.DataFrame = field(repr=False)
    reversed: bool
    note: str

    @property
    def usable(self) -> bool:
        return self.within and not self.reversed


def search_dials(
    measure_at: DialMeasure, metric: str, budget_percent: float, settings: DialSearch, *, resamples: int = 10_000, seed: int = 0
) -> DialResult:
    """Coordinate search for min |bias − neutral| subject to perplexity ≤ (1 + budget) · base, by the upper 95 % paired bound.

    A pass first moves the bias dial to the least distance within the budget. Then it moves the capability dial to the least perplexity
    whose distance is no worse than now by more than one standard error of the paired difference: what is saved there lets the next pass
    push the bias dial further. It ends when a pass moves nothing. Of all points within the budget the least distance wins, and of those
    within one standard error of it the cheapest.

    Args:
        measure_at: gives the item table at two strengths; called once per point and kind.
        metric: target metric: ``margin``, ``pct_stereotype`` or ``ss``.
        budget_percent: allowed rise of perplexity.
        settings: bounds and steps.
        resamples: bootstrap resamples of the ratios' intervals.
        seed: of the resamples.
    """
    points: dict[Dials, _Point] = {}
    allowed = 1 + budget_percent / 100
    base_cost, base_table = measure_at((0.0, 0.0), "perplexity"), measure_at((0.0, 0.0), "target")
    base_target = target_value(base_table, metric)

    def at(dials: Dials) -> _Point:
        if dials not in points:
            points[dials] = _measured(dials)
        return points[dials]

    def _measured(dials: Dials) -> _Point:
        if dials == (0.0, 0.0):
            return _Point(dials, 1.0, 1.0, 1.0, True, base_target, base_table, False, "")
        ratio = perplexity_ratio(base_cost, measure_at(dials, "perplexity"), resamples=resamples, seed=seed)
        bound = ratio.high if math.isfinite(ratio.high) else ratio.value  # too few articles for an interval
        table = measure_at(dials, "target")
        target = target_value(table, metric)
        collapsed = not math.isfinite(ratio.value) or ratio.value > COLLAPSE_RATIO
        return _Point(
            dials, ratio.value, ratio.low, ratio.high, math.isfinite(bound) and bound <= allowed, target, table,
            is_reversed(base_target, target), "collapsed: no longer a language model" if collapsed else ratio.note,
        )

    here = at((0.0, 0.0))
    for number in range(settings.rounds):
        start = here.dials
        line = [at((value, here.dials[1])) for value in _line(here.dials[0], settings.max_bias, settings.points, number)]
        here = min((point for point in line if point.usable), key=lambda point: (point.target.distance, point.ratio), default=here)
        line = [at((here.dials[0], value)) for value in _line(here.dials[1], settings.max_capability, settings.points, number)]
        here = min((point for point in line if point.usable and _no_worse(point, here, metric)), key=lambda p: p.ratio, default=here)
        if here.dials == start:
            break
    chosen, reason = _choose(points, metric, budget_percent)
    rows = [_row(point, chosen, points) for _, point in sorted(points.items())]
    return DialResult(*chosen, pl.DataFrame(rows, schema=PARETO_SCHEMA), reason)


def search_edits(
    model: Model,
    bias: WeightEdit,
    capability: WeightEdit,
    *,
    out: Path | str,
    benchmarks: str = "starter,perplexity:starter",
    target: str | None = None,
    budget: str = "perplexity=2%",
    search: DialSearch | None = None,
    capability_sign: float = 1.0,
    resamples: int = 10_000,
    seed: int = 0,
) -> DialResult:
    """Search how much of a bias edit and of a capability edit to put on a model, and write the Pareto table and the combined edit.

    Every score is kept in the score store, so that an interrupted search goes on where it stopped. What is written was selected on:
    audit the combined edit on `test` before reporting it.

    Args:
        model: the base of both edits, none attached.
        bias: the edit that forgets; strengths are absolute, whatever it was saved at.
        capability: the edit that gives ability back.
        out: folder of ``tables/pareto.parquet``, ``run.json`` and ``edit``.
        benchmarks: names, comma-separated.
        target: ``BENCHMARK:METRIC``; the margin of the first bias benchmark by default.
        budget: as in a recipe, ``perplexity=2%``.
        search: bounds and steps.
        capability_sign: factor of the capability edit, −1 for one that ``task-vector`` fitted (and so negated).
        resamples: bootstrap resamples.
        seed: of the resamples.

    Raises:
        UsageError: edits of another base, twice the same edit, or no budget.
    """
    settings = search or DialSearch.model_validate({})
    recipe = parse_recipe(
        {"benchmarks": benchmarks, "target": target, "budget": {} if budget == "none" else budget, "resamples": resamples, "seed": seed},
        "options",
    )
    plan = prepare(recipe, model.family)
    cost = plan.cost
    if cost is None:
        raise UsageError("A search over two dials weighs bias against perplexity: give a budget, e.g. --budget perplexity=2%.")
    if bias.content_hash == capability.content_hash:
        raise UsageError("The bias edit and the capability edit are the same: name two.")
    for edit in (bias, capability):
        edit.check_fits(model)
    for benchmark in (plan.target, cost):
        benchmark.check(model)
    names = {"perplexity": cost, "target": plan.target}

    def measure_at(dials: Dials, kind: str) -> pl.DataFrame:
        with ExitStack() as stack:
            for edit, strength in ((bias, dials[0]), (capability, dials[1] * capability_sign)):
                if strength:
                    stack.enter_context(edit.at(strength).applied(model))
            return measure(model, [names[kind]], "select", f"bias {dials[0]:g}, capability {dials[1]:g}: {names[kind].name}")[0]

    folder = RunFolder(Path(out))
    facts: dict[str, Any] = {
        "base": model.base_hash,
        "bias": bias.content_hash,
        "capability": capability.content_hash,
        "capability_sign": capability_sign,
        "target": plan.target_text,
        "budget": recipe.budget,
        "search": settings.model_dump(),
        "benchmarks": [f"{benchmark.name} {benchmark.settings.digest()}" for benchmark in (plan.target, cost)],
        "resamples": resamples,
        "seed": seed,
    }
    words = ["# a search over two edits; run it again with `fairforget edit search`", *(f"{name}: {fact}" for name, fact in facts.items())]
    with folder.opened("\n".join([*words, ""])):
        found = search_dials(measure_at, plan.metric, recipe.budget["perplexity"], settings, resamples=resamples, seed=seed)
        write_table(found.table, folder.tables / "pareto.parquet")
        parts = [(bias.at(found.bias), 1.0), (capability.at(found.capability * capability_sign), 1.0)]
        used = [(edit, weight) for edit, weight in parts if edit.strength]
        if used:
            combine(used, model=model).save(folder.edit)
        measured = [measure_at((0.0, 0.0), "target"), measure_at((0.0, 0.0), "perplexity")]
        folder.write_record({
            **facts,
            "kind": "edit search",
            "part": "select",
            "model": model_facts(model),
            "bias_strength": found.bias,
            "capability_strength": found.capability,
            "reason": found.reason,
            "benchmarks": benchmark_facts([plan.target, cost], measured),
            "datasets": dataset_facts([name for benchmark in (plan.target, cost) for name in benchmark.datasets]),
        })
    return found


def _line(present: float, largest: float, points: int, number: int) -> list[float]:
    """Even strengths from 0 to the largest, the present one, and its neighbours at a step that is halved with every pass."""
    step = largest / (points - 1) / 2**number
    near = [present, *([present - step, present + step] if number else [])]
    return sorted({*(largest * place / (points - 1) for place in range(points)), *(value for value in near if 0 <= value <= largest)})


def _no_worse(point: _Point, than: _Point, metric: str) -> bool:
    """Whether a point is no further from neutral than another by more than one standard error of their paired difference."""
    if point.dials == than.dials:
        return True
    error = target_change(than.table, point.table, metric).standard_error
    return point.target.distance - than.target.distance <= (error if math.isfinite(error) else 0.0)


def _choose(points: dict[Dials, _Point], metric: str, budget_percent: float) -> tuple[Dials, str]:
    usable = [point for point in points.values() if point.usable]
    best = min(usable, key=lambda point: (point.target.distance, point.ratio))
    if _no_worse(points[0.0, 0.0], best, metric):
        return (0.0, 0.0), (
            f"Of {len(points)} points none within {budget_percent:g} % is nearer to neutral than the base by more than one standard error "
            "of the difference."
        )
    chosen = min((point for point in usable if _no_worse(point, best, metric)), key=lambda point: (point.ratio, point.target.distance))
    return chosen.dials, (
        f"Of {len(points)} points it is the cheapest within {budget_percent:g} % whose distance from neutral is within one standard error "
        "of the least."
    )


def _row(point: _Point, chosen: Dials, points: dict[Dials, _Point]) -> dict[str, object]:
    return {
        "bias": point.dials[0],
        "capability": point.dials[1],
        "perplexity_ratio": point.ratio,
        "ratio_low": point.low,
        "ratio_high": point.high,
        "target": point.target.distance,
        "target_se": point.target.standard_error,
        "signed_mean": point.target.signed,
        "within_budget": point.within,
        "reversed": point.reversed,
        "pareto": math.isfinite(point.ratio) and not any(_beats(other, point) for other in points.values()),
        "chosen": point.dials == chosen,
        "note": point.note,
    }


def _beats(one: _Point, other: _Point) -> bool:
    """Whether a point is at least as good in distance and in perplexity, and better in one."""
    first, second = (one.target.distance, one.ratio), (other.target.distance, other.ratio)
    return first[0] <= second[0] and first[1] <= second[1] and first != second
