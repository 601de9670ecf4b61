"""What a ledger says of forgetting, as tables: net by task, and biased forgetting by group. No model is needed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import polars as pl

from fairforget.forgetting import biased_forgetting, continuous_forgetting, net_forgetting, summary
from fairforget.forgetting.biased import BiasedForgetting
from fairforget.tables import write_table
from fairforget.workflows.run_folder import RunFolder

FEWEST_OF_A_GROUP = 3
"""Clusters that a group must have to be compared at all."""

_NATS = ("per_item", "per_item_low", "per_item_high")


def write_ledger_tables(ledger: pl.DataFrame, folder: RunFolder, *, same_tokens: bool = True, resamples: int, seed: int) -> pl.DataFrame:
    """Write the ledger of one stage and everything that follows from it: what was forgotten, by task and by group.

    Tables: ``ledger``; ``ledger-summary``; ``forgetting``, the net of every task that can be right or wrong, with nats an item where its
    likelihoods can be subtracted; ``biased`` and ``dispersion``, biased forgetting of the tasks that have groups.

    Args:
        ledger: of one stage of one run, as ``build_ledger`` gives it: it balances.
        folder: of the run.
        same_tokens: whether both states read text with one tokenizer.
        resamples: of the intervals.
        seed: of the resamples.

    Returns:
        The summary.
    """
    account = summary(ledger)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    net = net_forgetting(ledger, **options)
    if net.height:
        likelihood = continuous_forgetting(ledger, **options) if same_tokens else pl.DataFrame()
        nats = likelihood if likelihood.height else net.select("benchmark", "task", **dict.fromkeys(_NATS, pl.lit(None, pl.Float64)))
        net = net.join(nats.select("benchmark", "task", *_NATS), on=["benchmark", "task"], how="left", maintain_order="left")
    groups: list[pl.DataFrame] = []
    spread: list[dict[str, Any]] = []
    for part in ledger.partition_by("benchmark", "task", maintain_order=True):
        facts = part.select("benchmark", "task").row(0, named=True)
        rows, found = biased_tables(part, facts, options, nats=same_tokens)
        groups += rows
        spread += found
    tables = {
        "ledger": ledger, "ledger-summary": account, "forgetting": net,
        "biased": pl.concat(groups, how="diagonal_relaxed") if groups else pl.DataFrame(),
        "dispersion": pl.DataFrame(spread, infer_schema_length=None) if spread else pl.DataFrame(),
    }
    for name, table in tables.items():
        write_table(table, folder.tables / f"{name}.parquet")
    return account


def biased_tables(
    account: pl.DataFrame, facts: Mapping[str, Any], options: Mapping[str, Any], *, nats: bool = True
) -> tuple[list[pl.DataFrame], list[dict[str, Any]]]:
    """Biased forgetting of one task at one stage, on every axis of its groups: in points where items are right or wrong, and in nats.

    Args:
        account: ledger of one task at one stage; seeds of one run are pooled.
        facts: what every row holds beside.
        options: ``resamples`` and ``seed``.
        nats: also by likelihood, for abilities.

    Returns:
        Tables of ``biased_forgetting`` with the facts, ``axis`` and ``scale``; and for each a row with the dispersion.
    """
    groups: list[pl.DataFrame] = []
    spread: list[dict[str, Any]] = []
    usable = account.filter(pl.col("skipped").is_null())
    scales = ["points"] if usable["correct_before"].is_not_null().any() else []
    # nats are told by the token; logs of lm-eval do not say how many there are
    if nats and (account["role"] == "ability").all() and (usable["nll_before"].is_not_null() & usable["tokens_before"].is_not_null()).any():
        scales.append("nll")
    for axis, names in group_axes(account).items():
        for scale in scales:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the note of several groups an item is in the table
                found = biased_forgetting(account, groups=names, scale=scale, **options)  # type: ignore[arg-type]
            own = {**facts, "axis": axis, "scale": scale}
            groups.append(found.table.with_columns(*(pl.lit(value).alias(name) for name, value in own.items())))
            notes = "; ".join(note for note in (*found.notes, found.dispersion.note) if note)
            spread.append({**own, "unit": found.unit, "margin": found.margin, **_dispersion(found), "note": notes})
    return groups, spread


def group_axes(ledger: pl.DataFrame, fewest: int = FEWEST_OF_A_GROUP) -> dict[str, list[str]]:
    """Groups by what they are groups of: ``target: X`` is of the axis ``target``, names without a colon of ``group``.

    Args:
        ledger: of one task.
        fewest: clusters that a group must have; an axis with fewer than two such groups is left out.
    """
    counted = (
        ledger.filter(pl.col("skipped").is_null()).select("groups", "cluster").explode("groups").drop_nulls("groups")
        .group_by("groups").agg(pl.col("cluster").n_unique()).sort("groups")
    )
    axes: dict[str, list[str]] = {}
    for group, clusters in counted.iter_rows():
        if clusters >= fewest:
            axes.setdefault(group.partition(": ")[0] if ": " in group else "group", []).append(group)
    return {axis: names for axis, names in axes.items() if len(names) > 1}


def _dispersion(found: BiasedForgetting) -> dict[str, Any]:
    spread = found.dispersion
    return {
        "tau": spread.value, "tau_low": spread.low, "tau_high": spread.high, "p_value": spread.p_value, "groups": spread.groups,
        "gap": spread.gap, "expected_gap": spread.expected_gap, "worst": spread.worst, "expected_worst": spread.expected_worst,
        "all_equivalent": found.all_equivalent, "partition": found.partition,
    }
