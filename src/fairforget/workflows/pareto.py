"""The search over two dials, a bias edit and a capability edit, on the `select` part: as near to neutral as the budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from fairforget.benchmarks import Benchmark, MetricDefinition
from fairforget.benchmarks._components import components, pair
from fairforget.benchmarks._targets import TargetValue, metric_interval, perplexity_ratio, target_change, target_value
from fairforget.edits import WeightEdit, combine
from fairforget.errors import UsageError, unknown_name
from fairforget.models import Model
from fairforget.settings import Settings
from fairforget.stats.bootstrap import Interval, paired_bootstrap
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
    "tasks_kept": pl.Boolean(),  # null without tasks to keep, or where the budget was not kept and they were not measured
    "reversed": pl.Boolean(),
    "pareto": pl.Boolean(),
    "chosen": pl.Boolean(),
    "note": pl.String(),
}

TASK_SCHEMA: dict[str, pl.DataType] = {
    "bias": pl.Float64(),
    "capability": pl.Float64(),
    "figure": pl.String(),  # BENCHMARK:METRIC
    "change": pl.Float64(),  # paired, in the figure's unit, 0 for the base
    "low": pl.Float64(),
    "high": pl.Float64(),
    "allowed": pl.Float64(),  # by how much it may become worse
    "kept": pl.Boolean(),
}
"""Columns of ``tasks.parquet``."""

Dials = tuple[float, float]
"""Strength of the bias edit and of the capability edit."""

DialMeasure = Callable[[Dials, str], pl.DataFrame]
"""Item table at two strengths, of ``perplexity``, of ``target`` or of the benchmark of a kept figure."""


@dataclass(frozen=True)
class KeptFigure:
    """A figure that may become worse by so much and no more: a constraint of the search beside perplexity.

    Attributes:
        benchmark: name of its benchmark.
        definition: the figure; one with a direction that is better.
        allowed: by how much it may become worse, in its unit (percentage points for accuracies).
    """

    benchmark: str
    definition: MetricDefinition
    allowed: float

    @property
    def name(self) -> str:
        """``BENCHMARK:METRIC``."""
        return f"{self.benchmark}:{self.definition.name}"

    def holds(self, change: Interval) -> bool:
        """Whether the bound of the paired 95 % interval that is worse (the change itself without one) lies within what is allowed."""
        worst = change.low if self.definition.better == "higher" else change.high
        worst = worst if math.isfinite(worst) else change.value
        return (-worst if self.definition.better == "higher" else worst) <= self.allowed


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
        tasks: ``TASK_SCHEMA``: change of every kept figure at the points within the budget.
        reason: why these strengths, in a sentence.
    """

    bias: float
    capability: float
    table: pl.DataFrame
    tasks: pl.DataFrame
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
    kept: tuple[tuple[KeptFigure, Interval], ...] = ()

    @property
    def tasks_kept(self) -> bool | None:
        return all(figure.holds(change) for figure, change in self.kept) if self.kept else None

    @property
    def usable(self) -> bool:
        return self.within and not self.reversed and self.tasks_kept is not False


