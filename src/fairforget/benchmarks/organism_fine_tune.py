"""What a model organism can still be taught: a copy is fine-tuned on its facts or its grammar, and judged on words it was not tuned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Item, MetricDefinition, Scores, StateBenchmark
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL
from fairforget.benchmarks._fine_tune_figures import seed_group
from fairforget.benchmarks._fine_tune_tasks import Example
from fairforget.benchmarks.organism import Organism, OrganismSettings
from fairforget.errors import DataError, UsageError
from fairforget.settings import Settings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

Task = Literal["facts", "grammar"]

MASK = "[MASK]"
"""Mask token of an organism's tokenizer."""
_SOURCE = {"facts": "facts", "grammar": "agreement"}
"""Task of the organism's items that the rows are made of."""


class OrganismFineTuneSettings(Settings):
    """Which organism, which tasks, and how a copy is fine-tuned."""

    folder: str = ""
    """Folder made by `fairforget organism make`; by default the one that the model lies in (`ORGANISM/model`)."""
    tasks: tuple[Task, ...] = ("facts", "grammar")
    """`facts`: an entity's value of a relation, a class for each value; `grammar`: is the verb's number right."""
    facts_rows: int | None = Field(None, ge=1)
    """Train on at most this many rows of `facts`; None = all."""
    grammar_rows: int | None = Field(128, ge=1)
    """The same for `grammar`, which an undamaged organism learns from few."""
    seeds: tuple[int, ...] = (0,)
    """One fine-tuning each: seed of the head, the order of the rows and dropout."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate of AdamW; it falls linearly to 0."""
    batch_size: int = Field(32, ge=1)
    """Rows in an optimiser step."""
    epochs: float = Field(15.0, gt=0, le=1000)
    """Passes over the training rows."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the training."""


