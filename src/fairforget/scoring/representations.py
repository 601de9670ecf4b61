"""Sentence vectors: hidden states of one layer, averaged over the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairforget.edits.self_debias import active_self_debias
from fairforget.errors import UsageError
from fairforget.models.hidden_sites import Layer, hidden_site, states_of
from fairforget.models.model import HeadInput, Model
from fairforget.progress import task
from fairforget.scoring.planning import batches_by_length, pad
from fairforget.scoring.scorer import CPU_BUDGET, CPU_FORWARD_COST, GPU_BUDGET, GPU_FORWARD_COST


def sentence_vectors(
    model: Model, texts: Sequence[str], *, layer: Layer = "final", max_length: int = 128, prefix: bool = True,
    description: str = "sentence vectors",
) -> NDArray[np.float32]:
    """Mean hidden state of each text, in the model's present state.

    The mean goes over all tokens of a masked model's input, ``[CLS]`` and ``[SEP]`` included, and over the text's own tokens for a causal
    one: the prefix token comes before them and says nothing about the text.

    Args:
        model: causal or masked, with edits or not.
        texts: at least one token each.
        layer: whose states; see :data:`fairforget.models.hidden_sites.Layer`.
        max_length: longer texts are cut on the right, to so many tokens with special ones.
        prefix: a causal model reads its prefix token before the text; without it the first token has nothing before it.
        description: what the progress display says.

    Returns:
        (texts, width).

    Raises:
        UsageError: a text without tokens, a layer that there is not, or a Self-Debias edit on the model, which no state shows.
    """
    if active_self_debias(model) is not None:
        raise UsageError("Self-Debias leaves hidden states as they are, so nothing that is read from them can show it.")
    before = model.prefix if prefix and model.family == "causal" else ()
    rows = [_ids(model, text, before, min(max_length, model.max_length)) for text in texts]
    skipped = len(before)
    if any(len(row) <= skipped for row in rows):
        raise UsageError("A text without a single token has no hidden state: leave out empty texts.")
    on_cpu = model.device.type == "cpu"
    budget, cost = (CPU_BUDGET, CPU_FORWARD_COST) if on_cpu else (GPU_BUDGET, GPU_FORWARD_COST)
    batches = batches_by_length(range(len(rows)), [len(row) for row in rows], budget, cost)
    found = np.empty((len(rows), int(model.hf.config.get_text_config().hidden_size)), dtype=np.float32)
    held: list[Tensor] = []

    def hold(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, HeadInput):
            held.append(states_of(output))

    handle = hidden_site(model, layer).register_forward_hook(hold)
    try:
        with torch.inference_mode(), task(description, sum(map(len, rows))) as advance:
            for batch in batches:
                ids, mask = pad([rows[index] for index in batch], model.pad_id, model.device)
                held.clear()
                model.hidden(ids, mask)
                weights = mask.clone()
                weights[:, :skipped] = 0
                states = held[-1].float()
                weights = weights.to(states.device)
                means = (states * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)
                found[batch] = means.cpu().numpy()
                advance(int(mask.sum()))
    finally:
        handle.remove()
    return found


def _ids(model: Model, text: str, before: tuple[int, ...], limit: int) -> list[int]:
    ids = model.sequence_ids(text)
    if model.family == "causal":
        return [*before, *ids][:limit]
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
