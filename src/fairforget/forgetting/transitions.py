"""What became of each item: kept, lost, gained or never known; the tests of the net; and how much of it is luck at guessing.

The net forgetting F = (n10 - n01) / N hides churn, so lost and gained are told beside it always. Part of both is chance: who knows nothing
of k options is right now and then. Two adjustments are here, of two models of what guessing is:

- :func:`chance_adjusted`, ours. An item is known or guessed at, before and after. Items wrong both times must have been guessed both times,
  so P(guessed both times) = p00 / (1 - 1/k)^2 and the guessing in p10 is p00 / (k - 1), however knowing before and after depend.
- :func:`harmon_adjusted`, of Harmon et al. 2025 (arXiv 2510.17776; post-forget/post-forget, create_csv.py), which takes knowing before and
  after for independent and cuts off at 0.

A model that picks its guess greedily repeats it, and then both adjust too much: score with the options in another order to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fairforget.errors import UsageError
from fairforget.forgetting._columns import ACCOUNT, ALL, column, figures, group_names, ratios, scored
from fairforget.forgetting.ledger import KEY
from fairforget.stats import cluster_bootstrap, mcnemar, sign_flip_permutation


@dataclass(frozen=True)
class Transitions:
    """How many items went which way (halves are possible: ties, one of two right).

    Attributes:
        kept: n11, right before and after.
        lost: n10.
        gained: n01.
        never: n00.
    """

    kept: float
    lost: float
    gained: float
    never: float

    @property
    def items(self) -> float:
        """N."""
        return self.kept + self.lost + self.gained + self.never

    @property
    def forgetting(self) -> float:
        """F = (n10 - n01) / N."""
        return (self.lost - self.gained) / self.items if self.items else float("nan")

    @property
    def paired_z(self) -> float:
        """F over its standard error for independent items; ``nan`` where nothing changed."""
        if not self.lost + self.gained:
            return float("nan")
        variance = ((self.lost + self.gained) / self.items - self.forgetting**2) / self.items
        return self.forgetting / variance**0.5 if variance > 0 else float("inf") * np.sign(self.forgetting)


@dataclass(frozen=True)
class ChanceAdjusted:
    """Rates less what guessing explains, as shares of all items.

    Attributes:
        lost: adjusted p10.
        gained: adjusted p01.
        knowledge_lost: share of items that were known before and guessed at after: lost k / (k - 1); ``nan`` for Harmon's.
        knowledge_gained: the same for gains.
    """

    lost: float
    gained: float
    knowledge_lost: float = float("nan")
    knowledge_gained: float = float("nan")

    @property
    def net(self) -> float:
        """Lost less gained; for ours the unadjusted F, as both legs hold the same guessing."""
        return self.lost - self.gained


def transitions(ledger: pl.DataFrame) -> Transitions:
    """Sum up what became of the items of a ledger that can be right or wrong."""
    rows = scored(ledger)
    return Transitions(*(float(rows[name].sum() or 0.0) for name in ("kept", "lost", "gained", "never")))


def chance_adjusted(counts: Transitions, options: int) -> ChanceAdjusted:
    """Lost and gained less what guessing among k options explains; not cut off at 0, so that groups can be averaged.

    Raises:
        UsageError: fewer than two options.
    """
    k, (_, lost, gained, never) = _options(options), _rates(counts)
    by_luck = never / (k - 1)
    known = k / (k - 1)
    return ChanceAdjusted(lost - by_luck, gained - by_luck, (lost - by_luck) * known, (gained - by_luck) * known)


def harmon_adjusted(counts: Transitions, options: int) -> ChanceAdjusted:
    """max(0, p10 - (1 - a0)(1 - a1) / (k - 1)) and the same for gains, a0 and a1 being the shares right before and after.

    Raises:
        UsageError: fewer than two options.
    """
    k, (kept, lost, gained, _) = _options(options), _rates(counts)
    by_luck = (1 - kept - lost) * (1 - kept - gained) / (k - 1)
    return ChanceAdjusted(max(0.0, lost - by_luck), max(0.0, gained - by_luck))


def lost_by_luck() -> pl.Expr:
    """Per item, the guessing in `lost` and in `gained`: never / (k - 1); null for an item of fewer than two options."""
    return pl.when(pl.col("options") >= 2).then(pl.col("never") / (pl.col("options") - 1))


def net_forgetting(
    ledger: pl.DataFrame, *, by_group: bool = False, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """Net forgetting of every task at every stage with interval and paired tests.

    McNemar's test takes items for independent and is told for comparison; the sign-flip test of clusters is the one to read.

    Args:
        ledger: any; seeds of one run are pooled (McNemar's test is of their transitions together).
        by_group: also a row for each group.
        resamples: of the interval and the permutation test.
        level: coverage.
        seed: of both.

    Returns:
        One row per run, stage, task and group ("all" first) that has items which can be right or wrong: ``n``, ``clusters``, ``before``,
        ``after`` (shares right), ``kept``, ``lost``, ``gained``, ``never`` (shares), ``forgetting`` with its ends, ``lost_adjusted`` and
        ``gained_adjusted`` (less guessing, from each item's own number of options; null where that is unknown), ``lost_harmon`` and
        ``gained_harmon`` (:func:`harmon_adjusted`; null where the items have not one number of options),
        ``p_mcnemar``, ``p_mid``, ``p_sign_flip`` and ``note``.
    """
    rows: list[dict[str, Any]] = []
    for part in scored(ledger).filter(pl.col("lost").is_not_null()).partition_by(ACCOUNT, maintain_order=True):
        for group in [ALL, *(group_names(part) if by_group else [])]:
            inside = part if group == ALL else part.filter(pl.col("groups").list.contains(group))
            facts: dict[str, Any] = inside.select(ACCOUNT).row(0, named=True) | {"group": group}
            rows.append(facts | _net_row(inside, resamples, level, seed))
    return pl.DataFrame(rows, infer_schema_length=None)


def _net_row(rows: pl.DataFrame, resamples: int, level: float, seed: int) -> dict[str, Any]:
    counts, net = transitions(rows), column(rows, pl.col("lost") - pl.col("gained"))
    measured = ratios(rows, [net], [np.ones(rows.height)])
    interval = cluster_bootstrap(measured, resamples=resamples, level=level, seed=seed)
    flips = sign_flip_permutation(net, measured.cluster, permutations=resamples, seed=seed)
    changed = mcnemar(int((net > 0).sum()), int((net < 0).sum()))
    luck = rows.select(lost_by_luck().alias("x"))["x"]
    by_luck = float(luck.to_numpy().mean()) if luck.null_count() == 0 else None
    kept, lost, gained, never = _rates(counts)
    options = rows["options"].unique().to_list()
    harmon = harmon_adjusted(counts, options[0]) if len(options) == 1 and options[0] >= 2 else None
    return {
        "n": rows.height, "clusters": interval.clusters, "before": kept + lost, "after": kept + gained,
        "kept": kept, "lost": lost, "gained": gained, "never": never, **figures(interval, "forgetting"),
        "lost_adjusted": None if by_luck is None else lost - by_luck,
        "gained_adjusted": None if by_luck is None else gained - by_luck,
        "lost_harmon": harmon.lost if harmon else None, "gained_harmon": harmon.gained if harmon else None,
        "p_mcnemar": changed.p_exact, "p_mid": changed.p_mid, "p_sign_flip": flips.p_value,
        "note": "; ".join(part for part in (interval.note, flips.note) if part),
    }


def transition_paths(ledger: pl.DataFrame) -> pl.DataFrame:
    """What became of the items over the stages of a path, as codes: "101" was right, lost by the first stage, brought back by the second.

    Args:
        ledger: of one or several paths; items that are partly right at some point have an "h" there.

    Returns:
        One row per (run, benchmark, task, code) with ``n``, the most frequent code first; seeds are counted together.
    """
    rows = ledger.filter(pl.col("skipped").is_null().all().over("run", "seed", *KEY) & pl.col("correct_before").is_not_null())

    def digit(name: str) -> pl.Expr:
        return pl.when(pl.col(name) == 1).then(pl.lit("1")).when(pl.col(name) == 0).then(pl.lit("0")).otherwise(pl.lit("h"))

    codes = rows.sort("stage").group_by("run", "seed", *KEY, maintain_order=True).agg(
        pl.concat_str(digit("correct_before").first(), digit("correct_after").str.join("")).alias("code")
    )
    counted = codes.group_by("run", "benchmark", "task", "code").agg(pl.len().cast(pl.Int64).alias("n"))
    return counted.sort("run", "benchmark", "task", "n", "code", descending=[False, False, False, True, False])


def _rates(counts: Transitions) -> tuple[float, float, float, float]:
    total = counts.items or float("nan")
    return counts.kept / total, counts.lost / total, counts.gained / total, counts.never / total


def _options(options: int) -> int:
    if options < 2:
        raise UsageError(f"options = {options}: guessing needs at least two options.")
    return options
