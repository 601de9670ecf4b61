"""Benchmarks: named sets of items, how they are scored, and which metrics come out. One file each, found by name.

>>> from fairforget.benchmarks import resolve
>>> resolve("crows-pairs:bias-bench-causal").settings.protocol
'mean'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan
from fairforget.benchmarks._components import pair
from fairforget.benchmarks._evaluate import METRIC_SCHEMA, evaluate
from fairforget.benchmarks._suites import Suite, get_suite, suite_names
from fairforget.benchmarks._targets import TargetValue, metric_interval, parse_target, perplexity_ratio, target_change, target_value
from fairforget.errors import UsageError, nearest_names
from fairforget.registry import Registry
from fairforget.settings import explain_validation

__all__ = [
    "METRIC_SCHEMA", "Benchmark", "Item", "MetricDefinition", "Plan", "Suite", "TargetValue", "as_lm_eval_task", "evaluate", "get_suite",
    "metric_interval", "pair", "parse_target", "perplexity_ratio", "registry", "resolve", "resolve_all", "suite_names", "target_change",
    "target_value", "write_lm_eval_tasks",
]

DESCRIPTION_ENDINGS = (".yaml", ".yml")
"""What the name of a benchmark that is described in a file ends in."""

registry: Registry[Benchmark] = Registry("benchmark", "fairforget.benchmarks", Benchmark, "fairforget.benchmarks")  # type: ignore[type-abstract]


def resolve(name: str, settings: Mapping[str, Any] | None = None, where: str = "benchmark settings") -> Benchmark:
    """Make a benchmark from ``name``, ``name:preset`` or a YAML file that describes one.

    Args:
        name: registry name, with a preset after a colon if wanted, e.g. ``crows-pairs:mean`` or ``perplexity:starter``; ``lm-eval:TASK``;
            or the path of a YAML file with the settings of ``file``.
        settings: settings that override those of the preset.
        where: what the settings were written in, for the error message.

    Raises:
        UsageError: unknown benchmark, preset or setting; the nearest names are suggested. Or no description in the YAML file.
        DataError: the described file is missing.
    """
    name = name.strip()
    if name.lower().endswith(DESCRIPTION_ENDINGS):
        from fairforget.benchmarks.file import read_description

        return resolve("file", {**read_description(Path(name).expanduser()), **(settings or {})}, name)
    base, colon, preset = name.partition(":")
    kind = registry.get(base)
    chosen: Mapping[str, Any] = {}
    if colon and kind.text_setting is not None:
        chosen = {kind.text_setting: preset}
    elif colon and preset not in kind.presets:
        raise UsageError(f"The benchmark {base} has no preset '{preset}': {nearest_names(preset, kind.presets)}")
    elif colon:
        chosen = kind.presets[preset]
    values = {**chosen, **(settings or {})}
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


def as_lm_eval_task(benchmark: Benchmark | str, part: str = "test", name: str | None = None) -> Any:
    """A benchmark of pairs or choices as a task of lm-evaluation-harness; see :mod:`fairforget.benchmarks._lm_eval_task`.

    Args:
        benchmark: a benchmark, or its name as on the command line.
        part: ``test``, ``select`` or ``all``.
        name: of the task; ``fairforget_NAME`` when None.

    Raises:
        UsageError: lm-eval is not installed, or the benchmark needs more than the sum of log-probabilities of its texts.
        DataError: the benchmark's data are missing or damaged.
    """
    from fairforget.benchmarks import _lm_eval_task

    return _lm_eval_task.as_lm_eval_task(benchmark, part, name)


def write_lm_eval_tasks(folder: Path, benchmarks: Iterable[str], part: str = "test") -> list[str]:
    """Write a folder for ``lm_eval --include_path`` and give the names of its tasks.

    Args:
        folder: made when it is missing.
        benchmarks: names as on the command line.
        part: ``test``, ``select`` or ``all``.

    Raises:
        UsageError: a benchmark that is not known, or cannot be a task.
    """
    from fairforget.benchmarks import _lm_eval_task

    return _lm_eval_task.write_lm_eval_tasks(folder, list(benchmarks), part)
