"""Benchmarks: named sets of items, how they are scored, and which metrics come out. One file each, found by name.

>>> from fairforget.benchmarks import resolve
>>> resolve("crows-pairs:bias-bench-causal").settings.protocol
'mean'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan
from fairforget.benchmarks._components import pair
from fairforget.benchmarks._evaluate import METRIC_SCHEMA, evaluate
from fairforget.benchmarks._targets import TargetValue, metric_interval, parse_target, perplexity_ratio, target_change, target_value
from fairforget.errors import UsageError, nearest_names
from fairforget.registry import Registry
from fairforget.settings import explain_validation

__all__ = [
    "METRIC_SCHEMA", "Benchmark", "Item", "MetricDefinition", "Plan", "TargetValue", "evaluate", "metric_interval", "pair", "parse_target",
    "perplexity_ratio", "registry", "resolve", "resolve_all", "target_change", "target_value",
]

registry: Registry[Benchmark] = Registry("benchmark", "fairforget.benchmarks", Benchmark, "fairforget.benchmarks")  # type: ignore[type-abstract]


def resolve(name: str, settings: Mapping[str, Any] | None = None, where: str = "benchmark settings") -> Benchmark:
    """Make a benchmark from ``name`` or ``name:preset``.

    Args:
        name: registry name, with a preset after a colon if wanted, e.g. ``crows-pairs:mean`` or ``perplexity:starter``.
        settings: settings that override those of the preset.
        where: what the settings were written in, for the error message.

    Raises:
        UsageError: unknown benchmark, preset or setting; the nearest names are suggested.
    """
    base, colon, preset = name.strip().partition(":")
    kind = registry.get(base)
    if colon and preset not in kind.presets:
        raise UsageError(f"The benchmark {base} has no preset '{preset}': {nearest_names(preset, kind.presets)}")
    values = {**(kind.presets[preset] if colon else {}), **(settings or {})}
    try:
        return kind(kind.Settings.model_validate(values))
    except ValidationError as error:
        raise explain_validation(error, kind.Settings, where) from error


def resolve_all(names: str | Iterable[str]) -> list[Benchmark]:
    """Make the benchmarks of a comma-separated list or an iterable of names.

    Raises:
        UsageError: an unknown name, the same benchmark with the same settings twice, or no name at all.
    """
    wanted = [part for name in ([names] if isinstance(names, str) else names) for part in name.split(",") if part.strip()]
    if not wanted:
        raise UsageError(f"No benchmark was named: {nearest_names('', registry.names())}")
    benchmarks = [resolve(name) for name in wanted]
    seen: set[tuple[str, str]] = set()
    for name, benchmark in zip(wanted, benchmarks, strict=True):
        key = (benchmark.name, benchmark.settings.digest())
        if key in seen:
            raise UsageError(f"The benchmark '{name.strip()}' is named twice: name it once.")
        seen.add(key)
    return benchmarks