def search_dials(
    measure_at: DialMeasure, metric: str, budget_percent: float, settings: DialSearch, *, keep: Sequence[KeptFigure] = (),
    resamples: int = 10_000, seed: int = 0,
) -> DialResult:
    """Coordinate search for min |bias − neutral| subject to perplexity ≤ (1 + budget) · base, by the upper 95 % paired bound.

    Figures to be kept are measured at the points within the budget, by their paired bound that is worse; a point that breaks one is never
    chosen.

    A pass first moves the bias dial to the least distance within the budget. Then it moves the capability dial to the least perplexity
    whose distance is no worse than now by more than one standard error of the paired difference: what is saved there lets the next pass
    push the bias dial further. It ends when a pass moves nothing. Of all points within the budget the least distance wins, and of those
    within one standard error of it the cheapest.

    Args:
        measure_at: gives the item table at two strengths; called once per point and kind.
        metric: target metric: ``margin``, ``pct_stereotype`` or ``ss``.
        budget_percent: allowed rise of perplexity.
        settings: bounds and steps.
        keep: figures that must not become worse by more than is allowed.
        resamples: bootstrap resamples of the intervals.
        seed: of the resamples.
    """
    points: dict[Dials, _Point] = {}
    allowed = 1 + budget_percent / 100
    base_cost, base_table = measure_at((0.0, 0.0), "perplexity"), measure_at((0.0, 0.0), "target")
    base_tables = {figure.benchmark: measure_at((0.0, 0.0), figure.benchmark) for figure in keep}
    for figure in keep:
        if not math.isfinite(metric_interval(base_tables[figure.benchmark], figure.definition, resamples=100, seed=seed).value):
            raise UsageError(f"{figure.name} is not defined on this model's select part, so it cannot be kept: leave it out of --keep.")
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
        within = math.isfinite(bound) and bound <= allowed
        return _Point(
            dials, ratio.value, ratio.low, ratio.high, within, target, table, is_reversed(base_target, target),
            "collapsed: no longer a language model" if collapsed else ratio.note,
            tuple((figure, _task_change(figure, dials)) for figure in keep) if within else (),
        )

    def _task_change(figure: KeptFigure, dials: Dials) -> Interval:
        states = (base_tables[figure.benchmark], measure_at(dials, figure.benchmark))
        first, second = (components(table, figure.definition) for table in pair(*states))
        return paired_bootstrap(
            first, second, figure.definition.function, aggregate=figure.definition.aggregate, resamples=resamples, seed=seed
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
    chosen, reason = _choose(points, metric, f"{budget_percent:g} %" + "".join(f" and {figure.name} kept" for figure in keep))
    rows = [_row(point, chosen, points) for _, point in sorted(points.items())]
    tasks = [
        {
            "bias": point.dials[0], "capability": point.dials[1], "figure": figure.name, "change": change.value, "low": change.low,
            "high": change.high, "allowed": figure.allowed, "kept": figure.holds(change),
        }
        for _, point in sorted(points.items())
        for figure, change in point.kept
    ]
    return DialResult(*chosen, pl.DataFrame(rows, schema=PARETO_SCHEMA), pl.DataFrame(tasks, schema=TASK_SCHEMA), reason)


def search_edits(
    model: Model,
    bias: WeightEdit,
    capability: WeightEdit,
    *,
    out: Path | str,
    benchmarks: str = "starter,perplexity:starter",
    target: str | None = None,
    budget: str = "perplexity=2%",
    keep: Sequence[str] = (),
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
        keep: constraints beside it, ``BENCHMARK:METRIC=ALLOWED``: by how much a figure may become worse, in its unit (``arc:accuracy=1`` is
            one percentage point). Their benchmarks are among `benchmarks`.
        search: bounds and steps.
        capability_sign: factor of the capability edit, −1 for one that ``task-vector`` fitted (and so negated).
        resamples: bootstrap resamples.
        seed: of the resamples.

    Raises:
        UsageError: edits of another base, twice the same edit, no budget, or a figure that cannot be kept.
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
    by_name = {benchmark.name: benchmark for benchmark in plan.benchmarks}
    kept = [_kept_figure(text, by_name) for text in keep]
    names = {figure.benchmark: by_name[figure.benchmark] for figure in kept} | {"perplexity": cost, "target": plan.target}
    for benchmark in names.values():
        benchmark.check(model)

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
        "keep": {figure.name: figure.allowed for figure in kept},
        "search": settings.model_dump(),
        "benchmarks": [f"{benchmark.name} {benchmark.settings.digest()}" for benchmark in names.values()],
        "resamples": resamples,
        "seed": seed,
    }
    words = ["# a search over two edits; run it again with `fairforget edit search`", *(f"{name}: {fact}" for name, fact in facts.items())]
    with folder.opened("\n".join([*words, ""])):
        found = search_dials(measure_at, plan.metric, recipe.budget["perplexity"], settings, keep=kept, resamples=resamples, seed=seed)
        write_table(found.table, folder.tables / "pareto.parquet")
        if kept:
            write_table(found.tasks, folder.tables / "tasks.parquet")
        parts = [(bias.at(found.bias), 1.0), (capability.at(found.capability * capability_sign), 1.0)]
        moved = [(edit, weight) for edit, weight in parts if edit.strength]
        if moved:
            combine(moved, model=model).save(folder.edit)
        used = {benchmark.name: kind for kind, benchmark in names.items()}
        measured = [measure_at((0.0, 0.0), kind) for kind in used.values()]
        folder.write_record({
            **facts,
            "kind": "edit search",
            "part": "select",
            "model": model_facts(model),
            "bias_strength": found.bias,
            "capability_strength": found.capability,
            "reason": found.reason,
            "benchmarks": benchmark_facts([names[kind] for kind in used.values()], measured),
            "datasets": dataset_facts([name for kind in used.values() for name in names[kind].datasets]),
        })
    return found


def _kept_figure(text: str, benchmarks: Mapping[str, Benchmark]) -> KeptFigure:
    """Read ``BENCHMARK:METRIC=ALLOWED``."""
    name, equals, amount = text.rpartition("=")
    benchmark, colon, metric = name.strip().rpartition(":")
    try:
        allowed = float(amount)
    except ValueError:
        allowed = math.nan
    if not equals or not colon or not allowed >= 0:
        raise UsageError(f"--keep {text}: write it as BENCHMARK:METRIC=ALLOWED, e.g. arc:accuracy=1 for one percentage point.")
    if benchmark not in benchmarks:
        raise UsageError(f"--keep {text}: {benchmark} is not among the benchmarks ({', '.join(benchmarks)}): add it to --benchmarks.")
    definitions = {definition.name: definition for definition in benchmarks[benchmark].metrics()}
    if metric not in definitions:
        raise unknown_name(f"figure of {benchmark}", metric, definitions)
    if benchmarks[benchmark].report_only:
        raise UsageError(f"--keep {text}: {benchmark} is report-only, so no search may look at it.")
    if definitions[metric].better == "neutral":
        raise UsageError(f"--keep {text}: {metric} has a neutral point and no direction that is worse; keep a figure of ability.")
    return KeptFigure(benchmark, definitions[metric], allowed)


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


def _choose(points: dict[Dials, _Point], metric: str, limits: str) -> tuple[Dials, str]:
    usable = [point for point in points.values() if point.usable]
    best = min(usable, key=lambda point: (point.target.distance, point.ratio))
    if _no_worse(points[0.0, 0.0], best, metric):
        return (0.0, 0.0), (
            f"Of {len(points)} points none within {limits} is nearer to neutral than the base by more than one standard error "
            "of the difference."
        )
    chosen = min((point for point in usable if _no_worse(point, best, metric)), key=lambda point: (point.ratio, point.target.distance))
    return chosen.dials, (
        f"Of {len(points)} points it is the cheapest within {limits} whose distance from neutral is within one standard error "
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
        "tasks_kept": point.tasks_kept,
        "reversed": point.reversed,
        "pareto": math.isfinite(point.ratio) and not any(_beats(other, point) for other in points.values()),
        "chosen": point.dials == chosen,
        "note": point.note,
    }


def _beats(one: _Point, other: _Point) -> bool:
    """Whether a point is at least as good in distance and in perplexity, and better in one."""
    first, second = (one.target.distance, one.ratio), (other.target.distance, other.ratio)
    return first[0] <= second[0] and first[1] <= second[1] and first != second
