"""Ledgers of several stages: a path of audits as one table, several paths in one table, and two distant stages of a path side by side.

Forgetting telescopes: what a path lost from its first audit to its last is the sum of what its stages lost,
F(A -> ABC) = F(A -> AB) + F(AB -> ABC). The ledger holds stages and sums, never both, so nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from fairforget.errors import UsageError
from fairforget.forgetting.ledger import KEY, LEDGER_SCHEMA, PATH, Step, account, balance, build_ledger

_FIGURES = ("prefers_stereotype", "margin", "correct", "nll", "tokens", "scores", "answer", "state")


def chain_ledger(
    audits: Sequence[pl.DataFrame], stages: Sequence[str], *, step: Step | None = None, states: Sequence[str] | None = None,
    drifts: Mapping[int, pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """The ledger of one path: one row per stage and item, each stage from the audit before it to the audit after it.

    Args:
        audits: M + 1 item tables of the same items, of the base and after each stage.
        stages: M names, of what was done between two audits.
        step: run, seed and hashes that all rows share; its stage, name and states are set here.
        states: M + 1 ids of the audited states.
        drifts: by stage (from 1), as in :func:`fairforget.forgetting.build_ledger`.

    Raises:
        UsageError: there are not as many audits and states as stages and one.
        DataError: two audits are not of the same items.
    """
    if not stages or len(audits) != len(stages) + 1 or (states is not None and len(states) != len(audits)):
        raise UsageError(
            f"A path of {len(stages)} stages needs an audit (and the id of its state) before each stage and one at the end, "
            f"not {len(audits)} audits{'' if states is None else f' and {len(states)} states'}."
        )
    common, drifts = Step() if step is None else step, drifts or {}
    tables: list[pl.DataFrame] = []
    for place, name in enumerate(stages, start=1):
        ids = (None, None) if states is None else (states[place - 1], states[place])
        own = replace(common, stage=place, stage_name=name, state_before=ids[0], state_after=ids[1])
        tables.append(build_ledger(audits[place - 1], audits[place], step=own, drift=drifts.get(place)))
    return join_ledgers(tables)


def join_ledgers(ledgers: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One table of several ledgers (of other runs, seeds or stages), which must balance as a whole.

    Raises:
        UsageError: there is no ledger.
        FairforgetError: the whole does not balance, e.g. as a row occurs in two of them.
    """
    if not ledgers:
        raise UsageError("There is no ledger to join: give at least one.")
    joined = pl.concat(ledgers)
    balance(joined)
    return joined


def span(ledger: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    """The account from before stage `first` to after stage `last` of every path, as a ledger of one stage.

    Drifts are not additive, so a span of several stages has none. An item that was skipped in any of the stages is skipped.

    Args:
        ledger: of one or several paths.
        first: stage whose beginning counts, from 1.
        last: stage whose end counts.

    Raises:
        UsageError: a path lacks one of the stages, or `last` comes before `first`.
    """
    held = ledger.group_by(PATH).agg(pl.col("stage").unique())
    lacking = held.filter(~(pl.col("stage").list.contains(first) & pl.col("stage").list.contains(last)))
    if last < first or held.is_empty() or lacking.height:
        known = sorted(ledger["stage"].unique().to_list())
        raise UsageError(f"The ledger has no span from stage {first} to {last} in every run; its stages are {known}.")
    if first == last:
        return ledger.filter(pl.col("stage") == first)
    within = ledger.filter(pl.col("stage").is_between(first, last))
    key = [*PATH, *KEY]
    skipped = within.group_by(key).agg(pl.col("skipped").drop_nulls().first(), pl.col("stage_name").sort_by("stage").str.join(" > "))
    end = within.filter(pl.col("stage") == last).select(*key, *(f"{name}_after" for name in _FIGURES))
    start = within.filter(pl.col("stage") == first).drop(*(f"{name}_after" for name in _FIGURES), "skipped", "stage_name", "kl")
    joined = start.join(end, on=key, how="left", maintain_order="left").join(skipped, on=key, how="left", maintain_order="left")
    joined = joined.with_columns(kl=pl.lit(None, pl.Float64)).with_columns(**account())
    result = joined.select(pl.col(name).cast(kind) for name, kind in LEDGER_SCHEMA.items())
    balance(result)
    return result
