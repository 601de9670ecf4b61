"""What a model can still be taught: a copy of it is fine-tuned on a task, in the state that is measured, and judged on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fairforget.benchmarks._base import Item, MetricDefinition, Scores, StateBenchmark
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL
from fairforget.benchmarks._fine_tune_figures import f1, macro_f1, matthews, mean_of, over_seeds, pearson, seed_group, spearman_values
from fairforget.benchmarks._fine_tune_tasks import JUSTICE_BLOCK, TASKS, Example, Reported, TaskData, load_task
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.data.glue import GLUE, TOP_SCORE
from fairforget.errors import UsageError, unknown_name
from fairforget.settings import Settings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

BUILT_IN = tuple(name for name, task in TASKS.items() if task.dataset)
MIDDLE = TOP_SCORE / 2
"""Subtracted from scores before they are squared, so that no digit is lost."""
PREFIX = "fine-tune-"
"""What the names of the tasks begin with in tables."""
GLUE_MEAN = f"{PREFIX}glue"
"""All nine tasks of GLUE together."""
GLUE_MAIN = {"cola": "mcc", "mrpc": "f1", "stsb": "pearson"}
"""The figure that goes into the mean, where it is not accuracy (Xu et al. 2025)."""


class FineTuneSettings(SubsetSettings):
    """Which tasks a copy is fine-tuned on, and how; the defaults are those of transformers' ``run_glue``.

    `share` and `limit` choose held-out rows; a row counts once for every seed.
    """

    tasks: tuple[str, ...] = ("stsb",)
    """`stsb`, `edos`, `ethics-justice`; `cola`, `sst2`, `mrpc`, `qqp`, `mnli`, `qnli`, `rte`, `wnli` from the user's files or the hub."""
    folder: str | None = None
    """Where GLUE's files are: a folder with upstream's TSV files or a folder for each task, or `datasets:nyu-mll/glue`. None = the folder
    `glue` under FAIRFORGET_DATA; STS-B then is the one of the catalogue."""
    reported: Reported = "auto"
    """Which upstream file is the `test` part: `dev` or `test`; `auto` is `dev` for GLUE, whose test labels are secret, else
    `test`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One fine-tuning each: seed of the head, the order of the rows and dropout."""
    train_limit: int | None = Field(default=None, ge=1)
    """Train on at most this many rows, the same ones for every seed and state; None = all."""
    learning_rate: float = Field(default=2e-5, gt=0, le=1)
    """Peak learning rate of AdamW; it falls linearly to 0."""
    batch_size: int = Field(default=32, ge=1)
    """Rows in an optimiser step."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches that a step is made of, where memory is short; must divide `batch_size`."""
    epochs: float = Field(default=3.0, gt=0, le=100)
    """Passes over the training rows."""
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    max_length: int = Field(default=128, ge=8)
    """Tokens of an input, special tokens included; the longer text of a pair is cut first."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the training: `auto` is bfloat16 autocast where it is native."""


