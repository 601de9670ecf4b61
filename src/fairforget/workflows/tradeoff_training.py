"""The trainings of the trade-off study: nested draws of texts, and the edit of what is trained so far at each checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peft.tuners.lora import LoraLayer
from torch import Tensor

from fairforget.data.training import TrainingSource, TrainingText, training_source
from fairforget.edits import EditRecord, WeightEdit, copy_parameters, difference, from_lora
from fairforget.errors import FairforgetError, UsageError
from fairforget.methods import method_registry
from fairforget.methods._counterfactuals import find_swap, with_counterfactuals
from fairforget.models import Model
from fairforget.workflows.recipe import TrainChoice
from fairforget.workflows.tradeoff_recipe import TradeoffRecipe, TradeoffRun


def paired_texts(recipe: TradeoffRecipe) -> TrainingSource:
    """The texts that have a counterfactual, each with it, so that every objective can be trained on the same ones.

    Args:
        recipe: filled in for a model and a seed.

    Raises:
        UsageError: an unknown source or word list, or no text has a counterpart or a listed word.
        DataError: the data are missing or damaged.
    """
    return _paired_texts(recipe.train.model_dump_json(), recipe.words)


@functools.lru_cache(maxsize=2)
def _paired_texts(train_fields: str, words: str) -> TrainingSource:
    train = TrainChoice.model_validate_json(train_fields)
    source = training_source(train.source, **train.arguments())
    swap = find_swap(words, names=True, exact=False, seed=0)
    known = {row.text: row for row in source.texts}
    pairs, unmatched = with_counterfactuals(source, swap)
    texts = tuple(TrainingText(text, known[text].groups, known[text].cluster, other) for text, other in dict(pairs).items())
    return TrainingSource(source.name, texts, {**source.provenance, "without_counterpart": len(unmatched)})


def drawn(source: TrainingSource, size: int, seed: int) -> TrainingSource:
    """As many texts, drawn by the seed; a smaller draw is a part of a larger one.

    Raises:
        UsageError: there are not as many.
    """
    if size > len(source.texts):
        raise UsageError(
            f"sizes: {size} texts are asked for, and {source.name} has {len(source.texts)} with a counterpart: lower sizes."
        )
    order = np.random.default_rng([seed, len(source.texts)]).permutation(len(source.texts))[:size]
    texts = tuple(source.texts[number] for number in sorted(order.tolist()))
    return TrainingSource(source.name, texts, {**source.provenance, "texts_used": size})


@dataclass
class Snapshots:
    """A monitor that stops nothing and keeps, at chosen steps, the edit of what is trained so far.

    Attributes:
        record: of the edits, taken before the training.
        base: weights before the training.
        folder: one folder an edit, named after its step.
        steps: when.
        looks: how often the training shows the model: after every step but the last.
    """

    record: EditRecord
    base: Mapping[str, Tensor]
    folder: Path
    steps: Collection[int]
    looks: int

    def look(self, model: Model, step: int) -> str | None:
        """Keep the edit where it is wanted; never a reason to stop."""
        if step in self.steps:
            has_lora = any(isinstance(module, LoraLayer) for module in model.hf.modules())
            edit = from_lora(model.hf, record=self.record) if has_lora else difference(model, self.base, model.hf, record=self.record)
            edit.with_provenance({"step": step}).save(snapshot_folder(self.folder, step))
        return None


def snapshot_folder(folder: Path, step: int) -> Path:
    """Where the edit of a step is kept."""
    return folder / f"step-{step:06d}"


def has_snapshots(folder: Path, steps: Sequence[int]) -> bool:
    """Whether the edits of all steps are there."""
    return all((snapshot_folder(folder, step) / "edit.safetensors").exists() for step in steps)


def train_with_snapshots(run: TradeoffRun, model: Model, data: TrainingSource, folder: Path, work: Path) -> None:
    """Train, and leave the edit of every checkpoint; a training that was stopped goes on from its last checkpoint.

    Args:
        run: method, seed and steps.
        model: the base; as it was when this returns.
        data: the texts of this run.
        folder: the edits go here.
        work: the Trainer's own checkpoints go here.

    Raises:
        UsageError: the model carries edits, or the method cannot train it.
        FairforgetError: the training diverged.
    """
    method = method_registry().get(run.method.name)(**run.method.settings)
    steps = run.recipe.looked_at
    record = EditRecord.for_model(model, run.method.name, settings=method.settings.model_dump(mode="json"), seed=run.seed)
    monitor = Snapshots(record, copy_parameters(model.hf, trainable_only=False), folder, steps, looks=run.recipe.steps - 1)
    edit = method.fit(model, data, seed=run.seed, folder=work, monitor=monitor)
    if edit.record.divergence:
        raise FairforgetError(f"The training of {run.name} diverged ({edit.record.divergence}): lower its learning_rate.")
    if not isinstance(edit, WeightEdit):
        raise UsageError(f"The method {run.method.name} makes no edit of weights, so it has no checkpoints to look at.")
    if steps[-1] == run.recipe.steps:
        edit.save(snapshot_folder(folder, steps[-1]))
    if not has_snapshots(folder, steps):
        raise FairforgetError(f"The training of {run.name} ended before its last checkpoint: remove {work} and run it again.")
