"""A verdict on each finding of Liu et al. 2025 (arXiv 2509.21456), from the tables alone: supported, contradicted, or not decided.

The findings are those of the abstract; the paper's own quantities could not be read, so that its protocol is followed and its numbers are
not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from fairforget.report.number_words import bounds, number
from fairforget.stats import Components, Interval, cluster_bootstrap
from fairforget.workflows.tradeoff_recipe import CONTROL, PLAIN, TradeoffRecipe, label
from fairforget.workflows.tradeoff_tables import ALL_ARMS, clusters_of, distinct, reference_arm
from fairforget.workflows.verdict import GENERAL_LIMITS, Verdict

Decision = Literal["supported", "contradicted", "not decided"]

CLAIMS = {
    "1": "downstream performance is driven by overall forgetting",
    "2": "selective forgetting lowers stereotypes, yet overall forgetting rises",
    "3a": "general ways against forgetting do not lower overall forgetting at equal bias reduction",
    "3b": "general ways against forgetting do not restore downstream performance",
}
"""The findings by number."""

WEAK = 0.3
"""A correlation surely nearer to 0 than this, or surely positive, contradicts finding 1."""

FINDING_SCHEMA: dict[str, pl.DataType] = {
    "model": pl.String(),
    "finding": pl.String(),  # number in CLAIMS
    "claim": pl.String(),
    "decision": pl.String(),  # "supported", "contradicted" or "not decided"
    "figure": pl.String(),  # what the interval is of
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "words": pl.String(),
}
"""Columns of ``findings.parquet``."""

LIMITS = (
    "The protocol of the paper is followed as far as it could be read; its numbers are not compared.",
    "A correlation over checkpoints says that two figures move together, not that one drives the other.",
    "Selectivity has neutral forgetting in it with a minus sign, so its slope with overall forgetting is not one of independent things.",
    "The reported items are the same in all runs: intervals are over runs or seeds, for these items.",
)


@dataclass(frozen=True)
class Finding:
    """A verdict on one finding.

    Attributes:
        number: in :data:`CLAIMS`.
        decision: the verdict.
        figure: what the interval is of.
        interval: value, low, high; ``nan`` where there is none.
        words: the sentence.
    """

    number: str
    decision: Decision
    figure: str
    interval: tuple[float, float, float]
    words: str


_NONE = (np.nan, np.nan, np.nan)


def findings(recipe: TradeoffRecipe, checkpoints: pl.DataFrame, analyses: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """A row per model and finding, ``FINDING_SCHEMA``.

    Args:
        recipe: of the study.
        checkpoints: ``checkpoints.parquet``.
        analyses: what ``analyse`` gave.
    """
    rows: list[dict[str, Any]] = []
    for model in recipe.models:
        name = label(model)
        plain = checkpoints.filter((pl.col("model") == name) & (pl.col("mitigation") == PLAIN))
        if plain.is_empty():
            continue
        own = {key: table.filter(pl.col("model") == name) if table.width else table for key, table in analyses.items()}
        found = [_coupled(own["coupling"]), _selective(recipe, plain, own)]
        if recipe.mitigations:
            found += [_mitigated(recipe, own["mitigations"], figure) for figure in ("overall", "downstream_change")]
        for one in found:
            value, low, high = (float(end) if np.isfinite(end) else None for end in one.interval)
            rows.append({
                "model": name, "finding": one.number, "claim": CLAIMS[one.number], "decision": one.decision, "figure": one.figure,
                "value": value, "low": low, "high": high, "words": one.words,
            })
    return pl.DataFrame(rows, schema=FINDING_SCHEMA)


def tradeoff_words(runs: pl.DataFrame, found: pl.DataFrame) -> Verdict:
    """The words of the study; page and terminal print the same.

    Args:
        runs: ``runs.parquet``.
        found: ``findings.parquet``.
    """
    done = runs.filter(pl.col("status") == "done").height
    sentences = [f"{done} of {runs.height} runs are finished" + ("." if done == runs.height else "; the table says why.")]
    if found.is_empty():
        return Verdict("No run of this study is finished yet.", "measured", tuple(sentences), (*LIMITS, *GENERAL_LIMITS))
    several = found["model"].n_unique() > 1
    sentences += [
        f"{row['model'] + ', f' if several else 'F'}inding {row['finding']} ({row['claim']}): {row['decision']}. {row['words']}"
        for row in found.iter_rows(named=True)
    ]
    counts = [(kind, found.filter(pl.col("decision") == kind).height) for kind in ("supported", "contradicted", "not decided")]
    headline = ", ".join(f"{count} {kind}{' at this size' * (kind == 'not decided')}" for kind, count in counts if count)
    return Verdict(f"Findings of the paper: {headline}.", "measured", tuple(sentences), (*LIMITS, *GENERAL_LIMITS))


def _coupled(coupling: pl.DataFrame) -> Finding:
    if coupling.is_empty():
        return Finding("1", "not decided", "", _NONE, "Nothing was fine-tuned from the checkpoints.")
    rows = coupling.filter((pl.col("score") == "downstream_change") & (pl.col("points_of") == ALL_ARMS))
    if rows.is_empty():
        return Finding("1", "not decided", "", _NONE, "Nothing was fine-tuned from the checkpoints.")
    plain, partial = (rows.filter(pl.col("figure") == name) for name in ("pearson", "partial pearson"))
    ranked = rows.filter(pl.col("figure") == "spearman")
    widest = _widest(plain)
    words = f"Correlation of the downstream score with overall forgetting {_interval(widest)}, by rank {_interval(_widest(ranked))}"
    words += f", given selectivity {_interval(_widest(partial))} ({_over(plain)})."
    values = (_number(widest["value"]), _number(widest["low"]), _number(widest["high"]))
    if all(_below(table, 0.0) for table in (plain, partial, ranked)):
        return Finding("1", "supported", "Pearson's correlation", values, words)
    if _above(plain, -WEAK) and _above(ranked, -WEAK):
        return Finding("1", "contradicted", "Pearson's correlation", values, f"{words} It is surely weaker than -{WEAK:g}.")
    return Finding("1", "not decided", "Pearson's correlation", values, words)


def _selective(recipe: TradeoffRecipe, plain: pl.DataFrame, own: dict[str, pl.DataFrame]) -> Finding:
    last = distinct(plain.filter((pl.col("arm") != CONTROL) & (pl.col("step") == pl.col("step").max())))
    slopes = own["slopes"]
    if last.is_empty() or slopes.is_empty():
        return Finding("2", "not decided", "", _NONE, "No arm with a fairness objective is finished.")
    cluster, fewest = clusters_of(plain)[-1]
    shift, overall = (_mean(last, name, cluster, fewest) for name in ("margin_shift", "overall"))
    steep = slopes.filter((pl.col("x") == "selective") & (pl.col("points_of") == "all"))
    row = _widest(steep)
    words = f"At the last checkpoint the margin had shifted by {_told(shift)} nats, and overall forgetting was {_told(overall)} nats a "
    words += f"token; it rose by {_interval(row)} nats a token per nat of selectivity ({_over(steep)})."
    words += _objective_words(recipe, own["objective"])
    values = (_number(row["value"]), _number(row["low"]), _number(row["high"]))
    figure = "slope of overall forgetting on selectivity"
    if shift.low > 0 and overall.low > 0 and _above(steep, 0.0):
        return Finding("2", "supported", figure, values, words)
    if shift.low > 0 and (overall.high < 0 or _below(steep, 0.0)):
        return Finding("2", "contradicted", figure, values, words)
    return Finding("2", "not decided", figure, values, words)


def _objective_words(recipe: TradeoffRecipe, objective: pl.DataFrame) -> str:
    arm = reference_arm(recipe)
    if objective.is_empty():
        return ""
    rows = objective.filter((pl.col("arm") == arm) & (pl.col("figure") == "overall"))
    if rows.is_empty():
        return ""
    row = rows.sort("step").row(-1, named=True)
    return f" The objective's own part, {arm} less {CONTROL} at step {row['step']}, is {_interval(row)} ({row['pairs']} pairs of runs)."


def _mitigated(recipe: TradeoffRecipe, table: pl.DataFrame, figure: str) -> Finding:
    """3a: less overall forgetting is a benefit; 3b: a higher downstream score is one."""
    key, sign = ("3a", -1.0) if figure == "overall" else ("3b", 1.0)
    rows = table.filter(pl.col("figure") == figure) if table.width else table
    if rows.is_empty():
        return Finding(key, "not decided", "", _NONE, "There is nothing to compare at equal bias.")
    judged = [_judged(row, sign, recipe.least_benefit) for row in rows.iter_rows(named=True)]
    told = "; ".join(
        f"{row['compared']} on {row['arm']} at a shift of {number(row['at'], 'nats')} {_interval(row)} ({word})"
        for row, word in zip(rows.iter_rows(named=True), judged, strict=True)
    )
    unit = "nats a token of overall forgetting" if figure == "overall" else "downstream points"
    words = f"Against the plain arm at equal bias, in {unit}, joint intervals: {told}."
    decision: Decision = "not decided"
    if "a benefit" in judged:
        decision = "contradicted"
    elif all(word == "no benefit" for word in judged):
        decision = "supported"
    # The figure that stands for a contradiction is one that contradicts, not a larger one that is not sure.
    sure = [row for row, word in zip(rows.iter_rows(named=True), judged, strict=True) if word == "a benefit"]
    best = max(sure or rows.iter_rows(named=True), key=lambda row: sign * _number(row["difference"], -np.inf * sign))
    values = (_number(best["difference"]), _number(best["low"]), _number(best["high"]))
    which = "the largest sure benefit" if sure else "the most favourable"
    return Finding(key, decision, f"{best['compared']} less {PLAIN}, {which}", values, words)


def _judged(row: dict[str, Any], sign: float, share: float) -> str:
    """Whether a mitigation surely helps, surely helps less than the share of what the plain arm lost, or neither is shown."""
    if row["low"] is None or row["high"] is None:
        return row["note"] or "no interval"
    low, high = sorted((sign * row["low"], sign * row["high"]))
    lost = -sign * row["second"]
    if lost <= 0:
        return "the plain arm lost nothing"
    if low > 0:
        return "a benefit"
    return "no benefit" if high < share * lost else "not shown"


def _mean(rows: pl.DataFrame, name: str, cluster: str, fewest: int) -> Interval:
    values = rows.filter(pl.col(name).is_not_null())
    numbers = values[name].to_numpy().astype(np.float64)
    labels = values[cluster].rank("dense").to_numpy()
    if not len(numbers) or len(np.unique(labels)) < fewest:
        mean = float(numbers.mean()) if len(numbers) else np.nan
        return Interval(mean, np.nan, np.nan, np.nan, len(np.unique(labels)), len(numbers), "too few to tell")
    return cluster_bootstrap(Components(numbers, np.ones_like(numbers), labels, np.zeros(len(numbers), dtype=np.int64)))


def _below(rows: pl.DataFrame, limit: float) -> bool:
    """Whether every interval there is lies below a limit, and there is one."""
    known = rows["high"].drop_nulls()
    return bool(len(known) and len(known) == rows.height and (known < limit).all())


def _above(rows: pl.DataFrame, limit: float) -> bool:
    known = rows["low"].drop_nulls()
    return bool(len(known) and len(known) == rows.height and (known > limit).all())


def _widest(rows: pl.DataFrame) -> dict[str, Any]:
    """The row with the widest interval of those over runs and over seeds."""
    found = rows.with_columns((pl.col("high") - pl.col("low")).alias("width")).sort("width", descending=True, nulls_last=True)
    return found.row(0, named=True)


def _over(rows: pl.DataFrame) -> str:
    return ", ".join(f"{row['clusters']} {row['over']}s" for row in rows.iter_rows(named=True))


def _interval(row: dict[str, Any]) -> str:
    value = row["difference"] if "difference" in row else row["value"]
    told = bounds(row["low"], row["high"], "nats", signed=True) or (f"({row['note']})" if row.get("note") else "(no interval)")
    return f"{number(value, 'nats', signed=True)} {told}"


def _told(interval: Interval) -> str:
    return f"{number(interval.value, 'nats', signed=True)} {bounds(interval.low, interval.high, 'nats', signed=True) or '(no interval)'}"


def _number(value: float | None, otherwise: float = np.nan) -> float:
    return otherwise if value is None else float(value)


def decisions(found: pl.DataFrame) -> Sequence[tuple[str, str, str, str]]:
    """Model, number, decision and words of each finding, for the terminal."""
    return [(row["model"], row["finding"], row["decision"], row["claim"]) for row in found.iter_rows(named=True)]
