"""Reads a run folder: the record of what was run, the words of the verdict, and the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from fairforget.errors import DataError, FairforgetError
from fairforget.tables import read_table

METRIC_COLUMNS = ("state", "part", "benchmark", "protocol", "task", "metric", "group", "value", "low", "high", "unit", "better")
STRENGTH_COLUMNS = ("strength", "perplexity_ratio", "ratio_high", "target", "chosen")
STRENGTH_OPTIONAL = ("phase", "ratio_low", "target_se", "signed_mean", "within_budget", "reversed", "note")
LEDGER_COLUMNS = ("benchmark", "task", "role", "item", "transition")


class Record(BaseModel):
    """Part of a record on disk: fields of other versions are kept out of the way, not refused."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


class ModelRecord(Record):
    """The base model of the run."""

    name: str = ""
    source: str = ""
    hub_id: str | None = None
    """Hub id of the same weights where `source` is a local folder or a built-in name."""
    license: str | None = None
    revision: str | None = None
    family: Literal["causal", "masked"] = "causal"
    base_hash: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    device: str | None = None
    attention: str | None = None
    prefix: str | None = None


class MethodRecord(Record):
    """The method that found the edit."""

    name: str
    settings: dict[str, Any] = {}
    summary: str = ""
    source: str = ""


class BudgetRecord(Record):
    """What the user was ready to pay."""

    metric: str = "perplexity"
    percent: float


class BenchmarkRecord(Record):
    """One benchmark of the run."""

    name: str
    protocol: str | None = None
    settings: dict[str, Any] = {}
    datasets: list[str] = []
    description: str = ""
    caution: str = ""
    """Words that must stand wherever a figure of this benchmark is printed."""


class DatasetRecord(Record):
    """One dataset that was read, with its terms."""

    name: str
    licence: str | None = None
    citation: str | None = None
    content_warning: str | bool | None = None
    sha256: str | list[str] | dict[str, str] | None = None

    @property
    def warning(self) -> str:
        """The content warning as a sentence; "" where there is none."""
        if isinstance(self.content_warning, str):
            return self.content_warning
        return f"{self.name} holds stereotyped or hateful sentences." if self.content_warning else ""

    @property
    def hashes(self) -> list[str]:
        """Every sha256 as a line, with the file's name where it is known."""
        if isinstance(self.sha256, dict):
            return [f"{file}: {digest}" for file, digest in self.sha256.items()]
        return [self.sha256] if isinstance(self.sha256, str) else list(self.sha256 or [])


class RuntimeRecord(Record):
    """An edit that works while the model runs."""

    kind: str
    description: str = ""
    reason: str = ""
    """Why it could not be merged into the weights, as a sentence; empty where it was."""


class RunRecord(Record):
    """``run.json``: what was run, on what, with which versions."""

    kind: Literal["debias", "audit", "compare"]
    model: ModelRecord | None = None
    method: MethodRecord | None = None
    training: dict[str, Any] | None = None
    target: str | None = None
    budget: BudgetRecord | None = None
    strength: float | None = None
    benchmarks: list[BenchmarkRecord] = []
    datasets: list[DatasetRecord] = []
    runs: list[str] = []
    """The two folders of a comparison."""
    other_model: ModelRecord | None = None
    """The model of the second run of a comparison."""
    edit_hash: str | None = None
    runtime: RuntimeRecord | None = None
    """Set where the edit works at run time."""
    memorisation: dict[str, list[float]] | None = None
    """How well the training texts were known by heart, before and after, by the name of the figure."""
    seed: int | None = None
    versions: dict[str, str] = {}
    git: dict[str, Any] | None = None
    command: str | list[str] | None = None
    started: str | None = None
    seconds: float | None = None
    warnings: list[str] = []

    @property
    def cautions(self) -> dict[str, str]:
        """Cautions by benchmark."""
        return {benchmark.name: benchmark.caution for benchmark in self.benchmarks if benchmark.caution}


class Verdict(Record):
    """``tables/verdict.json``: the words, made by the workflow and printed alike on the page and in the card."""

    headline: str
    kind: str = ""
    sentences: list[str] = []
    limits: list[str] = []


@dataclass(frozen=True)
class RunFolder:
    """Everything a page is made from; a table that was not written is None."""

    path: Path
    record: RunRecord
    verdict: Verdict | None = None
    metrics: pl.DataFrame | None = None
    strength: pl.DataFrame | None = None
    ledger: pl.DataFrame | None = None
    forgetting: pl.DataFrame | None = None
    """Net forgetting by task."""
    biased: pl.DataFrame | None = None
    """Biased forgetting by group."""
    dispersion: pl.DataFrame | None = None
    """Its spread, a row for each task, axis and scale."""
    texts: pl.DataFrame | None = None
    """Likelihood of the texts behind the run."""
    parameters: pl.DataFrame | None = None
    """Size of the edit by parameter."""
    recipe: str | None = None
    item_tables: Sequence[Path] = field(default=())


def read_run_folder(path: Path) -> RunFolder:
    """Read the run folder at `path`.

    Raises:
        FairforgetError: there is no ``run.json``, so the folder holds no run.
        DataError: a file is there but damaged or of another form.
    """
    path = Path(path)
    record_path = path / "run.json"
    if not record_path.is_file():
        raise FairforgetError(
            f"{path} holds no run: it has no run.json. Give the folder that `fairforget debias`, `audit` or `compare` wrote with --out."
        )
    tables = path / "tables"
    recipe = path / "recipe.yaml"
    return RunFolder(
        path=path,
        record=read_record(record_path, RunRecord),
        verdict=read_record(tables / "verdict.json", Verdict) if (tables / "verdict.json").is_file() else None,
        metrics=_optional_table(tables / "metrics.parquet", METRIC_COLUMNS),
        strength=_optional_table(tables / "strength.parquet", STRENGTH_COLUMNS),
        ledger=_optional_table(tables / "ledger.parquet", LEDGER_COLUMNS),
        forgetting=_optional_table(tables / "forgetting.parquet", ()),
        biased=_optional_table(tables / "biased.parquet", ()),
        dispersion=_optional_table(tables / "dispersion.parquet", ()),
        texts=_optional_table(tables / "texts.parquet", METRIC_COLUMNS),
        parameters=_optional_table(tables / "parameters.parquet", ("layer", "module", "vectors", "changed", "change", "weight")),
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None,
        item_tables=sorted(tables.glob("items-*.parquet")),
    )


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read a record that this package wrote as JSON.

    Raises:
        DataError: it is damaged or of another form.
    """
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): run the command that wrote this folder again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: the field '{field_name}' is not what this version of fairforget writes ({first['msg'].lower()}): make the run again."
        ) from error


def _optional_table(path: Path, columns: Sequence[str]) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    return read_table(path, columns)