class FineTune(StateBenchmark):
    """Fine-tuning on tasks: how much of what a model was good for survives an edit *and* further training.

    For every seed a copy of the model, with the edits that are on it, gets a linear head on one final hidden state (`[CLS]` of a masked
    model, the last token of a causal one) and is trained whole. An item is a held-out row under a seed; rows that share a text are one
    cluster, in all seeds, so that intervals are over rows for the seeds that are named. Seeds are groups.

    Raises:
        UsageError: an unknown task, or settings that do not go together.
    """

    name = "fine-tune"
    description = "Fine-tuning of a copy on STS-B, EDOS, ETHICS justice or GLUE, several seeds: what the model can still be taught."
    Settings: ClassVar[type[Settings]] = FineTuneSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{name: {"tasks": (name,)} for name in TASKS},
        "built-in": {"tasks": BUILT_IN},
        "glue": {"tasks": tuple(GLUE)},
        "quick": {"tasks": BUILT_IN, "seeds": (0,), "train_limit": 1000, "limit": 500},
    }
    report_only: ClassVar[bool] = True
    caution = "fine-tune: interval over items, for the seeds named"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        chosen: FineTuneSettings = self.settings
        for name in chosen.tasks:
            if name not in TASKS:
                raise unknown_name("task of fine-tune", name, TASKS)
        for name, values in (("tasks", chosen.tasks), ("seeds", chosen.seeds)):
            if not values or len(set(values)) < len(values):
                raise UsageError(f"fine-tune: `{name}` names one or more, each once.")
        if any(seed < 0 for seed in chosen.seeds) or chosen.batch_size % chosen.accumulation:
            raise UsageError("fine-tune: seeds are 0 or more, and `accumulation` divides `batch_size`.")
        shipped = (TASKS[name].dataset for name in chosen.tasks if not (name in GLUE and chosen.folder))
        self.datasets = tuple(name for name in shipped if name)
        if set(GLUE) <= set(chosen.tasks) <= set(GLUE):
            self.pooled = GLUE_MEAN
        self._data: dict[str, TaskData] = {}

    def items(self, family: str, part: str) -> list[Item]:
        """A held-out row under every seed."""
        del family
        found: list[Item] = []
        for name in self.settings.tasks:
            data = self._task_data(name)
            rows = {"select": data.select, "test": data.test, "all": [*data.select, *data.test]}.get(part, [])
            for seed in self.settings.seeds:
                found += [self._item(row, name, part, seed) for row in rows]
        return found

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """Fine-tune a copy of the model in its present state for each task and seed that the items name, and judge their rows."""
        del scores
        rows: dict[int, dict[str, Any]] = {}
        for name in dict.fromkeys(item.payload["task"] for item in items):
            for seed in dict.fromkeys(item.payload["seed"] for item in items if item.payload["task"] == name):
                numbers = [number for number, item in enumerate(items) if (item.payload["task"], item.payload["seed"]) == (name, seed)]
                own = [items[number] for number in numbers]
                found = self._judged(own, name, seed, model)
                rows.update(zip(numbers, found, strict=True))
        return item_table([self.identity(item, model) | rows[number] for number, item in enumerate(items)])

    def protocol(self, item: Item, family: str) -> str:
        """Where the head sits, what was trained on and how."""
        settings: FineTuneSettings = self.settings
        data = self._task_data(item.payload["task"])
        count = len(data.train) if settings.train_limit is None else min(settings.train_limit, len(data.train))
        place = "first token" if family == "masked" else "last token"
        words = f"linear head on the {place}, {count} rows x {settings.epochs:g} epochs, lr {settings.learning_rate:g}, "
        words += f"batch {settings.batch_size}, {settings.max_length} tokens, {settings.precision} precision"
        return words + (f", {data.left_out} rows left out" if data.left_out else "")

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy and likelihood of classes; MCC, F1, correlations and exact match where they are the task's figures."""
        chosen = [TASKS[name] for name in self.settings.tasks]
        wanted = {"accuracy", "answer_nll"} if any(task.classes for task in chosen) else set[str]()
        wanted |= {figure for task in chosen for figure in task.figures}
        return [definition for name, definition in self._figures(pl.lit(value=True)).items() if name in wanted]

    def task_metrics(self, task: str) -> list[MetricDefinition]:
        """The figures of one task; of all nine tasks of GLUE together the mean of their main figures."""
        if task == self.pooled:
            return [self._glue_mean()]
        own = TASKS[_task_of(task)]
        wanted = {*(("accuracy", "answer_nll") if own.classes else ()), *own.figures}
        return [definition for name, definition in self._figures(pl.lit(value=True)).items() if name in wanted]

    def _figures(self, applies: pl.Expr) -> dict[str, MetricDefinition]:
        """All figures by name, over the rows that are named."""
        seeds: Sequence[int] = self.settings.seeds
        positive = pl.col("answer").is_in([task.positive for task in TASKS.values() if task.positive]).cast(pl.Float64)
        right = pl.col("correct")
        judged = pl.when(applies & right.is_not_null()).then(1.0)
        shares = (positive * right, positive, positive * right + (1 - positive) * (1 - right))
        gold, guess = (pl.col("scores").list.get(place, null_on_oob=True) - MIDDLE for place in (0, 1))
        rank = pl.when(applies).then(pl.col("scores").list.get(2, null_on_oob=True))
        block = pl.when(applies).then(pl.col("value"))
        found = (
            replace(
                ACCURACY, numerators=(judged * 100 * right,), denominators=(judged,),
                description="Share of rows whose right class has the highest score (all seeds).",
            ),
            over_seeds(
                "mcc", applies, seeds, shares, matthews, "",
                "Matthews correlation of predicted and right class (Warstadt et al. 2019), -1 to 1; nan where one class is never "
                "predicted.",
            ),
            over_seeds("f1", applies, seeds, shares, f1, "%", "F1 of the positive class (GLUE, Wang et al. 2019)."),
            over_seeds(
                "macro_f1", applies, seeds, shares, macro_f1, "%", "Mean of both classes' F1 (SemEval-2023 task 10, Kirk et al. 2023)."
            ),
            over_seeds(
                "pearson", applies, seeds, (gold, guess, gold**2, guess**2, gold * guess), pearson, "",
                "Pearson's correlation of predicted and human scores (Cer et al. 2017), -1 to 1.",
            ),
            MetricDefinition(
                "spearman", (rank,), (pl.when(rank.is_not_null()).then(1.0),), "", "higher",
                description="Spearman's correlation of predicted and human scores (GLUE), -1 to 1. Mean over seeds.",
            ),
            MetricDefinition(
                "exact_match", (100 * block,), (pl.when(block.is_not_null()).then(1.0),), "%", "higher",
                description="Share of blocks of four related claims that are all judged right (Hendrycks et al. 2021; all seeds).",
            ),
            replace(
                ANSWER_NLL, numerators=(judged * pl.col("nll"),), denominators=(judged,),
                description="Mean negative log-likelihood of the right class (all seeds).",
            ),
        )
        return {definition.name: definition for definition in found}

    def _glue_mean(self) -> MetricDefinition:
        parts: list[tuple[MetricDefinition, float]] = []
        for name in GLUE:
            definition = self._figures(pl.col("task") == f"{PREFIX}{name}")[GLUE_MAIN.get(name, "accuracy")]
            parts.append((definition, 1.0 if definition.unit == "%" else 100.0))
        return mean_of(
            "glue", parts, "Mean of nine: MCC of CoLA, F1 of MRPC, Pearson of STS-B (times 100), accuracy of the others."
        )

    def _task_data(self, name: str) -> TaskData:
        if name not in self._data:
            self._data[name] = load_task(name, self.settings.folder, self.settings.reported)
        return self._data[name]

    def _item(self, row: Example, name: str, part: str, seed: int) -> Item:
        return Item(
            f"{row.id} {seed_group(seed)}", f"{PREFIX}{name}{row.suffix}", "ability", part, row.cluster, row.stratum,
            (seed_group(seed), *([row.domain] if row.domain else [])), row.texts, {"task": name, "seed": seed, "row": row},
        )

    def _judged(self, items: Sequence[Item], name: str, seed: int, model: Model) -> list[dict[str, Any]]:
        """Rows of items of one task and seed."""
        from fairforget.benchmarks._fine_tuned import FineTuningRecipe, fine_tuned

        settings: FineTuneSettings = self.settings
        task, data = TASKS[name], self._task_data(name)
        # Both parts are judged by one fine-tuning, so that a run that wants both pays once.
        parts = [item for part in ("select", "test") for item in self.measured_items(model.family, part)]
        held_out = list({item.payload["row"]: None for item in (*parts, *items) if item.payload["task"] == name})
        recipe = FineTuningRecipe(
            len(task.classes), settings.learning_rate, settings.batch_size, settings.accumulation, settings.epochs, settings.warmup_share,
            settings.max_length, settings.precision, seed,
        )
        outputs = fine_tuned(model, name, _drawn(data.train, settings.train_limit), held_out, recipe)
        of_row = {row: outputs[number] for number, row in enumerate(held_out)}
        own = np.stack([of_row[item.payload["row"]] for item in items])
        examples: list[Example] = [item.payload["row"] for item in items]
        return _class_rows(examples, own, task.classes) if task.classes else _score_rows(examples, own[:, 0])


