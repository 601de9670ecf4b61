"""Overall, stereotype and selective forgetting: what a bias intervention took from the stereotype, and what from everything else.

With log p of the stereotypical (s), the anti-stereotypical (a) and an unrelated text (u), and of neutral text (n), before and after, the
change is d_x = log p_before(x) - log p_after(x) in nats, positive where x became less likely:

- stereotype forgetting d_s, anti-stereotype forgetting d_a (its negative is retention), unrelated forgetting d_u;
- margin shift d_s - d_a = m_before - m_after, m = log p(s) - log p(a): what a bias score sees;
- selective forgetting d_s - d_n, a difference in differences: 0 where the intervention was indiscriminate;
- overall forgetting, nats a token on general text: sum of nll_change over sum of tokens; exp of it is the ratio of perplexities.

A margin can fall because the stereotype was forgotten (d_s > 0) or because its counterpart was learned (d_a < 0); the reading says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.forgetting._columns import ALL, column, figures, group_names, membership, one_account, ratios
from fairforget.forgetting.continuous import exponential, likelihood_change, require_same_tokens
from fairforget.stats import Components, Interval, Statistic, cluster_bootstrap, independent_difference, simultaneous
from fairforget.stats.cluster_sums import Floats


@dataclass(frozen=True)
class CompletionChange:
    """What became of the likelihood of an item's texts, nats; positive is forgotten.

    Attributes:
        stereotype: d_s.
        anti_stereotype: d_a.
        neutral: d_n; ``nan`` where no neutral text was scored.
    """

    stereotype: float
    anti_stereotype: float
    neutral: float = float("nan")

    @property
    def margin_shift(self) -> float:
        """d_s - d_a."""
        return self.stereotype - self.anti_stereotype

    @property
    def selective(self) -> float:
        """d_s - d_n."""
        return self.stereotype - self.neutral


def completion_change(before: tuple[float, ...], after: tuple[float, ...]) -> CompletionChange:
    """The change between log-probabilities (s, a) or (s, a, n) before and after.

    Raises:
        UsageError: there are not two or three in each.
    """
    if len(before) != len(after) or len(before) not in (2, 3):
        raise UsageError(f"A change of completions takes (s, a) or (s, a, n) twice, not {len(before)} and {len(after)} figures.")
    return CompletionChange(*(first - second for first, second in zip(before, after, strict=True)))


@dataclass(frozen=True)
class OverallForgetting:
    """Likelihood lost on general text.

    Attributes:
        interval: nats a token.
        perplexity_ratio: exp of it.
        strata: a row per stratum: ``stratum``, ``n``, ``clusters``, ``tokens``, ``share`` (of all tokens), ``per_token`` with its ends,
            ``perplexity_ratio`` with its ends, ``contribution`` = share x per_token, which add up to the value, and ``note``.
    """

    interval: Interval
    perplexity_ratio: float
    strata: pl.DataFrame


def overall_forgetting(
    ledger: pl.DataFrame, *, strata: pl.Expr | None = None, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> OverallForgetting:
    """Overall forgetting on a general corpus that shares nothing with the tuning data, and by strata that add up to it.

    Args:
        ledger: of one task with likelihoods (running text), one stage of one run.
        strata: gives each item one label (text without group words, with group words, with group words of another axis ...); each
            item's single group when None and every item has exactly one, else no strata.
        resamples: of the intervals.
        level: coverage; strata hold it one by one.
        seed: of the resamples.

    Raises:
        DataError: no item has a likelihood, an item has no stratum, or tokens differ before and after.
        UsageError: the ledger holds several accounts.
    """
    rows = one_account(ledger, "Overall forgetting").filter(pl.col("nll_change").is_not_null() & (pl.col("tokens_before") > 0))
    if rows.is_empty():
        raise DataError("Overall forgetting needs items with a likelihood, and the ledger has none.")
    require_same_tokens(rows)
    options: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    interval = likelihood_change(rows, True, options)
    if strata is None and (rows["groups"].list.len() == 1).all():
        strata = pl.col("groups").list.first()
    labelled = rows.with_columns(_stratum=pl.lit(ALL) if strata is None else strata.cast(pl.String))
    unlabelled = labelled["_stratum"].null_count()
    if unlabelled:
        raise DataError(f"{unlabelled} items have no stratum, so that strata would not add up: give every item one label.")
    tokens, table = float(rows["tokens_before"].sum()), list[dict[str, Any]]()
    for (name,), part in labelled.group_by("_stratum", maintain_order=True):
        own, held = likelihood_change(part, True, options), int(part["tokens_before"].sum())
        table.append({
            "stratum": str(name), "n": part.height, "clusters": own.clusters, "tokens": held, "share": held / tokens,
            **figures(own, "per_token"), **exponential(own), "contribution": held / tokens * own.value, "note": own.note,
        })
    if not np.isclose(sum(row["contribution"] for row in table), interval.value, rtol=1e-9, atol=1e-12):
        raise FairforgetError("The strata do not add up to overall forgetting: the ledger is damaged; build it again.")
    return OverallForgetting(interval, float(np.exp(interval.value)), pl.DataFrame(table).sort("stratum"))


def selective_forgetting(
    ledger: pl.DataFrame, neutral: pl.DataFrame | None = None, *, tokens_per_text: float | None = None, by_group: bool = False,
    resamples: int = 10_000, level: float = 0.95, seed: int = 0,
) -> pl.DataFrame:
    """Stereotype, anti-stereotype, unrelated and selective forgetting, and margin shift, over all pairs and by group.

    Args:
        ledger: of one task whose items have scores of a stereotypical and an anti-stereotypical text (and an unrelated one), in nats.
        neutral: ledger of text that stands for all else, one task with likelihoods; without it there is no selective forgetting.
        tokens_per_text: scored tokens of a stereotypical text, to set against neutral text per token; d_n is per neutral item when
            None, which needs neutral items as long as the stereotypical texts.
        by_group: also a row for each group, whose intervals hold jointly over the groups of a figure.
        resamples: of the intervals.
        level: coverage.
        seed: of the resamples.

    Returns:
        A row per group ("all" first): ``n``, ``clusters``; ``stereotype``, ``anti_stereotype``, ``unrelated``, ``margin_shift``,
        ``neutral``, ``selective``, each with its ends, nats a text, ``nan`` where there is none; ``reading``: "stereotype forgotten",
        "counterpart learned", "both", "neither shown", or "reversed" where the margin grew; and ``note``.

    Raises:
        DataError: no item has scores of two texts, or the neutral ledger no likelihoods.
        UsageError: a ledger holds several accounts, or `tokens_per_text` is not above 0.
    """
    if tokens_per_text is not None and not tokens_per_text > 0:
        raise UsageError(f"tokens_per_text = {tokens_per_text}: a text has more than 0 tokens.")
    rows = one_account(ledger, "Selective forgetting").filter(
        (pl.col("scores_before").list.len() >= 2) & (pl.col("scores_after").list.len() == pl.col("scores_before").list.len())
    )
    if rows.is_empty():
        raise DataError("Selective forgetting needs items with scores of a stereotypical and an anti-stereotypical text; there are none.")
    options: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    changes = _changes(rows)
    control = None if neutral is None else _neutral(neutral, tokens_per_text)
    members: dict[str, Floats] = {ALL: np.ones(rows.height)}
    if by_group:
        names = group_names(rows)
        members |= {name: inside.astype(np.float64) for name, inside in zip(names, membership(rows, names).T, strict=True)}
    found: dict[str, dict[str, Interval]] = {}
    for figure, (values, held) in changes.items():
        found[figure] = _by_group(rows, values, held, members, options)
    table: list[dict[str, Any]] = []
    for group, inside in members.items():
        own = {figure: intervals[group] for figure, intervals in found.items()}
        table.append(_row(group, own, ratios(rows, [changes["stereotype"][0]], [inside]), control, options))
    return pl.DataFrame(table, infer_schema_length=None)


def tokens_per_text(ledger: pl.DataFrame) -> float:
    """Tokens that a text's score is a sum over: their mean number where scores are sums of log-probabilities, 1 where they are means.

    Neutral text is set against as many tokens as a stereotypical text is scored by.

    Args:
        ledger: of one bias task.
    """
    rows = ledger.filter(pl.col("skipped").is_null() & pl.col("tokens_before").is_not_null() & (pl.col("scores_before").list.len() > 0))
    if rows.is_empty():
        return 1.0
    total = rows.select(-pl.col("scores_before").list.sum()).to_series()
    sums = ((total - rows["nll_before"]).abs() < 1e-6 * (1 + rows["nll_before"].abs())).mean()
    mean: Any = rows.select((pl.col("tokens_before") / pl.col("scores_before").list.len()).mean()).item()
    return float(mean) if isinstance(sums, float) and sums > 0.5 else 1.0


def _changes(rows: pl.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    """By figure, its values and which items have it."""
    every = np.ones(rows.height)

    def change(place: int) -> Floats:
        first, second = (pl.col(f"scores_{state}").list.get(place, null_on_oob=True) for state in ("before", "after"))
        return column(rows, first - second)

    stereotype, anti = change(0), change(1)
    has_unrelated = (rows["scores_before"].list.len() >= 3).to_numpy().astype(np.float64)
    return {
        "stereotype": (stereotype, every), "anti_stereotype": (anti, every), "unrelated": (change(2), has_unrelated),
        "margin_shift": (stereotype - anti, every),
    }


def _neutral(neutral: pl.DataFrame, tokens_per_text: float | None) -> Components:
    rows = one_account(neutral, "Neutral text").filter(pl.col("nll_change").is_not_null() & (pl.col("tokens_before") > 0))
    if rows.is_empty():
        raise DataError("The neutral ledger has no items with a likelihood.")
    require_same_tokens(rows)
    change = column(rows, pl.col("nll_change"))
    if tokens_per_text is None:
        return ratios(rows, [change], [np.ones(rows.height)])
    return ratios(rows, [tokens_per_text * change], [column(rows, pl.col("tokens_before"))])


def _by_group(
    rows: pl.DataFrame, values: Floats, held: Floats, members: Mapping[str, Floats], options: dict[str, Any]
) -> dict[str, Interval]:
    overall = cluster_bootstrap(ratios(rows, [values], [held]), **options)
    others = [name for name in members if name != ALL]
    if not others:
        return {ALL: overall}
    columns = ratios(rows, [values] * len(others), [held * members[name] for name in others])
    return {ALL: overall} | simultaneous(columns, {name: Statistic((place,)) for place, name in enumerate(others)}, **options)


def _row(
    group: str, own: dict[str, Interval], stereotype: Components, control: Components | None, options: dict[str, Any]
) -> dict[str, Any]:
    nothing = Interval(np.nan, np.nan, np.nan, np.nan, 0, 0, "")
    neutral = nothing if control is None else cluster_bootstrap(control, **options)
    selective = nothing if control is None else independent_difference(stereotype, control, **options)
    row: dict[str, Any] = {"group": group, "n": own["stereotype"].items, "clusters": own["stereotype"].clusters}
    for name, interval in (*own.items(), ("neutral", neutral), ("selective", selective)):
        row |= figures(interval, name)
    return row | {"reading": _reading(own), "note": own["stereotype"].note}


def _reading(own: Mapping[str, Interval]) -> str:
    if own["margin_shift"].high < 0:
        return "reversed"
    forgotten, learned = own["stereotype"].low > 0, own["anti_stereotype"].high < 0
    if forgotten and learned:
        return "both"
    return "stereotype forgotten" if forgotten else "counterpart learned" if learned else "neither shown"
