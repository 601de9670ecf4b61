"""What a study allows to say, in sentences; page and terminal print the same."""

from __future__ import annotations

from typing import Any

import polars as pl

from fairforget.benchmarks._metrics import PERPLEXITY
from fairforget.report import number_words
from fairforget.workflows.scaling import BIAS
from fairforget.workflows.study_table import DONE, FAILED, NOT_RUN
from fairforget.workflows.verdict import GENERAL_LIMITS, Verdict

_MOST_LINES = 8
"""Lines over model size that are told in words."""

LIMITS = (
    "The frontier joins estimates. A configuration beside it whose interval reaches it may be as good: order within the noise is no "
    "finding.",
    "Intervals of seeds pooled take the luck of the items as shared by all seeds, so they are rather too wide than too narrow; an interval "
    "of one seed says nothing about other seeds.",
    "Strengths were searched on the select part; configurations were not selected, but the best of many looks better on these items than "
    "it will elsewhere.",
)


def study_words(cells: pl.DataFrame, frontier: pl.DataFrame, lines: pl.DataFrame, contrasts: pl.DataFrame, kind: str) -> Verdict:
    """The words of a study.

    Args:
        cells: a row per cell.
        frontier: seeds pooled.
        lines: fits over model size.
        contrasts: variants against the one that the study names.
        kind: ``frontier`` or ``scaling``.
    """
    done, failed, waiting = (cells.filter(pl.col("status") == status).height for status in (DONE, FAILED, NOT_RUN))
    counts = f"{done} of {cells.height} cells are finished" + (f", {failed} failed" if failed else "")
    counts += f", {waiting} were not run; the table says why." if waiting else "; the table says why." if failed else "."
    if frontier.is_empty():
        return Verdict("No cell of this study is finished yet.", "measured", (counts,), (*LIMITS, *GENERAL_LIMITS))
    lowered = frontier.filter((pl.col("high") < 0).fill_null(value=False))
    kept = lowered.filter(pl.col("within_budget") == "kept")
    budgets = frontier["budget_percent"].drop_nulls().unique().to_list()
    headline = f"{lowered.height} of {frontier.height} configurations lowered the bias by more than chance explains"
    if budgets and lowered.height:
        budget = f"the budget of {budgets[0]:g} %" if len(budgets) == 1 else "their budgets"
        headline += f", {kept.height} of them certainly within {budget}"
    sentences = [counts]
    if frontier.height > 1:
        holm = frontier.filter((pl.col("p_holm") < 0.05).fill_null(value=False) & (pl.col("change") < 0)).height
        sentences.append(
            f"Taken together, Holm's correction over the {frontier.height} configurations leaves {holm} whose bias fell; of "
            f"{frontier.height} edits that do nothing, about {0.025 * frontier.height:.1g} would look like a fall at 95 % each."
        )
    for (model, target), group in frontier.group_by(["model", "target"], maintain_order=True):
        sentences.append(f"{model}, {target}: {_panel_words(group)}")
    sentences += _contrast_words(contrasts)
    if kind == "scaling" or lines.height:
        sentences += _scaling_words(lines)
    return Verdict(f"{headline}.", "measured", tuple(sentences), (*LIMITS, *GENERAL_LIMITS))


