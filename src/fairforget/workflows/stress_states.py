"""States under stress: an edited model relearning what was taken away, and its weights in fewer bits. Each is an edit of the same base.

The 8 and 4 bits are simulated: weights go to integers and back, and the model computes in its own type with what comes out. That is
weight-only quantisation as libraries store it; activations, and the kernels' own rounding, are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import set_seed

from fairforget.edits import Delta, Dense, Edit, EditRecord, RuntimeEdit, WeightEdit, load_edit, merged_tensors
from fairforget.edits.sites import find_sites, linear_axes, stored_transposed
from fairforget.errors import UsageError
from fairforget.methods._tuning import tune_lora
from fairforget.models.model import Model
from fairforget.objectives.likelihood import CrossEntropy
from fairforget.settings import Settings
from fairforget.training import StreamDataset, TextStream, train

INT4_BLOCK = 64
"""Weights that share a scale at 4 bits, as in common 4-bit formats (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, section 3)."""


class Relearning(Settings):
    """How the stereotypes are taught again: low-rank factors on every linear, at a constant learning rate."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """AdamW, no warm-up and no decay, so that a short relearning is the beginning of a longer one. Ours; that of task-vector."""
    batch_size: int = Field(16, ge=1)
    """Texts in a step. Ours; that of task-vector."""
    rank: int = Field(8, ge=1)
    """Rank of the factors; alpha is the same. Ours; that of task-vector."""
    max_length: int = Field(128, ge=2)
    """Tokens kept of a text."""


def round_trip_int8(weight: Tensor) -> Tensor:
    """To 8 bits and back: q = round(127 w / max|w|) for each output channel, symmetric absmax, no zero point.

    Args:
        weight: float32 (out, in).

    Returns:
        The same shape; at most max|w| / 254 of a channel away.
    """
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)).clamp(-127, 127) * scale


def round_trip_int4(weight: Tensor, block: int = INT4_BLOCK) -> Tensor:
    """To 4 bits and back: q = round(7 w / max|w|) in blocks of `block` weights of a row, symmetric absmax, levels -7 to 7.

    Args:
        weight: float32 (out, in); the last block of a row may be shorter.
        block: weights that share a scale.

    Returns:
        The same shape; at most max|w| / 14 of a block away.
    """
    rows, width = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -width % block)).reshape(rows, -1, block)
    scale = padded.abs().amax(dim=2, keepdim=True) / 7
    rounded = torch.round(padded / scale.clamp(min=torch.finfo(weight.dtype).tiny)).clamp(-7, 7) * scale
    return rounded.reshape(rows, -1)[:, :width]


ROUND_TRIPS: dict[str, Callable[[Tensor], Tensor]] = {"int8": round_trip_int8, "int4": round_trip_int4}


@torch.no_grad()
def quantised_edits(model: Model, edit: Edit | None, bits: str) -> list[Edit]:
    """Edits that together are a state whose linear weights went to a few bits and back; the vocabulary head keeps its own.

    Args:
        model: the base, with no edit attached.
        edit: what makes the state, at its strength; None for the base itself.
        bits: a name in ``ROUND_TRIPS``.

    Returns:
        One edit of weights from the base to the rounded state, and after it `edit` itself where it works at run time and is not a change
        of weights. Weights are exact to the last bit of the base's type.

    Raises:
        UsageError: the base is quantised or not in memory.
    """
    at_run_time = [edit] if isinstance(edit, RuntimeEdit) and edit.why_not_weights(model) else []
    changed = {} if edit is None or at_run_time else merged_tensors(model, edit)
    sites = {site.name: site for site in find_sites(model.hf).values()}
    head = model.hf.get_output_embeddings()
    deltas: dict[str, Delta] = {}
    for name, site in sites.items():
        weight = changed.get(name, site.parameter.detach())
        is_linear = site.attribute == "weight" and linear_axes(site.module) is not None and site.module is not head and not site.tied
        if is_linear:
            if not weight.is_floating_point() or weight.is_meta:
                raise UsageError(f"{model.name} is quantised or not in memory already: load it without --load-in-4bit and device_map.")
            transposed = stored_transposed(site)
            matrix = weight.float().T if transposed else weight.float()
            rounded = ROUND_TRIPS[bits](matrix)
            weight = (rounded.T if transposed else rounded).contiguous()
        elif name not in changed:
            continue
        deltas[name] = Dense((weight.float() - site.parameter.detach().float()).cpu())
    subject = None if edit is None else edit.state_fragment()
    record = EditRecord.for_model(model, f"stress: {bits}", settings={"bits": bits}, provenance={"of": subject})
    return [WeightEdit(deltas, record), *at_run_time]


def relearned_edit(
    model: Model, edit: Edit | None, texts: Sequence[str], steps: int, settings: Relearning, *, seed: int, folder: Path
) -> Edit:
    """Teach a state the training texts again for a few steps; read from `folder` where that was done before.

    Args:
        model: the base, with no edit attached.
        edit: what makes the state, at its strength; None for the base itself.
        texts: what is taught.
        steps: optimiser steps.
        settings: of the training.
        seed: of order, masks and factors; the same for all states.
        folder: for checkpoints and the edit.

    Returns:
        What was learnt, as an edit to be attached after `edit`.
    """
    kept = folder / "edit"
    if (kept / "edit.json").exists():
        return load_edit(kept)
    facts = {**settings.model_dump(), "steps": steps}
    subject = None if edit is None else edit.state_fragment()
    record = EditRecord.for_model(model, "stress: relearn", settings=facts, seed=seed, provenance={"of": subject})
    with contextlib.ExitStack() as stack:
        if edit is not None:
            stack.enter_context(edit.applied(model))
        set_seed(seed)
        stream = TextStream(model, texts, max_length=settings.max_length, seed=seed)
        dataset = StreamDataset({"forget": stream}, visits=-(-steps * settings.batch_size // len(stream)))

        def run(reference: Any) -> dict[str, Any]:
            del reference
            return train(
                model, [CrossEntropy(stream="forget")], dataset, steps=steps, batch_size=settings.batch_size, scheduler="constant",
                learning_rate=settings.learning_rate, folder=folder / "training", seed=seed, description=f"relearning for {steps} steps",
            )

        found = tune_lora(model, record, run, rank=settings.rank, alpha=float(settings.rank), dropout=0.0, targets="all-linear")
    found.save(kept)
    return found


@contextlib.contextmanager
def in_state(model: Model, edits: Sequence[Edit]) -> Any:
    """The edits are on the model while the block runs."""
    with contextlib.ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied(model))
        yield model
