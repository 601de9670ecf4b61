"""What a chain allows to say, in sentences; page and terminal print the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from fairforget.report import number_words
from fairforget.report.chain_page import headline_changes
from fairforget.workflows.verdict import GENERAL_LIMITS, Verdict

LIMITS = (
    "Intervals are over items, and over seeds too only from five seeds on; fewer seeds are told as a range.",
    "A stage is judged at the settings it was run with: another learning rate or number of steps forgets more or less.",
    "Tasks that were dealt out anew compare with no published figure. The protocol of Ung et al. 2024 was reproduced, not their numbers.",
)


def chain_words(tables: Mapping[str, pl.DataFrame], seeds: int) -> Verdict:
    """The words of a chain.

    Args:
        tables: of the chain, by name.
        seeds: how many there are.
    """
    forgetting = tables["forgetting"]
    beside = [_change_sentence(row) for row in headline_changes(tables["changes"]).iter_rows(named=True)]
    sentences: list[str] = []
    if forgetting.is_empty():
        headline = "No path taught a task before its last stage, so nothing taught can have been forgotten."
        return Verdict(headline, "measured", tuple(beside), (*LIMITS, *GENERAL_LIMITS))
    first = forgetting.filter(pl.col("until") == pl.col("taught") + 1)
    shown = sum(_reading(row) == "forgot" for row in first.iter_rows(named=True))
    tests = f"{shown} of {first.height} next stages forgot shares of what was taught before that are beyond chance"
    headline = f"{tests}; {seeds} seed{'s' * (seeds != 1)}."
    sentences += [_stage_sentence(row) for row in first.iter_rows(named=True)]
    told = ("order effect", "end-state contrast")
    sentences += [_order_sentence(row) for row in tables["order"].iter_rows(named=True) if row["figure"] in told]
    sentences += [_dispersion_sentence(row) for row in tables["dispersion"].iter_rows(named=True) if row["scale"] == "points"]
    sentences += [_recovery_sentence(row) for row in tables["recovery"].iter_rows(named=True) if row["group"] == "all"]
    sentences += [_matched_sentence(row) for row in tables["matched"].iter_rows(named=True) if row["figure"] == "nll_change"]
    sentences += beside
    sentences += [_relearned_sentence(tables["relearned"])] if not tables["relearned"].is_empty() else []
    return Verdict(headline, "measured", tuple(sentences), (*LIMITS, *GENERAL_LIMITS))


def forgetting_words(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table of forgetting in words."""
    levels = f"{number_words.number(100 * row['before'], '%')} → {number_words.number(100 * row['after'], '%')} %"
    net = f"{_points(row['forgetting'])} {_bounds(row, 'forgetting', 100)}"
    nats = f"{number_words.number(row['per_item'], 'nats', signed=True)} {_bounds(row, 'per_item', 1)}"
    return row["path"], row["task"], row["by"], levels, net, nats, f"{row['p_sign_flip']:.3g}"


def _stage_sentence(row: Mapping[str, Any]) -> str:
    net = f"{_points(row['forgetting'])} {_bounds(row, 'forgetting', 100)}"
    return (
        f"{row['path']}: the stage {row['by']} {_reading(row)} {row['task']}, net {net} "
        f"points (lost {100 * row['lost']:.1f}, gained {100 * row['gained']:.1f}), {row['per_item']:+.3f} {_bounds(row, 'per_item', 1)} "
        "nats an item."
    )


def _reading(row: Mapping[str, Any]) -> str:
    """What a row of forgetting allows to say; where every cluster moved alike there is no interval, and the sign-flip test speaks."""
    low, high, value = row["forgetting_low"], row["forgetting_high"], row["forgetting"]
    if not number_words.is_number(low):
        beyond = number_words.is_number(row["p_sign_flip"]) and row["p_sign_flip"] < 0.05
        low, high = (value, value) if beyond else (0.0, 0.0)
    return "forgot" if low > 0 else "gained on" if high < 0 else "shows no change beyond chance of"


