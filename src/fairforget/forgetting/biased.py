"""Biased forgetting: whether a tuning step made a model forget more about some groups than about others.

F_k is what was lost less what was gained among the items of group k; biased forgetting is F_k less a centre. Measured figures of many small
groups spread widely where nothing is biased, so three things come with every table: the noise-corrected dispersion tau with its interval
and the omnibus test (:mod:`fairforget.stats.dispersion`), which are the headline; intervals that hold jointly over the groups; and the
smallest biased forgetting that the data could have shown, with an equivalence test, so that "none" can be a finding.

The definition, a group's forgetting less the overall one, is that of Ung et al. 2024 (arXiv 2412.16469) as far as it could be read; its
normalisation could not be, so raw points are primary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from fairforget.errors import DataError, UsageError
from fairforget.forgetting._columns import ALL, column, figures, group_names, labels, membership, one_account
from fairforget.forgetting.ledger import KEY
from fairforget.stats import Components, Dispersion, Interval, Statistic, dispersion, linearise, simultaneous, tost, with_seeds
from fairforget.stats.cluster_sums import Floats

Scale: TypeAlias = Literal["points", "relative", "gain_normalised", "chance_adjusted", "nll"]
Center: TypeAlias = Literal["micro", "macro", "rest", "reference"]

POWER = 0.8
"""With which probability a biased forgetting of the smallest detectable size would be found."""

_OVERLAP = "items are in several groups or in none, so shares times biased forgetting do not add up to 0; read the contrast with the rest"

EQUIVALENCE_MARGIN = 0.02
"""The largest biased forgetting that counts as none, as a share of items (2 points)."""


@dataclass(frozen=True)
class BiasedForgetting:
    """Forgetting by group.

    Attributes:
        table: "all" first, then a row per group: ``group``, ``n``, ``clusters``, ``share`` of the weights; ``before`` and ``after`` (share
            right, or nats a token); ``forgetting`` F_k; ``biased`` BF_k; ``rest`` F_k - F of the items without k; these three with
            ends, which hold jointly over the groups (but for "all"); ``standard_error`` of BF_k; ``minimum_detectable``, the |BF_k| that
            would be found with 80 % probability; ``p_equivalence`` and ``equivalent`` (|BF_k| surely under the margin); ``seed_low`` and
            ``seed_high``, range of BF_k over seeds; ``note``.
        dispersion: tau, its interval, the omnibus test, and the raw spreads with what noise alone would make of them.
        scale: what F_k is measured in.
        center: what BF_k is measured from.
        unit: "share" (0.05 is 5 points), "ratio" or "nats".
        margin: of the equivalence tests; None where there are none.
        partition: whether every item is in exactly one group, so that shares times BF_k add up to 0 around the micro centre.
        notes: what the reader must know.
    """

    table: pl.DataFrame
    dispersion: Dispersion
    scale: Scale
    center: Center
    unit: str
    margin: float | None
    partition: bool
    notes: tuple[str, ...] = field(default_factory=tuple[str, ...])

    @property
    def groups(self) -> pl.DataFrame:
        """The rows of groups."""
        return self.table.filter(pl.col("group") != ALL)

    @property
    def gap(self) -> float:
        """Largest less smallest F_k: above 0 by noise alone (see ``dispersion.expected_gap``)."""
        values = self.groups["forgetting"].to_numpy()
        return float(np.nanmax(values) - np.nanmin(values)) if np.isfinite(values).any() else float("nan")

    @property
    def worst(self) -> float:
        """Largest BF_k: above 0 by noise alone."""
        values = self.groups["biased"].to_numpy()
        return float(np.nanmax(values)) if np.isfinite(values).any() else float("nan")

    @property
    def weighted_deviation(self) -> float:
        """sqrt(sum of share_k BF_k^2): above 0 by noise alone."""
        rows = self.groups
        return float(np.sqrt(np.nansum(rows["share"].to_numpy() * rows["biased"].to_numpy() ** 2)))

    @property
    def all_equivalent(self) -> bool:
        """Whether every group's |BF_k| is surely under the margin (each test at full size: Berger 1982's intersection-union)."""
        return bool(self.margin is not None and self.groups.height and self.groups["equivalent"].all())


def biased_forgetting(
    ledger: pl.DataFrame, *, center: Center = "micro", scale: Scale = "points", groups: Sequence[str] | None = None,
    reference: str | None = None, learning: pl.DataFrame | None = None, weights: pl.Expr | None = None, margin: float | None = None,
    resamples: int = 10_000, level: float = 0.95, seed: int = 0,
) -> BiasedForgetting:
    """Forgetting of every group against a centre.

    Args:
        ledger: of one task at one stage of one run; seeds are pooled.
        center: ``micro`` the figure over all items, ``macro`` the plain mean over groups, ``rest`` the items without the group (the one to
            read where items are in several groups), ``reference`` one named group.
        scale: ``points`` F_k = (lost - gained) / items; ``relative`` F_k over the share right before; ``gain_normalised`` F_k over what a
            learning stage had taught the group; ``chance_adjusted`` F_k k / (k - 1) for k options (knowledge under know-or-guess);
            ``nll`` nats a token.
        groups: which groups, in which order; all by name when None.
        reference: the reference group.
        learning: for ``gain_normalised``, the ledger of the stage that taught the task, on the same items.
        weights: of items, 0 or more; 1 each when None.
        margin: largest |BF_k| that counts as none, in the scale's unit; 0.02 for points and chance-adjusted, no test elsewhere when None.
        resamples: of all intervals and of the omnibus test.
        level: coverage; intervals of groups hold jointly.
        seed: of the resamples.

    Raises:
        DataError: the ledger has no items for this scale, or the learning ledger is of other items.
        UsageError: several accounts, an unknown or missing reference or group, a learning stage given or missing against the scale, or a
            margin that is not above 0.
    """
    rows = one_account(ledger, "Biased forgetting")
    if (scale == "gain_normalised") != (learning is not None):
        raise UsageError("The scale gain_normalised, and only it, needs the ledger of the stage that taught the task: set learning.")
    rows = _usable(rows if learning is None else _with_base(rows, learning), scale)
    names = group_names(rows) if groups is None else list(groups)
    _check(names, group_names(rows), center, reference, margin)
    if margin is None and scale in ("points", "chance_adjusted"):
        margin = EQUIVALENCE_MARGIN
    inside = membership(rows, names).astype(np.float64)
    partition = bool((inside.sum(axis=1) == 1).all())
    notes: list[str] = []
    if not partition:
        notes.append(_OVERLAP)
        warnings.warn(f"Biased forgetting: {notes[0]}.", stacklevel=2)
    weight = np.ones(rows.height) if weights is None else column(rows, weights)
    measure = _measure(rows, scale, weight)
    options: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    undefined = _undefined(rows, measure, names, inside, options) if scale == "gain_normalised" else {}
    kept = [name for name in names if name not in undefined] if ALL not in undefined else []
    blocks = _Blocks(rows, measure, kept, inside[:, [names.index(name) for name in kept]])
    found = blocks.statistics(center, reference)
    intervals = {name: simultaneous(blocks.components, own, **options) for name, own in found.items() if own}
    overall = _nothing(undefined.get(ALL, ""))
    if ALL not in undefined:
        overall = simultaneous(blocks.components, {ALL: blocks.statistic(ALL)}, **options)[ALL]
    by_seed = _by_seed(rows, blocks, found["biased"])
    spread = dispersion(linearise(blocks.components, list(found["forgetting"].values())), **options)
    table = [_row(ALL, {"forgetting": overall}, blocks, inside=np.ones(rows.height), rows=rows, scale=scale, weight=weight)]
    for place, name in enumerate(names):
        own = {figure: _nothing(undefined.get(name, undefined.get(ALL, ""))) for figure in ("forgetting", "biased", "rest")}
        own |= {figure: found[name] for figure, found in intervals.items() if name in found}
        row = _row(name, own, blocks, inside=inside[:, place], rows=rows, scale=scale, weight=weight)
        table.append(row | _judged(own["biased"], by_seed.get(name, []), int(row["clusters"]), len(names), margin, level))
    unit = {"points": "share", "chance_adjusted": "share", "nll": "nats"}.get(scale, "ratio")
    frame = pl.DataFrame(table, infer_schema_length=None)
    return BiasedForgetting(frame, spread, scale, center, unit, margin, partition, tuple(notes))


_Function = Callable[[Floats], Floats]


@dataclass(frozen=True)
class _Measure:
    """A scale as a function of `width` ratios of sums over items."""

    numerators: tuple[Floats, ...]
    denominators: tuple[Floats, ...]
    function: _Function

    @property
    def width(self) -> int:
        return len(self.numerators)


class _Blocks:
    """Columns of all groups, of all items, and of the items outside of each group, `width` each; and statistics that read them."""

    def __init__(self, rows: pl.DataFrame, measure: _Measure, names: Sequence[str], inside: Floats) -> None:
        self.measure, self.names = measure, list(names)
        members = [*inside.T, np.ones(rows.height), *(1.0 - own for own in inside.T)]
        self.places = {name: place for place, name in enumerate([*names, ALL])}
        numerators = [part * own for own in members for part in measure.numerators]
        denominators = [part * own for own in members for part in measure.denominators]
        self.components = Components(np.column_stack(numerators), np.column_stack(denominators), *labels(rows))

    def only(self, chosen: NDArray[np.bool_]) -> Components:
        """The columns of some of the items."""
        whole = self.components
        return Components(whole.numerators[chosen], whole.denominators[chosen], whole.cluster[chosen], whole.stratum[chosen])

    def statistic(self, name: str) -> Statistic:
        """F of a group or of all items."""
        return self._of([self.places[name]], lambda values: values[0])

    def statistics(self, center: Center, reference: str | None) -> dict[str, dict[str, Statistic]]:
        """By figure and group."""
        rest = {name: self._minus(place, len(self.names) + 1 + place) for place, name in enumerate(self.names)}
        biased: dict[str, Statistic] = {}
        for place, name in enumerate(self.names):
            if center == "micro":
                biased[name] = self._minus(place, self.places[ALL])
            elif center == "rest":
                biased[name] = rest[name]
            elif center == "macro":
                others = [place, *(other for other in range(len(self.names)) if other != place)]
                biased[name] = self._of(others, lambda values: values[0] - sum(values) / len(values))
            else:
                biased[name] = self._minus(place, self.places[str(reference)])
        return {"forgetting": {name: self.statistic(name) for name in self.names}, "biased": biased, "rest": rest}

    def _minus(self, first: int, second: int) -> Statistic:
        return self._of([first, second], lambda values: values[0] - values[1])

    def _of(self, blocks: Sequence[int], combine: Callable[[list[Floats]], Floats]) -> Statistic:
        width, function = self.measure.width, self.measure.function

        def figure(ratios: Floats) -> Floats:
            return combine([function(ratios[..., start : start + width]) for start in range(0, width * len(blocks), width)])

        return Statistic(tuple(width * block + place for block in blocks for place in range(width)), figure)


def _check(names: Sequence[str], known: Sequence[str], center: Center, reference: str | None, margin: float | None) -> None:
    """Refuse groups, a reference or a margin that make no figure."""
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise UsageError(f"The ledger has no groups {', '.join(unknown) or 'at all'}; its groups are {', '.join(known) or 'none'}.")
    if (center == "reference") != (reference is not None) or (reference is not None and reference not in names):
        raise UsageError(f"A reference group is needed where center is 'reference', and only there: one of {', '.join(names)}.")
    if margin is not None and not margin > 0:
        raise UsageError(f"margin = {margin}: an equivalence margin is above 0.")


def _usable(rows: pl.DataFrame, scale: Scale) -> pl.DataFrame:
    """The rows that a scale can measure."""
    if scale == "nll":
        rows = rows.filter(pl.col("nll_change").is_not_null() & (pl.col("tokens_before") > 0))
    else:
        rows = rows.filter(pl.col("lost").is_not_null())
    if scale == "chance_adjusted":
        whole = pl.all_horizontal(pl.col(f"correct_{state}").is_in([0.0, 1.0]) for state in ("before", "after"))
        wrong = rows.filter((pl.col("options") < 2) | ~whole)
        if wrong.height:
            raise DataError(f"{wrong.height} items are not choices among two or more options with one right answer: use the scale points.")
    if rows.is_empty():
        raise DataError(f"No item of the ledger can be measured on the scale {scale}.")
    return rows


def _with_base(rows: pl.DataFrame, learning: pl.DataFrame) -> pl.DataFrame:
    """What each item was before the stage that taught the task, as the column ``_base``."""
    taught = one_account(learning, "Gain-normalised forgetting").select("seed", *KEY, _base="correct_before", _taught="correct_after")
    joined = rows.join(taught, on=["seed", *KEY], how="inner", maintain_order="left")
    if joined.height != rows.height or joined["_taught"].ne_missing(joined["correct_before"]).any():
        raise DataError("The learning stage is of other items, or does not end where the stage that forgets begins.")
    return joined


def _measure(rows: pl.DataFrame, scale: Scale, weight: Floats) -> _Measure:
    def first(ratios: Floats) -> Floats:
        return ratios[..., 0]

    if scale == "nll":
        return _Measure((weight * column(rows, pl.col("nll_change")),), (weight * column(rows, pl.col("tokens_before")),), first)
    net = weight * column(rows, pl.col("lost") - pl.col("gained"))
    if scale == "relative":
        return _Measure((net,), (weight * column(rows, pl.col("correct_before")),), first)
    if scale == "chance_adjusted":
        return _Measure((net * column(rows, pl.col("options") / (pl.col("options") - 1)),), (weight,), first)
    if scale == "gain_normalised":
        gain = weight * column(rows, pl.col("correct_before") - pl.col("_base"))
        return _Measure((net, gain), (weight, weight), lambda ratios: ratios[..., 0] / ratios[..., 1])
    return _Measure((net,), (weight,), first)


def _undefined(rows: pl.DataFrame, measure: _Measure, names: Sequence[str], inside: Floats, options: dict[str, Any]) -> dict[str, str]:
    """Groups (and "all") whose gain is not surely above 0, and why they have no figure."""
    gained = _Measure(measure.numerators[1:], measure.denominators[1:], lambda ratios: ratios[..., 0])
    blocks = _Blocks(rows, gained, names, inside)
    intervals = simultaneous(blocks.components, {name: blocks.statistic(name) for name in (ALL, *names)}, **options)
    return {name: "not defined: what was taught is not surely above 0" for name, own in intervals.items() if not own.low > 0}


def _by_seed(rows: pl.DataFrame, blocks: _Blocks, biased: Mapping[str, Statistic]) -> dict[str, list[float]]:
    """BF of each group in each seed; empty for one seed."""
    seeds: list[int] = sorted(rows["seed"].unique().to_list())
    if len(seeds) == 1 or not biased:
        return {}
    found: dict[str, list[float]] = {name: [] for name in biased}
    for seed in seeds:
        values = linearise(blocks.only((rows["seed"] == seed).to_numpy()), list(biased.values())).values
        for name, value in zip(biased, values, strict=True):
            found[name].append(float(value))
    return found


def _row(
    name: str, own: Mapping[str, Interval], blocks: _Blocks, *, inside: Floats, rows: pl.DataFrame, scale: Scale, weight: Floats
) -> dict[str, Any]:
    """Counts, levels and figures of one row of the table."""
    figure, below = ("nll", "tokens_before") if scale == "nll" else ("correct", None)
    base = weight * inside * (1.0 if below is None else column(rows, pl.col(below)))
    total = float(base.sum())
    levels = {
        state: float((weight * inside * column(rows, pl.col(f"{figure}_{state}"))).sum() / total) if total > 0 else np.nan
        for state in ("before", "after")
    }
    counted = inside > 0
    empty = _nothing("")
    whole = blocks.measure.denominators[0]
    row = {
        "group": name, "n": int(counted.sum()), "clusters": len(np.unique(blocks.components.cluster[counted])),
        "share": float((whole * inside).sum() / whole.sum()), **levels,
    }
    for part in ("forgetting", "biased", "rest"):
        row |= figures(own.get(part, empty), part)
    return row | {
        "standard_error": np.nan, "minimum_detectable": np.nan, "p_equivalence": np.nan, "equivalent": None, "seed_low": None,
        "seed_high": None, "note": own["forgetting"].note,
    }


def _judged(
    biased: Interval, by_seed: Sequence[float], clusters: int, groups: int, margin: float | None, level: float
) -> dict[str, Any]:
    """What can be said of a group's biased forgetting."""
    # from five seeds on their variance joins the items'; joint coverage by Bonferroni, as there is no max-t of seeds
    widened = with_seeds(biased, by_seed, level=1 - (1 - level) / groups)
    if widened.high - widened.low < biased.high - biased.low:
        widened = replace(biased, note=widened.note)
    error = widened.standard_error
    detectable = (widened.high - widened.low) / 2 + float(ndtri(POWER)) * error if error > 0 else np.nan
    row: dict[str, Any] = {**figures(widened, "biased"), "standard_error": error, "minimum_detectable": detectable, "note": widened.note}
    if margin is not None:
        test = tost(widened, margin, alpha=1 - level, degrees_of_freedom=max(clusters - 1, 1))
        row |= {"p_equivalence": test.p_value, "equivalent": test.equivalent}
    if by_seed:
        row |= {"seed_low": float(np.min(by_seed)), "seed_high": float(np.max(by_seed))}
    return row


def _nothing(note: str) -> Interval:
    return Interval(np.nan, np.nan, np.nan, np.nan, 0, 0, note)
