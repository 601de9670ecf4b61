"""Continuous forgetting: how many nats of likelihood went, and how far the distributions moved.

Accuracy is blind where a model is at chance, as small and base models mostly are; likelihood is not. ``nll_change`` can cancel between
items, so drift KL(before || after), which is never negative, is told beside it. For a causal model the likelihood is of the answer's tokens
given the prompt, for a masked model of each scored token masked in turn; the scored positions are the same before and after.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from fairforget.errors import DataError
from fairforget.forgetting._columns import ACCOUNT, ALL, column, figures, group_names, ratios, scored
from fairforget.stats import Interval, cluster_bootstrap
from fairforget.stats.cluster_sums import Floats


def kl_divergence(before: ArrayLike, after: ArrayLike) -> Floats:
    """KL(before || after) in nats over the last axis.

    Args:
        before: (..., V) log-probabilities, normalised; -inf is a probability of 0.
        after: the same.

    Returns:
        (...) divergences, 0 or more (rounding below 0 is cut off); infinite where `after` rules out what `before` allows.

    Raises:
        DataError: the shapes differ, or a row is not a normalised distribution (1e-3).
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (before, after))
    if first.shape != second.shape or first.ndim == 0:
        raise DataError(f"A divergence needs two arrays of one shape, not {first.shape} and {second.shape}.")
    for values in (first, second):
        if not np.allclose(np.exp(values).sum(axis=-1), 1.0, atol=1e-3):
            raise DataError("A divergence needs log-probabilities that are normalised over the last axis: apply log_softmax first.")
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(first), 0.0, np.exp(first) * (first - second))
    return np.maximum(terms.sum(axis=-1), 0.0)


def continuous_forgetting(
    ledger: pl.DataFrame, *, by_group: bool = False, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """Likelihood lost and drift, of every task at every stage.

    Args:
        ledger: any; seeds of one run are pooled.
        by_group: also a row for each group.
        resamples: of the intervals.
        level: coverage.
        seed: of the resamples.

    Returns:
        One row per run, stage, task and group ("all" first) that has likelihoods: ``n``, ``clusters``, ``tokens``; ``per_item`` (nats an
        item), ``per_token`` (nats a token), ``perplexity_ratio`` (exp of it) and ``kl`` (nats a position, over the items where it was
        measured), each with its ends, null where there is none; ``note``.

    Raises:
        DataError: items have other numbers of tokens before and after, so that likelihoods cannot be compared.
    """
    rows: list[dict[str, Any]] = []
    for part in scored(ledger).filter(pl.col("nll_change").is_not_null()).partition_by(ACCOUNT, maintain_order=True):
        require_same_tokens(part)
        for group in [ALL, *(group_names(part) if by_group else [])]:
            inside = part if group == ALL else part.filter(pl.col("groups").list.contains(group))
            facts: dict[str, Any] = inside.select(ACCOUNT).row(0, named=True)
            rows.append(facts | {"group": group} | _row(inside, {"resamples": resamples, "level": level, "seed": seed}))
    return pl.DataFrame(rows, infer_schema_length=None)


def require_same_tokens(ledger: pl.DataFrame) -> None:
    """Refuse a ledger of two tokenizers.

    Raises:
        DataError: an item has other numbers of scored tokens before and after.
    """
    differ = ledger.filter(pl.col("tokens_before").ne_missing(pl.col("tokens_after"))).height
    if differ:
        raise DataError(
            f"{differ} items have other numbers of tokens before and after: likelihoods by two tokenizers cannot be subtracted."
        )


def likelihood_change(ledger: pl.DataFrame, per_token: bool, options: dict[str, Any]) -> Interval:
    """Interval of the likelihood lost, nats a token (a ratio of sums) or an item."""
    below = column(ledger, pl.col("tokens_before")) if per_token else np.ones(ledger.height)
    return cluster_bootstrap(ratios(ledger, [column(ledger, pl.col("nll_change"))], [below]), **options)


def exponential(interval: Interval) -> dict[str, float]:
    """A ratio of perplexities from nats a token."""
    return {name: float(np.exp(value)) for name, value in figures(interval, "perplexity_ratio").items()}


def _row(rows: pl.DataFrame, options: dict[str, Any]) -> dict[str, Any]:
    per_item, per_token = likelihood_change(rows, False, options), likelihood_change(rows, True, options)
    measured = rows.filter(pl.col("kl").is_not_null())
    drift: dict[str, float | None] = dict.fromkeys(("kl", "kl_low", "kl_high"))
    if measured.height:
        interval = cluster_bootstrap(ratios(measured, [column(measured, pl.col("kl"))], [np.ones(measured.height)]), **options)
        drift = {**figures(interval, "kl")}
    return {
        "n": rows.height, "clusters": per_item.clusters, "tokens": int(rows["tokens_before"].sum()), **figures(per_item, "per_item"),
        **figures(per_token, "per_token"), **exponential(per_token), **drift, "note": per_token.note,
    }
