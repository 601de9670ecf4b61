"""The tables of a base model, measured once and handed to every run that starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark, evaluate
from fairforget.errors import UsageError
from fairforget.files import write_json
from fairforget.models import Model
from fairforget.tables import read_table, write_table
from fairforget.workflows.audit import measure
from fairforget.workflows.run_folder import model_facts, read_json

RECORD = "base.json"


@dataclass(frozen=True)
class BaseAudit:
    """What one base did on the benchmarks of a run.

    Attributes:
        state: id of the state that was measured.
        settings: name and settings digest of each benchmark, in order.
        select: item table of each benchmark on its `select` part.
        test: the same on `test`.
        metrics: figures on `test` with intervals, one table a benchmark; None where they were made with other options.
    """

    state: str
    settings: tuple[str, ...]
    select: list[pl.DataFrame]
    test: list[pl.DataFrame]
    metrics: list[pl.DataFrame] | None

    def check(self, model: Model, benchmarks: Sequence[Benchmark]) -> None:
        """Refuse tables of another model or of other benchmarks.

        Raises:
            UsageError: they are.
        """
        if self.state != model.state_id or self.settings != settings_of(benchmarks):
            raise UsageError(
                f"The tables of the base are not those of {model.name} on these benchmarks: the model or the recipe was changed since; "
                "start in another folder."
            )


def settings_of(benchmarks: Sequence[Benchmark]) -> tuple[str, ...]:
    """Name and settings digest of each benchmark."""
    return tuple(f"{benchmark.name} {benchmark.settings.digest()}" for benchmark in benchmarks)


def write_base_audit(model: Model, benchmarks: Sequence[Benchmark], folder: Path, *, seeds: Sequence[int], resamples: int) -> None:
    """Measure a base on both parts and keep the tables; what is there already is not measured again.

    Args:
        model: the base, without edits.
        benchmarks: what to measure.
        folder: for the tables and ``base.json``, which is written last.
        seeds: of the resamples of the intervals on `test`.
        resamples: bootstrap resamples.
    """
    record: dict[str, Any] = {"state": model.state_id, "settings": list(settings_of(benchmarks)), "model": model_facts(model)}
    whole = (folder / RECORD).exists()
    if not whole or {name: read_json(folder / RECORD).get(name) for name in ("state", "settings")} != {
        name: record[name] for name in ("state", "settings")
    }:
        (folder / RECORD).unlink(missing_ok=True)
        for path in folder.glob("*.parquet"):
            path.unlink()
        for part in ("select", "test"):
            for number, table in enumerate(measure(model, benchmarks, part, f"base, {part} part")):
                write_table(table, folder / f"{part}-{number}.parquet")
    for seed in seeds:
        for number, benchmark in enumerate(benchmarks):
            path = _metrics_path(folder, resamples, seed, number)
            if not path.exists():
                table = read_table(folder / f"test-{number}.parquet")
                write_table(evaluate(benchmark, table, resamples=resamples, seed=seed), path)
    write_json(folder / RECORD, record)


def read_base_audit(folder: Path, *, seed: int, resamples: int) -> BaseAudit | None:
    """What :func:`write_base_audit` left in a folder; None where it is missing or not whole.

    Args:
        folder: its folder.
        seed: the intervals are those of this seed,
        resamples: and of so many resamples.
    """
    if not (folder / RECORD).exists():
        return None
    record = read_json(folder / RECORD)
    numbers = range(len(record["settings"]))
    select, test = ([read_table(folder / f"{part}-{number}.parquet") for number in numbers] for part in ("select", "test"))
    paths = [_metrics_path(folder, resamples, seed, number) for number in numbers]
    metrics = [read_table(path) for path in paths] if all(path.exists() for path in paths) else None
    return BaseAudit(record["state"], tuple(record["settings"]), select, test, metrics)


def _metrics_path(folder: Path, resamples: int, seed: int, number: int) -> Path:
    return folder / f"metrics-{resamples}-{seed}-{number}.parquet"
