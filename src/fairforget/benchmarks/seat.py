"""SEAT and WEAT (May et al. 2019; Caliskan et al. 2017): association of two target sets with two attribute sets in a model's vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fairforget.benchmarks._base import Item, MetricDefinition, Scores, SetTest, StateBenchmark
from fairforget.data.seat import FAMILIES, AssociationTest, load_seat
from fairforget.errors import UsageError
from fairforget.settings import Settings
from fairforget.stats.association import DRAWS, associations, permutation_test
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

SIGNIFICANT = 0.01
"""Below this p an effect has a star (Meade et al. 2022)."""

_NO_VARIATION = 1e-24  # variance of associations (cosines in float32) under which nothing varies

# Of each test, per target: u and v, the means over X and Y of s less its mean on the data there; w, the mean square of the same; and three
# constants: the gap of the two means on the data, the share of X, and n / (n - 1). All targets stand in every denominator, and what share
# of them a resample puts in X changes nothing to first order, since u and v are 0 on the data.
_RATIOS = 6
_ROW_TEST = pl.col("groups").list.first()
_IN_X = pl.col("item").str.starts_with("X/")


def _ratios(inside: pl.Expr) -> tuple[tuple[pl.Expr, ...], tuple[pl.Expr, ...]]:
    value, size = pl.col("value"), pl.len().over(_ROW_TEST).cast(pl.Float64)
    share = _IN_X.cast(pl.Float64).mean().over(_ROW_TEST)
    mean_x, mean_y = (pl.when(side).then(value).mean().over(_ROW_TEST) for side in (_IN_X, ~_IN_X))
    moved_x, moved_y = (pl.when(side).then(value - mean).otherwise(0.0) for side, mean in ((_IN_X, mean_x), (~_IN_X, mean_y)))
    numerators = (moved_x / share, moved_y / (1 - share), (moved_x + moved_y) ** 2, mean_x - mean_y, share, size / (size - 1))
    return numerators, (inside.cast(pl.Float64),) * _RATIOS


def _effect_sizes(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Effect sizes by test from ratios (..., 6 T): (..., T)."""
    parts = ratios.reshape(*ratios.shape[:-1], -1, _RATIOS)
    over_x, over_y, square, gap, share, correction = (parts[..., place] for place in range(_RATIOS))
    gap = gap + over_x - over_y
    within = square - share * over_x**2 - (1 - share) * over_y**2
    variance = (within + share * (1 - share) * gap**2) * correction
    return np.where(variance > _NO_VARIATION, gap / np.sqrt(np.maximum(variance, _NO_VARIATION)), np.nan)


