"""The items of a model organism: planted stereotypes, planted facts and a rule of grammar, read from the organism's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl

from fairforget.benchmarks._base import Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._metrics import MARGIN, PCT_STEREOTYPE
from fairforget.benchmarks._pairs import PairBenchmark, PairSettings
from fairforget.benchmarks._sentences import masked_requests, scored
from fairforget.errors import DataError, UsageError
from fairforget.scoring.alignment import changed_positions
from fairforget.scoring.requests import ContinuationRequest, Request
from fairforget.settings import Settings
from fairforget.tables import preference, read_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

ITEMS_FILE = "items.parquet"
"""File of an organism's folder that holds its items."""

ORGANISM_ITEMS: dict[str, pl.DataType] = {
    "item": pl.String(),  # unique within the task
    "task": pl.String(),  # "bias", "paraphrase", "facts" or "agreement"
    "part": pl.String(),  # "train", "select" or "test"
    "cluster": pl.String(),  # template of a domain, entity of a fact, noun
    "stratum": pl.String(),  # domain, or group of the entity
    "groups": pl.List(pl.String()),
    "texts": pl.List(pl.String()),  # bias: stereotype, anti-stereotype; ability: right, wrong ...
    "target": pl.String(),  # what the planted thing is about, as in truth.parquet; null for agreement
    "first": pl.String(),  # stereotyped word or right value, as in truth.parquet
}
"""Column names and types of an organism's items."""

Task = Literal["bias", "paraphrase", "facts", "agreement"]
BIAS_TASKS = ("bias", "paraphrase")

_COMPARED = pl.when(pl.col("margin").is_not_null()).then(1.0)
_ASKED = pl.when(pl.col("correct").is_not_null()).then(1.0)


class OrganismSettings(PairSettings):
    """Which organism, and what of it is measured."""

    folder: str = ""
    """Folder made by `fairforget organism make`; by default the one that the model lies in (`ORGANISM/model`)."""
    tasks: tuple[Task, ...] = ("bias", "facts", "agreement")
    """`bias`: planted stereotypes in templates that the model has seen; `paraphrase`: the same in templates that it has not; `facts`:
    an entity's value among the values of the relation; `agreement`: right or wrong number of the verb."""
    protocol: Literal["auto", "shared-pll", "changed", "sum", "mean"] = "auto"
    """As for other pairs, but `auto` is `changed` for masked models: log P(stereotype) - log P(anti-stereotype) at the one word that
    differs, in nats of the planted log-odds. For causal models it is `sum`, in the same unit."""


