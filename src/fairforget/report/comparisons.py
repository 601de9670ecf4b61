"""Rows of the metric table brought together: before, after and paired difference of one metric on one group."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from fairforget.report import number_words
from fairforget.report.number_words import is_number

ALL = "all"
"""The name of the group that holds every item."""

METRIC_NAMES = {
    "pct_stereotype": "stereotype preferred",
    "ss": "stereotype score (SS)",
    "lms": "language-model score (LMS)",
    "icat": "idealised score (ICAT)",
    "margin": "mean margin",
    "margin_rms": "RMS margin over domains",
    "perplexity": "perplexity per token",
    "perplexity_ratio": "perplexity ratio per token",
    "word_perplexity": "perplexity per word",
    "word_perplexity_ratio": "perplexity ratio per word",
    "unc3": "(U)NC3: spread of cosines",
    "nc3_mean": "NC3: mean cosine",
    "nc3_error": "NC3: distance from a simplex",
    "nc1": "NC1: variability (e = 2)",
    "nc1_e1": "NC1: variability (e = 1)",
    "nc2_norm_cv": "NC2: spread of norms",
    "nc2_log_norm_var": "NC2: variance of log norms",
    "nc2_cos_mean": "NC2: mean cosine of pairs",
    "nc2_cos_std": "NC2: spread of cosines of pairs",
    "nc2_etf_gap": "NC2: gap to a simplex's cosine",
    "nc2_etf_error": "NC2: distance from a simplex",
    "gnc2_mean": "(G)NC2: mean log inverse distance",
    "gnc2_std": "(G)NC2: spread of it",
    "nc1_w": "NC1 calibrated by output rows",
    "gnc2_w_mean": "(G)NC2 of output rows: mean",
    "gnc2_w_std": "(G)NC2 of output rows: spread",
    "nc4": "NC4: nearest mean is best row",
    "effect_size": "effect size d",
    "mean_abs_effect_size": "mean |d|",
    "mean_abs_t": "mean |t|",
    "effect_r": "effect size r",
}
"""What the page calls the metrics of this package; metrics of other packages go by their own name."""

_KEYS = ("part", "benchmark", "protocol", "task", "metric", "group")


@dataclass(frozen=True)
class Measurement:
    """One figure with its 95 % interval (bounds are None where there is none, and `note` says why) and the counts behind it."""

    value: float | None
    low: float | None
    high: float | None
    note: str = ""
    n: int | None = None
    clusters: int | None = None
    ties: int | None = None
    skipped: int | None = None
    prefix: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are finite."""
        return is_number(self.low) and is_number(self.high)


@dataclass(frozen=True)
class Comparison:
    """One metric on one group of one task: its levels and their paired difference, as far as they were measured."""

    part: str
    benchmark: str
    protocol: str
    task: str
    metric: str
    group: str
    unit: str
    better: str
    neutral: float | None = None
    no_change: float = 0.0
    base: Measurement | None = None
    edited: Measurement | None = None
    difference: Measurement | None = None

    @property
    def signed_difference(self) -> bool:
        """Whether the difference is written with its sign (a ratio of two states is not)."""
        return self.no_change == 0.0

    @property
    def metric_name(self) -> str:
        """The metric as a reader would say it."""
        return METRIC_NAMES.get(self.metric, self.metric.replace("_", " "))

    @property
    def key(self) -> str:
        """Benchmark and metric as "benchmark:metric", the form in which a target is named."""
        return f"{self.benchmark}:{self.metric}"

    @property
    def task_name(self) -> str:
        """Benchmark and task, without saying the benchmark twice."""
        task = self.task.removeprefix(f"{self.benchmark}-")
        own = ("", self.benchmark, self.benchmark.partition(":")[2])
        return self.benchmark if task in own else f"{self.benchmark} · {task}"

    @property
    def measurements(self) -> list[Measurement]:
        """The measurements that exist, in the order base, edited, difference."""
        return [measurement for measurement in (self.base, self.edited, self.difference) if measurement is not None]

    def text(self, state: str) -> str:
        """The figure of one state with its unit."""
        measurement: Measurement | None = getattr(self, state)
        if measurement is None:
            return number_words.MISSING
        return number_words.quantity(measurement.value, self.unit, signed=state == "difference" and self.signed_difference)

    def interval_text(self, state: str) -> str:
        """The interval of one state, or the note that says why there is none."""
        measurement: Measurement | None = getattr(self, state)
        if measurement is None:
            return ""
        if not measurement.has_interval:
            return measurement.note or "no interval"
        return number_words.bounds(measurement.low, measurement.high, self.unit, signed=state == "difference" and self.signed_difference)

    @property
    def neutral_text(self) -> str:
        """The neutral point without needless decimals."""
        return number_words.MISSING if self.neutral is None else number_words.with_unit(f"{self.neutral:g}", self.unit)

    @property
    def counts_text(self) -> str:
        """Counts as "n = 1 508 · 1 508 clusters · ties 12 → 9 · skipped 0"; an arrow where the states differ."""
        parts = [
            f"n = {self._count('n')}",
            f"{self._count('clusters')} clusters",
            f"ties {self._count('ties')}",
            f"skipped {self._count('skipped')}",
        ]
        prefixes = list(dict.fromkeys(measurement.prefix for measurement in self.measurements if measurement.prefix))
        return " · ".join(parts + [f"prefix {prefix}" for prefix in prefixes])

    def _count(self, name: str) -> str:
        levels = [measurement for measurement in (self.base, self.edited) if measurement is not None] or self.measurements
        values = [getattr(measurement, name) for measurement in levels]
        return " → ".join(dict.fromkeys(number_words.count(value) for value in values)) or number_words.MISSING

    @property
    def notes(self) -> list[str]:
        """Notes that are not already printed in the place of an interval."""
        noted = [note.strip() for measurement in self.measurements if measurement.has_interval for note in measurement.note.split(";")]
        return [note for note in dict.fromkeys(noted) if note]

    @property
    def reading(self) -> str:
        """What the paired difference shows, in a few words; "" where there is none."""
        difference = self.difference
        if difference is None or not is_number(difference.value):
            return ""
        if difference.low is None or difference.high is None or not difference.has_interval:
            return "no change" if difference.value == self.no_change else "no interval, so no claim"
        if difference.low <= self.no_change <= difference.high:
            return "no difference shown"
        rose = (difference.value or 0.0) > self.no_change
        if self.neutral is not None and self.base is not None and self.edited is not None and self.better == "neutral":
            return _neutral_reading(self.base.value, self.edited.value, self.neutral)
        word = "higher" if rose else "lower"
        return f"{word} ({'better' if word == self.better else 'worse'})" if self.better in ("higher", "lower") else word