def _one_effect_size(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    return _effect_sizes(ratios)[..., 0]


def _mean_absolute(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(_effect_sizes(ratios)).mean(axis=-1)


EFFECT_SIZE = MetricDefinition(
    "effect_size", *_ratios(_ROW_TEST.is_not_null()), "", "neutral", neutral=0.0, function=_one_effect_size, scope="groups",
    description="d of one test: (mean of s over X - mean over Y) / standard deviation of s over both (Caliskan et al. 2017).",
)


def mean_effect_size(tests: Sequence[str]) -> MetricDefinition:
    """Mean of |d| over tests."""
    sides = [_ratios(_ROW_TEST.eq(test)) for test in tests]
    numerators, denominators = (tuple(expression for side in sides for expression in side[place]) for place in range(2))
    return MetricDefinition(
        "mean_abs_effect_size", numerators, denominators, "", "neutral", neutral=0.0, function=_mean_absolute, scope="task",
        description="Mean of |d| over the tests of a family, or over those of all families of sentences (Meade et al. 2022).",
    )


class SeatSettings(Settings):
    """Which tests, and how their p values are taken."""

    families: tuple[Literal["gender", "race", "religion", "weat"], ...] = Field(default=("gender", "race"), min_length=1)
    """`gender` (6 tests), `race` (7), `religion` (4, see there), and `weat`: 15 tests of single words, not in the mean over all."""
    religion: str | None = None
    """Folder with the four tests on religion of bias-bench (`sent-religion*.jsonl`), which have no stated licence."""
    prefix: bool = False
    """Causal: read the model's prefix token first and leave it out of the mean. bias-bench reads the text alone."""
    exact_splits: int = Field(default=100_000, ge=1)
    """Count all splits of a test's targets where there are at most so many (bias-bench)."""
    draws: int = Field(default=DRAWS, ge=99)
    """Else draw so many splits: p = (1 + hits) / (1 + draws) (bias-bench)."""


class Seat(StateBenchmark):
    """Effect size d and permutation p of each test, mean |d| by kind of bias and over all.

    The vector of a text is the mean of the last layer's states over all its tokens, ``[CLS]`` and ``[SEP]`` included, as in bias-bench.
    Each distinct text runs once; a row is a target, its value s(w). Every part holds the whole set, since a test of sets cannot be halved;
    no search is steered by it. Intervals resample target terms within their category and take attributes as given.
    """

    name = "seat"
    description = "SEAT and WEAT (May et al. 2019): association of target and attribute sets in sentence vectors, with permutation tests."
    Settings: ClassVar[type[Settings]] = SeatSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{family: {"families": (family,)} for family in ("gender", "race", "weat")},
        "prefix": {"prefix": True},
    }
    datasets = ("seat",)
    report_only: ClassVar[bool] = True
    pooled = "seat"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        if len(set(self.settings.families)) < len(self.settings.families):
            raise UsageError("seat: `families` names each family once.")
        self._loaded: list[AssociationTest] | None = None

    def items(self, family: str, part: str) -> list[Item]:
        """All targets of all tests, whatever the part."""
        del family
        return [
            Item(
                id=f"{side}/{number} of {test.name}", task=f"seat-{test.family}", role="bias", part=part, cluster=target.cluster,
                stratum=category, groups=(test.name,), texts=(target.text,),
            )
            for test in self._tests()
            for side, targets, category in (("X", test.x, test.x_category), ("Y", test.y, test.y_category))
            for number, target in enumerate(targets)
        ]

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """Read the vectors of the model's present state: a row per target, its association s(w) as value."""
        from fairforget.edits.self_debias import active_self_debias
        from fairforget.scoring.representations import sentence_vectors

        del scores
        if active_self_debias(model) is not None:  # a sentence in the table, not the end of a long run
            return item_table([self.identity(item, model) | {"skipped": "Self-Debias leaves hidden states as they are"} for item in items])
        tests = {test.name: test for test in self._tests()}
        wanted = [tests[name] for name in dict.fromkeys(item.groups[0] for item in items)]
        texts = dict.fromkeys(item.texts[0] for item in items)
        texts |= dict.fromkeys(text for test in wanted for text in (*test.a, *test.b))
        vectors = sentence_vectors(
            model, list(texts), max_length=model.max_length, prefix=self.settings.prefix, description="vectors of seat"
        )
        place = {text: number for number, text in enumerate(texts)}
        values: dict[tuple[str, str], float] = {}
        for test in wanted:
            first, second = (vectors[[place[text] for text in attributes]] for attributes in (test.a, test.b))
            targets = [item.texts[0] for item in items if item.groups[0] == test.name]
            found = associations(vectors[[place[text] for text in targets]], first, second)
            values |= {(test.name, text): float(value) for text, value in zip(targets, found, strict=True)}
        return item_table([self.identity(item, model) | {"value": values[item.groups[0], item.texts[0]]} for item in items])

    def tokens_beside(self, items: Sequence[Item], model: Model) -> tuple[int, int]:
        """Tokens of each distinct target and attribute, which run once."""
        wanted = {item.groups[0] for item in items}
        texts = {item.texts[0] for item in items}
        texts |= {text for test in self._tests() if test.name in wanted for text in (*test.a, *test.b)}
        return sum(min(len(model.sequence_ids(text)), model.max_length) for text in texts), 0

    def protocol(self, item: Item, family: str) -> str:
        """Which tokens the vector is the mean of."""
        del item
        if family == "masked":
            return "mean of all tokens, last layer"
        return "mean of tokens after the prefix, last layer" if self.settings.prefix else "mean of tokens without prefix, last layer"

    def metrics(self) -> list[MetricDefinition]:
        """Mean |d| of a family, and d of each test."""
        return [mean_effect_size(FAMILIES[self.settings.families[0]]), EFFECT_SIZE]

    def task_metrics(self, task: str) -> list[MetricDefinition]:
        """Of a family its own tests; of all together the mean over the tests of sentences, as on bias-bench's leaderboard."""
        family = task.removeprefix("seat-")
        if task != self.pooled:
            return [mean_effect_size(FAMILIES[family]), EFFECT_SIZE]
        tests = [test for name in self.settings.families if name != "weat" for test in FAMILIES[name]]
        return [mean_effect_size(tests)] if tests else []

    def set_tests(self, task: str, table: pl.DataFrame, seed: int) -> list[SetTest]:
        """One-sided permutation p of each test of a family."""
        if task == self.pooled:
            return []
        found: list[SetTest] = []
        for (name,), rows in table.group_by("groups", maintain_order=True):
            if rows["skipped"].count():
                found.append(SetTest("p_value", float("nan"), 0, str(name[0]), "nothing was measured"))
                continue
            first = rows["item"].str.starts_with("X/")
            values = rows["value"].to_numpy()
            x, y = values[first.to_numpy()], values[~first.to_numpy()]
            result = permutation_test(x, y, exact_splits=self.settings.exact_splits, draws=self.settings.draws, seed=seed)
            star = f"* p < {SIGNIFICANT:g}; " if result.p < SIGNIFICANT else ""
            how = f"{star}one-sided, {'all' if result.exact else 'drawn'} {result.splits:,} splits"
            note = how if not np.isnan(result.p) else "not defined: all associations are equal"
            found.append(SetTest("p_value", result.p, len(values), str(name[0]), note))
        return found

    def _tests(self) -> list[AssociationTest]:
        if self._loaded is None:
            folder = self.settings.religion
            self._loaded = load_seat(self.settings.families, None if folder is None else Path(folder))
        return self._loaded