class OrganismFineTune(StateBenchmark):
    """Accuracy after fine-tuning on some entities (nouns), asked about others.

    What is asked about an entity that was not tuned on is known from pretraining or not at all, so the figure falls with what an edit
    made the model forget, as the score of a downstream task on real data is supposed to. Rows of the organism's `select` part are trained
    on, those of `test` are judged.
    """

    name = "organism-fine-tune"
    description = "Fine-tuning of a copy of a model organism on its facts and grammar, judged on entities and nouns not tuned on."
    caution = "organism: generated language; interval over items, for the seeds named"
    Settings: ClassVar[type[Settings]] = OrganismFineTuneSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"facts": {"tasks": ("facts",)}, "grammar": {"tasks": ("grammar",)}}
    report_only: ClassVar[bool] = True

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        chosen: OrganismFineTuneSettings = self.settings
        for name, values in (("tasks", chosen.tasks), ("seeds", chosen.seeds)):
            if not values or len(set(values)) < len(values):
                raise UsageError(f"organism-fine-tune: `{name}` names one or more, each once.")
        self._organism = Organism(OrganismSettings(folder=chosen.folder))
        self._rows: pl.DataFrame | None = None
        self._drawn: dict[tuple[str, str], list[Example]] = {}

    def check(self, model: Model) -> None:
        """Find the organism where no folder was given.

        Raises:
            UsageError: the model lies in no organism.
        """
        super().check(model)
        self._organism.check(model)

    def items(self, family: str, part: str) -> list[Item]:
        """A row of the `test` part under every seed; other parts have none.

        Raises:
            UsageError: it is not known which organism to read.
            DataError: the folder holds no organism, or one without what a task asks.
        """
        if part not in ("test", "all"):
            return []
        return [
            Item(
                f"{row.id} {seed_group(seed)}", f"{self.name}-{task}", "ability", part, row.cluster, row.stratum,
                (seed_group(seed), *([row.domain] if row.domain else [])), row.texts, {"task": task, "seed": seed, "row": row},
            )
            for task in self.settings.tasks
            for seed in self.settings.seeds
            for row in self._examples(task, family, "test")
        ]

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """Fine-tune a copy of the model in its present state for each task and seed that the items name, and judge their rows."""
        del scores
        rows: dict[int, dict[str, Any]] = {}
        for task, seed in dict.fromkeys((item.payload["task"], item.payload["seed"]) for item in items):
            numbers = [number for number, item in enumerate(items) if (item.payload["task"], item.payload["seed"]) == (task, seed)]
            rows.update(zip(numbers, self._judged([items[number] for number in numbers], task, seed, model), strict=True))
        return item_table([self.identity(item, model) | rows[number] for number, item in enumerate(items)])

    def protocol(self, item: Item, family: str) -> str:
        """Where the head sits, what was trained on and how."""
        settings: OrganismFineTuneSettings = self.settings
        count = len(self._trained_on(item.payload["task"], family))
        place = "first token" if family == "masked" else "last token"
        return (
            f"linear head on the {place}, {count} rows x {settings.epochs:g} epochs, lr {settings.learning_rate:g}, batch "
            f"{settings.batch_size}, {settings.precision} precision"
        )

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy and likelihood of the right class."""
        judged = pl.when(pl.col("correct").is_not_null()).then(1.0)
        return [
            replace(
                ACCURACY, numerators=(judged * 100 * pl.col("correct"),), denominators=(judged,),
                description="Share of rows whose right class has the highest score (all seeds).",
            ),
            replace(
                ANSWER_NLL, numerators=(judged * pl.col("nll"),), denominators=(judged,),
                description="Mean negative log-likelihood of the right class (all seeds).",
            ),
        ]

    def _items_of(self, task: str, part: str) -> pl.DataFrame:
        if self._rows is None:
            self._rows = self._organism.read()
        found = self._rows.filter((pl.col("task") == _SOURCE[task]) & (pl.col("part") == part))
        if found.is_empty():
            raise DataError(f"The organism has no items of '{_SOURCE[task]}' in its part '{part}': take {task} out of the tasks.")
        return found

    def _classes(self, task: str) -> list[str]:
        if task == "grammar":
            return ["wrong", "right"]
        return sorted({str(value) for part in ("select", "test") for value in self._items_of(task, part)["first"]})

    def _examples(self, task: str, family: str, part: str) -> list[Example]:
        classes = self._classes(task)
        found: list[Example] = []
        for row in self._items_of(task, part).iter_rows(named=True):
            domain = row["groups"][0] if row["groups"] else None
            facts: dict[str, Any] = {"cluster": row["cluster"], "stratum": f"{task} {row['stratum']}", "domain": domain}
            if task == "grammar":
                found += [
                    Example(f"{row['item']} {classes[label]}", (text,), float(label), **facts)
                    for label, text in ((1, row["texts"][0]), (0, row["texts"][1]))
                ]
            else:
                text = _asked(row["texts"][0], row["first"], family)
                found.append(Example(row["item"], (text,), float(classes.index(row["first"])), **facts))
        return found

    def _trained_on(self, task: str, family: str) -> list[Example]:
        """At most so many rows, in their order; a smaller draw is a part of a larger one. Kept, since every item's protocol counts them."""
        if (task, family) not in self._drawn:
            self._drawn[task, family] = self._draw(task, family)
        return self._drawn[task, family]

    def _draw(self, task: str, family: str) -> list[Example]:
        rows = self._examples(task, family, "select")
        limit: int | None = self.settings.facts_rows if task == "facts" else self.settings.grammar_rows
        if limit is None or limit >= len(rows):
            return rows
        chosen = np.random.default_rng(len(rows)).permutation(len(rows))[:limit]
        return [rows[number] for number in sorted(chosen.tolist())]

    def _judged(self, items: Sequence[Item], task: str, seed: int, model: Model) -> list[dict[str, Any]]:
        from fairforget.benchmarks._fine_tuned import FineTuningRecipe, fine_tuned

        settings: OrganismFineTuneSettings = self.settings
        classes = self._classes(task)
        recipe = FineTuningRecipe(
            len(classes), settings.learning_rate, settings.batch_size, 1, settings.epochs, 0.0, model.max_length, settings.precision, seed
        )
        rows: list[Example] = [item.payload["row"] for item in items]
        logits = fine_tuned(model, f"{self.name} ({task})", self._trained_on(task, model.family), rows, recipe)
        top = logits.max(axis=1, keepdims=True)
        scores = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        guesses = scores.argmax(axis=1)
        return [
            {
                "scores": own.tolist(), "correct": float(guess == int(row.label)), "nll": -float(own[int(row.label)]), "tokens": 1,
                "answer": classes[guess],
            }
            for row, own, guess in zip(rows, scores, guesses.tolist(), strict=True)
        ]


def _asked(text: str, value: str, family: str) -> str:
    """A sentence that tells a fact, up to its value, which a masked model sees masked."""
    words = text.split()
    place = words.index(value)
    return " ".join([*words[:place], MASK, *words[place + 1 :]] if family == "masked" else words[:place])
