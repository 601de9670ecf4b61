"""One fine-tuning: a copy of the model in its present state is trained on a task with a head, and says what it makes of held-out rows.

What it said is kept in the cache under everything that it depends on, so that no fine-tuning is paid for twice; the weights are not kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from transformers import set_seed

from fairforget.benchmarks._fine_tune_tasks import Example
from fairforget.edits.independent_copy import independent_copy
from fairforget.edits.self_debias import active_self_debias
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import cache_folder, folder_lock
from fairforget.tables import read_table, write_table
from fairforget.training import StreamDataset, train
from fairforget.training.classification import HeadObjective, LabelledStream, head_outputs

if TYPE_CHECKING:
    from fairforget.models.model import Model

ROOM = "fine-tuned"
"""Folder of the cache."""
VERSION = 1
"""Raised whenever a fine-tuning can come out differently for the same key."""
STREAM = "labelled"
TOKENIZER_ROWS = 16
"""Rows whose tokens tell one tokenizer from another."""


@dataclass(frozen=True)
class FineTuningRecipe:
    """How a copy is fine-tuned.

    Attributes:
        classes: number of classes; 0 for scores.
        learning_rate: peak learning rate of AdamW, which falls linearly to 0.
        batch_size: rows in an optimiser step.
        accumulation: micro-batches that a step is made of.
        epochs: passes over the training rows.
        warmup_share: share of the steps in which the learning rate rises.
        max_length: tokens of an input.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        seed: of the head, the order of the rows and dropout; the same in every state of a model.
    """

    classes: int
    learning_rate: float
    batch_size: int
    accumulation: int
    epochs: float
    warmup_share: float
    max_length: int
    precision: str
    seed: int


def fine_tuned(
    model: Model, name: str, rows: Sequence[Example], held_out: Sequence[Example], recipe: FineTuningRecipe
) -> NDArray[np.float64]:
    """What the fine-tuned model says of held-out rows; taken from the cache where it was found before.

    The model itself is not changed. A fine-tuning that was stopped goes on from its last checkpoint.

    Args:
        model: in the state that is wanted.
        name: of the task, for messages.
        rows: trained on.
        held_out: judged afterwards.
        recipe: how.

    Returns:
        (held-out rows, classes) logits, or (held-out rows, 1) scores.

    Raises:
        UsageError: weights that cannot be copied, or a Self-Debias edit, which no hidden state shows.
        FairforgetError: the training diverged, or another process is at the same one.
    """
    if active_self_debias(model) is not None:
        raise UsageError(
            "Self-Debias leaves hidden states as they are, so a head that is fine-tuned on them cannot show it: leave "
            "out fine-tune."
        )
    folder = cache_folder(ROOM)
    key = _key(model, rows, held_out, recipe)
    kept = folder / f"{key}.parquet"
    if not kept.exists():
        work = folder / f"{key}.work"
        with folder_lock(work):
            if not kept.exists():  # the process that held the folder before may have finished it
                outputs = _trained(model, name, rows, held_out, recipe, work / "checkpoints")
                write_table(pl.DataFrame({"outputs": outputs.tolist()}, schema={"outputs": pl.List(pl.Float64())}), kept)
        shutil.rmtree(work, ignore_errors=True)
    return np.array(read_table(kept, ("outputs",))["outputs"].to_list(), dtype=np.float64)


def _trained(
    model: Model, name: str, rows: Sequence[Example], held_out: Sequence[Example], recipe: FineTuningRecipe, folder: Path
) -> NDArray[np.float64]:
    twin = independent_copy(model)
    twin.hf.float()
    for parameter in twin.hf.parameters():
        parameter.requires_grad_(False)
    for parameter in twin.hf.base_model.parameters():  # the language-model head takes no part
        parameter.requires_grad_(True)
    stream = LabelledStream(twin, [row.texts for row in rows], max_length=recipe.max_length)
    objective = HeadObjective([row.label for row in rows], recipe.classes, seed=recipe.seed, stream=STREAM)
    steps = max(1, round(recipe.epochs * -(-len(rows) // recipe.batch_size)))
    set_seed(recipe.seed)
    outcome = train(
        twin, [objective], StreamDataset({STREAM: stream}), steps=steps, batch_size=recipe.batch_size // recipe.accumulation,
        accumulation=recipe.accumulation, learning_rate=recipe.learning_rate, warmup_steps=round(recipe.warmup_share * steps),
        precision=recipe.precision, folder=folder, seed=recipe.seed, description=f"fine-tuning on {name}, seed {recipe.seed}",
    )
    if outcome["stopped"]:
        raise FairforgetError(f"Fine-tuning on {name} diverged (seed {recipe.seed}: {outcome['stopped']}): lower its learning_rate.")
    found = head_outputs(twin, objective, LabelledStream(twin, [row.texts for row in held_out], max_length=recipe.max_length)).numpy()
    if not np.isfinite(found).all():
        raise FairforgetError(f"Fine-tuning on {name} ended in numbers that are not finite (seed {recipe.seed}): lower learning_rate.")
    return found


def _key(model: Model, rows: Sequence[Example], held_out: Sequence[Example], recipe: FineTuningRecipe) -> str:
    digest = hashlib.sha256()
    facts = {
        "version": VERSION, "state": model.state_id, "dtype": str(model.dtype), "attention": model.attention_kernel,
        "device": model.device.type, "prefix": model.prefix_id, **vars(recipe),
        "tokens": [model.sequence_ids(text) for row in held_out[:TOKENIZER_ROWS] for text in row.texts],
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for part in (rows, held_out):
        digest.update(json.dumps([[row.texts, row.label] for row in part]).encode())
    return digest.hexdigest()[:32]