def _panel_words(group: pl.DataFrame) -> str:
    if group["before"].max() == 0:
        return "the base stands no farther from neutral than noise explains, so nothing can come nearer; read the other benchmarks."
    edge = group.filter(pl.col("on_frontier")).sort("change")
    if edge.is_empty():
        worse = group.filter((pl.col("low") > 0).fill_null(value=False)).height
        return "no configuration is better than the untouched base" + (f"; {worse} raised the bias by more than chance." if worse else ".")
    within = edge.filter(pl.col("within_budget") != "over")
    best = (within if within.height else edge).row(0, named=True)
    where = "" if within.height else "over its budget, "
    budget = "within the budget " if within.height and best["within_budget"] else ""
    words = f"the largest fall {budget}is that of {best['configuration']}, {where}"
    words += f"{_change(best)} at a perplexity cost of {_cost(best)}"
    if best["high"] is None or best["high"] >= 0:
        words += ", which is not distinguishable from none"
    rivals = [
        row["configuration"] for row in group.iter_rows(named=True)
        if row["configuration"] != best["configuration"] and row["within_budget"] != "over"
        and row["low"] is not None and best["high"] is not None and row["low"] <= best["high"]
    ]
    if rivals:
        shown = ", ".join(rivals[:5]) + (f" and {len(rivals) - 5} more" if len(rivals) > 5 else "")
        words += f"; the intervals of {shown} overlap its own"
    others = [name for name in edge["configuration"] if name != best["configuration"]]
    return words + (f". On the frontier too: {', '.join(others)}." if others else ". It is the whole frontier.")


def _contrast_words(contrasts: pl.DataFrame) -> list[str]:
    """A sentence for each configuration: whether it comes nearer to neutral than the one that it is compared with, at what cost."""
    words: list[str] = []
    for row in contrasts.filter(pl.col("target")).head(_MOST_LINES).iter_rows(named=True):
        sure = row["low"] is not None and not row["low"] <= 0 <= row["high"]
        outcome = ("nearer to neutral than" if row["change"] < 0 else "farther from neutral than") if sure else "not told apart from"
        of_one = (pl.col("configuration") == row["configuration"]) & (pl.col("against") == row["against"])
        cost = contrasts.filter(of_one & (pl.col("metric") == PERPLEXITY.ratio_name)).rows(named=True)
        paid = ""
        if cost:
            change, low, high = (None if cost[0][name] is None else 100 * (cost[0][name] - 1) for name in ("change", "low", "high"))
            interval = number_words.bounds(low, high, "%", signed=True)
            paid = f", at {number_words.number(change, '%', signed=True)} % {interval} of perplexity".replace("  ", " ")
        words.append(f"{row['configuration']} is {outcome} {row['against']}, item by item: {_change(row)}{paid}.")
    left = contrasts.filter(pl.col("target")).height - _MOST_LINES
    return [*words, *([f"{left} more comparisons stand in the table."] if left > 0 else [])]


def _scaling_words(lines: pl.DataFrame) -> list[str]:
    if lines.is_empty():
        return ["The finished cells have one model size, so nothing can be said about scale."]
    words: list[str] = []
    bias = lines.filter(pl.col("figure") == BIAS)
    for row in bias.head(_MOST_LINES).iter_rows(named=True):
        slope = f"{row['configuration']}: the change of {row['target']} moves {row['slope']:+.3g} {row['unit']} per tenfold of parameters"
        if row["low"] is None:
            words.append(f"{slope} ({row['note']}).")
            continue
        shown = "" if row["low"] <= 0 <= row["high"] else ", a trend that the sizes bear out"
        words.append(f"{slope} (95 % interval {row['low']:+.3g} to {row['high']:+.3g}, {row['sizes']} sizes){shown}.")
    rest = f"; {bias.height - _MOST_LINES} more lines are there too" if bias.height > _MOST_LINES else ""
    return [*words, f"How the cost moves with size stands in the table{rest}."]


def _change(row: dict[str, Any]) -> str:
    unit = row["unit"]
    interval = number_words.bounds(row["low"], row["high"], unit, signed=True)
    return f"{number_words.quantity(row['change'], unit, signed=True)} {interval or '(no interval)'}"


def _cost(row: dict[str, Any]) -> str:
    if row["cost"] is None:
        return "not measured"
    low, high = (None if row[name] is None else 100 * (row[name] - 1) for name in ("cost_low", "cost_high"))
    return f"{number_words.number(100 * (row['cost'] - 1), '%', signed=True)} % {number_words.bounds(low, high, '%', signed=True)}".strip()