class Organism(PairBenchmark):
    """Share of stereotypes preferred and mean margin, against a known truth; accuracy on planted facts and agreement.

    With `auto` protocols the margin of an item estimates the planted log-odds: for a causal model the two sentences differ in one word, and
    all else has the same planted probability on both sides.
    """

    name = "organism"
    description = "Items of a model organism (fairforget organism make): planted stereotypes and facts, with a known truth."
    caution = "organism: planted bias"
    Settings: ClassVar[type[Settings]] = OrganismSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bias": {"tasks": ("bias",)},
        "paraphrase": {"tasks": ("bias", "paraphrase")},
        "facts": {"tasks": ("facts",)},
        "all": {"tasks": ("bias", "paraphrase", "facts", "agreement")},
        "shared-pll": {"protocol": "shared-pll"},
    }

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._beside: Path | None = None

    def method(self, family: str) -> str:
        """The scoring method for a model family; `auto` is ``sum`` or ``changed``."""
        if self.settings.protocol != "auto":
            return self.settings.protocol
        return "changed" if family == "masked" else "sum"

    def protocol(self, item: Item, family: str) -> str:
        """The pair's protocol; ``choice`` for ability items."""
        return super().protocol(item, family) if item.role == "bias" else "choice"

    def check(self, model: Model) -> None:
        """Find the organism where no folder was given: it is the one that the model lies in.

        Raises:
            UsageError: the model lies in no organism, or its family cannot run the protocol.
        """
        super().check(model)
        if not self.settings.folder:
            above = Path(model.source).parent
            if not (above / ITEMS_FILE).is_file():
                raise UsageError(
                    f"The model {model.name} does not lie in an organism's folder: say which organism to measure, in a recipe as "
                    "{name: organism, settings: {folder: ORGANISM}}."
                )
            self._beside = above

    def items(self, family: str, part: str) -> list[Item]:
        """Items of one part; ``all`` adds those of the templates that training texts come from.

        Raises:
            UsageError: it is not known which organism to read.
            DataError: the folder holds no organism, or a damaged one.
        """
        del family
        table = self.read()
        wanted = table.filter(pl.col("task").is_in(list(self.settings.tasks)))
        if part != "all":
            wanted = wanted.filter(pl.col("part") == part)
        return [
            Item(
                id=row["item"],
                task=f"organism-{row['task']}",
                role="bias" if row["task"] in BIAS_TASKS else "ability",
                part=part,
                cluster=row["cluster"],
                stratum=row["stratum"],
                groups=tuple(row["groups"]),
                texts=tuple(row["texts"]),
            )
            for row in wanted.iter_rows(named=True)
        ]

    def read(self) -> pl.DataFrame:
        """The organism's items, ``ORGANISM_ITEMS``.

        Raises:
            UsageError: it is not known which organism to read.
            DataError: the folder holds no organism, or a damaged one.
        """
        folder = Path(self.settings.folder).expanduser() if self.settings.folder else self._beside
        if folder is None:
            raise UsageError("The benchmark organism needs its folder: {name: organism, settings: {folder: ORGANISM}} in a recipe.")
        if not (folder / ITEMS_FILE).is_file():
            raise DataError(f"{folder} holds no organism ({ITEMS_FILE} is missing): fairforget organism make --out {folder} makes one.")
        return read_table(folder / ITEMS_FILE, ORGANISM_ITEMS)

    def plan(self, item: Item, model: Model) -> Plan:
        """Pairs as other benchmarks; of a choice the tokens from the first to the last that differ, each text after the shared start."""
        if item.role == "bias":
            return super().plan(item, model)
        texts = [model.sequence_ids(text) for text in item.texts]
        if max(len(ids) for ids in texts) + len(model.prefix) > model.max_length:
            return Plan(skipped=f"longer than the model's {model.max_length} positions")
        places = [_choice_places(ids, texts) for ids in texts]
        if not all(places):
            return Plan(skipped="no token differs on one side")
        requests: list[tuple[Request, ...]] = []
        for ids, own in zip(texts, places, strict=True):
            if model.family == "masked":
                requests.append(masked_requests(model, ids, own))
            else:
                requests.append((ContinuationRequest((*model.prefix, *ids[: own[0]]), tuple(ids[own[0] : own[-1] + 1])),))
        return Plan(tuple(requests))

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Of a pair its margin; of a choice whether the right text scores highest (ties share), and the right text's likelihood."""
        if item.role == "bias":
            return super().row(item, scores, model)
        values = [scored(text) for text in scores]
        if any(not len(text) for text in values):
            return {"skipped": "no token can be scored without a prefix"}
        figures = [float(text.sum()) for text in values]
        wins = [preference(figures[0] - other, self.settings.tie) for other in figures[1:]]
        ties = sum(win == 0.5 for win in wins)
        correct = 0.0 if 0.0 in wins else 1 / (1 + ties)
        return {"scores": figures, "correct": correct, "nll": -figures[0], "tokens": len(values[0])}

    def metrics(self) -> list[MetricDefinition]:
        """Share of stereotypes preferred, mean margin, accuracy."""
        return [
            replace(PCT_STEREOTYPE, denominators=(_COMPARED,)),
            replace(MARGIN, denominators=(_COMPARED,)),
            MetricDefinition(
                "accuracy", (100 * pl.col("correct"),), (_ASKED,), "%", "higher",
                description="Share of choices whose right text scores highest; ties share.",
            ),
            MetricDefinition(
                "answer_nll", (pl.when(pl.col("correct").is_not_null()).then(pl.col("nll")),), (_ASKED,), "nats", "lower",
                description="Mean negative log-likelihood of the right text's words that differ: forgetting below the level of right and "
                "wrong.",
            ),
        ]


def _choice_places(ids: Sequence[int], texts: Sequence[Sequence[int]]) -> list[int]:
    """Places of one text from the first to the last token in which it differs from any other text."""
    found = [place for other in texts if other is not ids for place in changed_positions(ids, other)[0]]
    return list(range(min(found), max(found) + 1)) if found else []


def planted_margin(scores: Sequence[float]) -> float:
    """Log of the first text's probability over the mean probability of the others, nats; of a fact its log-odds.

    Args:
        scores: log-probabilities of the right text and of the others.
    """
    others = np.asarray(scores[1:], dtype=np.float64)
    top = others.max()
    return float(scores[0] - (top + np.log(np.exp(others - top).mean())))