def _neutral_reading(before: float | None, after: float | None, neutral: float) -> str:
    if before is None or after is None or not is_number(before) or not is_number(after):
        return ""
    closer = abs(after - neutral) < abs(before - neutral)
    crossed = (before - neutral) * (after - neutral) < 0
    if crossed:
        return "closer to neutral, on the other side" if closer else "reversed: further from neutral, on the other side"
    return "closer to neutral" if closer else "further from neutral"


def comparisons(metrics: pl.DataFrame | None, cautions: Collection[str] = ()) -> list[Comparison]:
    """Bring the rows of ``metrics.parquet`` together, in the order in which they were written.

    Args:
        metrics: one row per (state, part, benchmark, protocol, task, metric, group); columns that are not there count as null.
        cautions: notes that the page says once beside the benchmark, and so not in every row.
    """
    if metrics is None:
        return []
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in metrics.iter_rows(named=True):
        key = tuple(_in_order(row[name]) if name == "protocol" else str(row[name] or "") for name in _KEYS)
        kept = [note for part in str(row.get("note") or "").split(";") if (note := part.strip()) and note not in cautions]
        found.setdefault(key, {})[str(row["state"])] = {**row, "note": "; ".join(kept)}
    return [_comparison(key, states) for key, states in found.items()]


def _in_order(names: str | None) -> str:
    """Names joined by ";" in one order: pooled tasks have several protocols, in the order of their items."""
    return "; ".join(sorted({name.strip() for name in str(names or "").split(";")}))


def _comparison(key: tuple[str, ...], states: dict[str, dict[str, Any]]) -> Comparison:
    any_row = next(iter(states.values()))
    change = states.get("difference", {})
    unit = str(any_row["unit"] or "")
    return Comparison(
        *key,
        unit=unit,
        better=str(any_row["better"] or ""),
        # `neutral` is that of an unbiased model in the row of a state, and that of no change in the row of a difference
        neutral=next((row["neutral"] for state, row in states.items() if state != "difference" and is_number(row.get("neutral"))), None),
        no_change=change["neutral"] if is_number(change.get("neutral")) else 1.0 if unit == "ratio" else 0.0,
        **{state: _measurement(row) for state, row in states.items() if state in ("base", "edited", "difference")},
    )


def _measurement(row: dict[str, Any]) -> Measurement:
    value: float | None = row["value"]
    return Measurement(
        value=None if value is None or math.isnan(value) else value,  # an infinite perplexity is a finding, not a gap
        low=row["low"] if is_number(row["low"]) else None,
        high=row["high"] if is_number(row["high"]) else None,
        note=str(row.get("note") or ""),
        n=row.get("n"),
        clusters=row.get("clusters"),
        ties=row.get("ties"),
        skipped=row.get("skipped"),
        prefix=_in_order(row.get("prefix")),
    )


def shared_notes(rows: Sequence[Comparison]) -> list[str]:
    """Notes on every interval of a table, which are said once in its caption instead of in each row."""
    noted = [row.notes for row in rows if any(measurement.has_interval for measurement in row.measurements)]
    return [note for note in noted[0] if all(note in notes for notes in noted)] if len(noted) > 1 else []


def reported_part(rows: Sequence[Comparison]) -> str:
    """The part whose figures are reported: `test` where it was measured, else the one that was."""
    parts = list(dict.fromkeys(row.part for row in rows))
    return "test" if "test" in parts or not parts else parts[0]


def by_task(rows: Iterable[Comparison]) -> dict[tuple[str, str, str], list[Comparison]]:
    """Rows under (benchmark, protocol, task)."""
    found: dict[tuple[str, str, str], list[Comparison]] = {}
    for row in rows:
        found.setdefault((row.benchmark, row.protocol, row.task), []).append(row)
    return found


def by_metric(rows: Iterable[Comparison]) -> dict[tuple[str, str, str, str], list[Comparison]]:
    """Rows under (benchmark, protocol, task, metric), bias metrics (whose best is neutral) first."""
    found: dict[tuple[str, str, str, str], list[Comparison]] = {}
    for row in sorted(rows, key=lambda row: row.better != "neutral"):
        found.setdefault((row.benchmark, row.protocol, row.task, row.metric), []).append(row)
    return found
