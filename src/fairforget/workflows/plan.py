"""A recipe made ready: its benchmarks, and which of them steer the search."""

from __future__ import annotations

from dataclasses import dataclass

from fairforget.benchmarks import Benchmark
from fairforget.benchmarks._metrics import TARGETS
from fairforget.benchmarks._targets import parse_target
from fairforget.errors import UsageError
from fairforget.workflows.audit import resolve_choices
from fairforget.workflows.recipe import BenchmarkChoice, Recipe
from fairforget.workflows.suites import expand_suites


@dataclass(frozen=True)
class Plan:
    """A recipe made ready: benchmarks, and which of them steer."""

    benchmarks: list[Benchmark]
    target: Benchmark
    metric: str
    cost: Benchmark | None
    target_text: str


def prepare(recipe: Recipe, family: str | None = None) -> Plan:
    """Make the benchmarks of a recipe and find which ones are target and cost; a budget on perplexity adds that benchmark where it lacks.

    Args:
        recipe: all choices.
        family: of the model, which suites depend on; None stands for both.

    Raises:
        UsageError: unknown names, or a target that is not among the benchmarks.
    """
    choices = expand_suites(recipe.benchmarks, family)
    named = {(choice if isinstance(choice, str) else choice.name).partition(":")[0] for choice in choices}
    if "perplexity" in recipe.budget and "perplexity" not in named:
        own = named == {"starter"}
        choices.append(BenchmarkChoice(name="perplexity:starter" if own else "perplexity"))
    benchmarks = resolve_choices(choices)
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    steering = [benchmark for benchmark in benchmarks if _has_target(benchmark)]
    if recipe.target is None:
        if not steering:
            raise UsageError("No bias benchmark is named that could be the target: add one to --benchmarks, e.g. starter or crows-pairs.")
        name, metric = steering[0].name, "margin"
    else:
        name, metric = parse_target(recipe.target)
    if name not in by_name:
        raise UsageError(f"The target {recipe.target} is not among the benchmarks ({', '.join(by_name)}): add {name} to --benchmarks.")
    if by_name[name] not in steering:
        raise UsageError(f"{name} cannot be a target: it is a measure of ability or set-level; choose a bias benchmark.")
    cost = by_name.get("perplexity") if "perplexity" in recipe.budget else None
    return Plan(benchmarks, by_name[name], metric, cost, f"{name}:{metric}")


def _has_target(benchmark: Benchmark) -> bool:
    """Whether a benchmark has a select part and a figure with a neutral point."""
    return not benchmark.report_only and any(definition.name in TARGETS for definition in benchmark.metrics())