def _change_sentence(row: Mapping[str, Any]) -> str:
    """What a stage made of the figure that stands for a benchmark."""
    unit, of_level, nothing = row["unit"], row["level_unit"], 1.0 if row["unit"] == "ratio" else 0.0
    levels = f"{number_words.number(row['before'], of_level)} → {number_words.quantity(row['after'], of_level)}"
    if row["change"] is None:
        return f"{row['path']}: {row['task']} ({row['metric']}) by the stage {row['stage_name']}: {levels}; no difference can be told."
    sure = number_words.is_number(row["low"]) and (row["low"] > nothing or row["high"] < nothing)
    change = number_words.quantity(row["change"], unit, signed=unit != "ratio")
    span = number_words.bounds(row["low"], row["high"], unit, signed=unit != "ratio") or "(no interval)"
    reading = "moved" if sure else "shows no change beyond chance of"
    return f"{row['path']}: the stage {row['stage_name']} {reading} {row['task']} ({row['metric']}), {levels}, {change} {span}."


def _order_sentence(row: Mapping[str, Any]) -> str:
    span = f"{_points(row['value'])} {_bounds(row, '', 100)} points"
    if row["figure"] == "order effect":
        reading = "more" if row["low"] > 0 else "less" if row["high"] < 0 else "neither surely more nor less"
        forgotten = f"{row['safety']} is forgotten {reading} in '{row['first']}' than {row['capability']} in '{row['second']}'"
        return f"Order effect: {forgotten}, {span}."
    reading = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not surely different"
    return f"End-state contrast: {row['safety']} is {reading} at the end of '{row['second']}' than of '{row['first']}', {span}."


def _dispersion_sentence(row: Mapping[str, Any]) -> str:
    what = f"{row['task']} over {row['groups']} groups ({row['axis']}) by the stage {row['by']} of '{row['path']}'"
    if not number_words.is_number(row["tau"]):
        return f"Biased forgetting of {what}: not to be said ({row['note']})."
    spread = f"τ = {100 * row['tau']:.1f} points"
    if number_words.is_number(row["tau_low"]):
        spread += f" [{100 * row['tau_low']:.1f}, {100 * row['tau_high']:.1f}]"
    shown = "groups differ" if row["p_value"] < 0.05 else "no difference between groups is shown"
    return f"Biased forgetting of {what}: {shown}, {spread}, omnibus p = {row['p_value']:.3g}."


def _recovery_sentence(row: Mapping[str, Any]) -> str:
    if not row["defined"]:
        return f"{row['path']}: what {row['stage']} brought back of {row['task']} is not to be said ({row['note']})."
    share = f"{100 * row['share']:.0f} % {_bounds(row, 'share', 100)}"
    return f"{row['path']}: {row['stage']} brought back {share} of what was lost of {row['task']}."


def _matched_sentence(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return f"{row['path']}: not to be compared at equal gain ({row['note']})."
    ends = _bounds(row, "", 1) if row["low"] is not None else f"({row['note']})"
    where = f"where the stage did equally much ({row['along']})"
    return f"{row['path']}: {where}, {row['difference']:+.3f} nats an item against the plain path {ends}."


def _relearned_sentence(table: pl.DataFrame) -> str:
    told = "; ".join(
        f"from the {start} after {', '.join('more steps than were tried' if value is None else f'{value:.0f}' for value in own['steps'])}"
        for (start,), own in table.group_by(["start"], maintain_order=True)
    )
    return f"Learned again (optimiser steps, by seed): {told}."


def _points(value: float | None) -> str:
    return number_words.MISSING if not number_words.is_number(value) else f"{100 * value:+.1f}"  # type: ignore[operator]


def _bounds(row: Mapping[str, Any], name: str, factor: float) -> str:
    low, high = (row[f"{name}_{end}" if name else end] for end in ("low", "high"))
    if not number_words.is_number(low) or not number_words.is_number(high):
        return "(no interval)"
    digits = 1 if factor == 100 else 3
    return f"[{factor * low:+.{digits}f}, {factor * high:+.{digits}f}]"
