"""What pages print of forgetting: net by task, and biased forgetting by group; of a chain, a debiasing run or two audits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from fairforget.report import number_words
from fairforget.report.difference_chart import difference_chart
from fairforget.report.forgetting_charts import biased_forgetting_chart

if TYPE_CHECKING:
    from fairforget.report.page import Figures

ALL = "all"


def forgetting_rows(table: pl.DataFrame, label_of: Callable[[dict[str, Any]], str], figures: Figures) -> dict[str, Any]:
    """What the section on forgetting prints: a chart of the nets and a row for each task.

    Args:
        table: of ``net_forgetting`` with nats an item beside, null where they cannot be subtracted.
        label_of: what a row is called in the chart.
        figures: charts of the page.
    """
    if table.is_empty():
        return {"figures": [], "rows": []}
    rows = table.to_dicts()
    drawn: list[dict[str, Any]] = [
        {
            "label": label_of(row),
            **{name: row[f"forgetting{end}"] for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))},
        }
        for row in rows
    ]
    said = "; ".join(f"{row['label']}: {points(row['value'])}" for row in drawn[:8])
    chart = figures.add(
        difference_chart(drawn, "net forgetting, percentage points; right of 0 was forgotten", unit="%", factor=100.0),
        f"Chart of net forgetting of every task that was taught before, with 95 % intervals. {said}. The table below holds every figure.",
    )
    for row in rows:
        row |= {
            "name": label_of(row).replace("\n", ": ", 1),
            "levels": f"{number_words.number(100 * row['before'], '%')} → {number_words.quantity(100 * row['after'], '%')}",
            "net": f"{points(row['forgetting'])} {interval(row, 'forgetting', 100, '%')}",
            "legs": f"{100 * row['lost']:.1f} / {100 * row['gained']:.1f}",
            "adjusted": _legs(row, "adjusted"),
            "harmon": _legs(row, "harmon"),
            "nats": f"{scaled(row['per_item'], 1, 'nats')} {interval(row, 'per_item', 1, 'nats')}",
        }
    return {"figures": [chart] if chart else [], "rows": rows}


def biased_groups(
    spread: pl.DataFrame, groups: pl.DataFrame, about: Sequence[str], title_of: Callable[[dict[str, Any]], str], figures: Figures
) -> list[dict[str, Any]]:
    """What the section on groups prints: a forest plot and a table for every task, axis and scale.

    Args:
        spread: a row each, with the dispersion.
        groups: a row for each group of each.
        about: columns that both share beside ``axis`` and ``scale``.
        title_of: what is told of a row of `spread`.
        figures: charts of the page.
    """
    found: list[dict[str, Any]] = []
    for fact in spread.iter_rows(named=True) if not spread.is_empty() else ():
        same = pl.all_horizontal(pl.col(name) == fact[name] for name in (*about, "axis", "scale"))
        rows = groups.filter(same & (pl.col("group") != ALL)).sort("biased", descending=True, nulls_last=True).to_dicts()
        percent = fact["unit"] == "share"
        drawn = biased_forgetting_chart(rows, fact["unit"], margin=fact["margin"]) if percent else None
        title = f"{title_of(fact)}, {fact['axis']}"
        chart = figures.add(drawn, f"Forest plot of biased forgetting of {title}, with joint 95 % intervals. The table holds every figure.")
        factor, unit = (100.0, "%") if percent else (1.0, "nats")
        found.append({
            **fact, "title": title, "unit_words": "percentage points" if percent else "nats a token", "figures": [chart] if chart else [],
            "tau_words": f"{scaled(fact['tau'], factor, unit)} {interval(fact, 'tau', factor, unit)}",
            "gap_words": f"{scaled(fact['gap'], factor, unit)} (noise alone: {scaled(fact['expected_gap'], factor, unit)})",
            "p_words": number_words.MISSING if not number_words.is_number(fact["p_value"]) else f"{fact['p_value']:.3g}",
            "rows": [
                {**row, "own": f"{scaled(row['forgetting'], factor, unit)} {interval(row, 'forgetting', factor, unit)}",
                 "bf": f"{scaled(row['biased'], factor, unit)} {interval(row, 'biased', factor, unit)}",
                 "against_rest": f"{scaled(row['rest'], factor, unit)} {interval(row, 'rest', factor, unit)}",
                 "detectable": scaled(row["minimum_detectable"], factor, unit).lstrip("+"),
                 "equal": {True: "within the margin", False: "not shown"}.get(row["equivalent"], "–")}
                for row in rows
            ],
        })
    return found


def _legs(row: dict[str, Any], kind: str) -> str:
    lost, gained = row[f"lost_{kind}"], row[f"gained_{kind}"]
    return number_words.MISSING if lost is None else f"{100 * lost:.1f} / {100 * gained:.1f}"


def points(value: float | None) -> str:
    """A share as percentage points with its sign."""
    return number_words.quantity(100 * value, "%", signed=True) if number_words.is_number(value) else number_words.MISSING  # type: ignore[operator]


def ratio(value: float | None) -> str:
    """A share as a whole percentage."""
    return f"{100 * value:.0f} %" if number_words.is_number(value) else number_words.MISSING  # type: ignore[operator]


def scaled(value: float | None, factor: float, unit: str) -> str:
    """A difference times a factor, with its sign and unit."""
    return number_words.quantity(factor * value, unit, signed=True) if number_words.is_number(value) else number_words.MISSING  # type: ignore[operator]


def interval(row: dict[str, Any], name: str, factor: float, unit: str) -> str:
    """The ends of a row's figure in brackets, or nothing."""
    ends = [row[f"{name}_{end}" if name else end] for end in ("low", "high")]
    low, high = (factor * end if number_words.is_number(end) else None for end in ends)
    return number_words.bounds(low, high, unit, signed=True)
