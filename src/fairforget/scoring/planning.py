"""Batches of like length under a token budget, and the reading of log-probabilities from hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fairforget.models.model import Model

Element = TypeVar("Element")

HEAD_FLOATS = 1 << 25
"""Logits held at once: 128 MiB in float32."""


def batches_by_length(elements: Sequence[Element], lengths: Sequence[int], budget: int) -> list[list[Element]]:
    """Cut elements, sorted by length (longest first, so that memory trouble shows at once), into batches.

    A batch's padded size stays within `budget` tokens; an element longer than that is a batch of its own. The order of equal lengths is
    that of the input, so that the plan is a function of the request list.
    """
    order = sorted(range(len(elements)), key=lambda index: (-lengths[index], index))
    batches: list[list[Element]] = []
    widest = 0
    for index in order:
        if batches and (len(batches[-1]) + 1) * widest <= budget:
            batches[-1].append(elements[index])
        else:
            batches.append([elements[index]])
            widest = max(lengths[index], 1)
    return batches


def pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask, both int64 (rows, longest)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)


def read_log_probabilities(model: Model, hidden: Tensor, rows: Sequence[int], columns: Sequence[int], targets: Sequence[int]) -> Tensor:
    """log p(target) at (row, column) of hidden states, with the head applied at distinct places only and in slices.

    Args:
        model: whose head is used.
        hidden: (batch, length, width).
        rows: row of each wanted value.
        columns: column of each wanted value.
        targets: token id of each wanted value.

    Returns:
        float64 (number of values,) on the processor; the log-sum-exp is taken in float32.
    """
    width = hidden.shape[1]
    flat = torch.as_tensor(rows, dtype=torch.long) * width + torch.as_tensor(columns, dtype=torch.long)
    places, inverse = torch.unique(flat, return_inverse=True)
    states = hidden.reshape(-1, hidden.shape[-1])[places.to(hidden.device)]
    wanted = torch.as_tensor(targets, dtype=torch.long)
    result = torch.empty(len(wanted), dtype=torch.float64)
    step = max(1, HEAD_FLOATS // model.hf.config.get_text_config().vocab_size)
    for start in range(0, len(places), step):
        logits = model.head(states[start : start + step]).float()
        chosen = (inverse >= start) & (inverse < start + step)
        values = logits[(inverse[chosen] - start).to(logits.device), wanted[chosen].to(logits.device)]
        normaliser = torch.logsumexp(logits, dim=-1)[(inverse[chosen] - start).to(logits.device)]
        result[chosen] = (values - normaliser).double().cpu()
    return result