def _task_of(name: str) -> str:
    """The task behind its name in tables, which may have the name of a test set at its end."""
    bare = name.removeprefix(PREFIX)
    return next(task for task in sorted(TASKS, key=len, reverse=True) if bare == task or bare.startswith(f"{task}-"))


def _drawn(rows: list[Example], limit: int | None) -> list[Example]:
    """At most so many rows, in their order; a smaller draw is a part of a larger one."""
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(len(rows)).permutation(len(rows))[:limit]
    return [rows[number] for number in sorted(chosen.tolist())]


def _class_rows(examples: Sequence[Example], logits: NDArray[np.float64], classes: Sequence[str]) -> list[dict[str, Any]]:
    top = logits.max(axis=1, keepdims=True)
    scores = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    gold = np.array([int(example.label) for example in examples])
    guess = scores.argmax(axis=1)
    right = guess == gold
    rows: list[dict[str, Any]] = [
        {
            "scores": scores[number].tolist(), "correct": float(right[number]), "nll": -float(scores[number, gold[number]]), "tokens": 1,
            "answer": classes[guess[number]],
        }
        for number in range(len(examples))
    ]
    blocks: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        if example.block:
            blocks.setdefault(example.block, []).append(number)
    for members in blocks.values():
        if len(members) == JUSTICE_BLOCK:  # a part of the items may hold a part of a block
            rows[members[0]]["value"] = float(right[members].all())
    return rows


def _score_rows(examples: Sequence[Example], guess: NDArray[np.float64]) -> list[dict[str, Any]]:
    gold = np.array([example.label for example in examples])
    ranked = spearman_values(guess, gold)
    return [
        {
            "scores": [float(gold[number]), float(guess[number]), None if ranked is None else float(ranked[number])],
            "value": float(guess[number]),
        }
        for number in range(len(examples))
    ]
