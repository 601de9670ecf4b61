"""Batches of like length under a token budget, and the reading of log-probabilities from hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fairforget.models.model import Model

if TYPE_CHECKING:
    from fairforget.edits.self_debias import SelfDebiasEdit

Element = TypeVar("Element")

HEAD_FLOATS = 1 << 25
"""Logits held at once: 128 MiB in float32."""
CACHED_ROWS = 16
"""Rows of logits whose log-sum-exp is taken at once on a processor."""


def batches_by_length(elements: Sequence[Element], lengths: Sequence[int], budget: int, forward_cost: int) -> list[list[Element]]:
    """Cut elements, sorted by length (longest first, so that memory trouble shows at once), into the batches that cost least.

    A batch costs its padded size plus `forward_cost` tokens; the cheapest cuts of the sorted list are found exactly, by dynamic
    programming. A batch's padded size stays within `budget` tokens; an element longer than that is a batch of its own. The order of equal
    lengths is that of the input, so that the plan is a function of the request list.

    Args:
        elements: what is to be run.
        lengths: tokens of each.
        budget: padded tokens in a batch.
        forward_cost: what a forward takes however small it is, in tokens of padding that would take as long.
    """
    order = sorted(range(len(elements)), key=lambda index: (-lengths[index], index))
    width = np.array([max(lengths[index], 1) for index in order], dtype=np.int64)
    cheapest = np.zeros(len(order) + 1, dtype=np.int64)  # of the first so many elements
    start = np.zeros(len(order) + 1, dtype=np.int64)  # of the last batch of them
    # A batch from `begin` to `end` costs (end - begin) * width[begin]; `known` is the part that does not depend on `end`.
    known = np.zeros(len(order), dtype=np.int64)
    earliest = 0
    for end in range(1, len(order) + 1):
        known[end - 1] = cheapest[end - 1] - (end - 1) * width[end - 1]
        while earliest < end - 1 and (end - earliest) * width[earliest] > budget:
            earliest += 1
        costs = known[earliest:end] + end * width[earliest:end]
        best = int(costs.argmin())
        cheapest[end], start[end] = costs[best] + forward_cost, earliest + best
    batches: list[list[Element]] = []
    end = len(order)
    while end:
        batches.append([elements[index] for index in order[start[end] : end]])
        end = int(start[end])
    return batches[::-1]


def pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask, both int64 (rows, longest)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)


class Biased(NamedTuple):
    """The same texts after a biasing prefix (see :class:`fairforget.edits.self_debias.SelfDebiasEdit`)."""

    hidden: Tensor
    """(batch, length, width), rows as in the plain batch."""
    columns: Sequence[int]
    """Column of each wanted value."""


def read_log_probabilities(
    model: Model,
    hidden: Tensor,
    rows: Sequence[int],
    columns: Sequence[int],
    targets: Sequence[int],
    *,
    edit: SelfDebiasEdit | None = None,
    biased: Sequence[Biased] = (),
    best: bool = False,
) -> Tensor:
    """Log-probability of a target at each (row, column) of hidden states, with the head applied at distinct places only and in slices.

    Args:
        model: whose head is used.
        hidden: (batch, length, width).
        rows: row of each wanted value.
        columns: column of each wanted value.
        targets: token id of each wanted value.
        edit: the Self-Debias edit on the model, if any.
        biased: the texts after each of its prefixes, in their order.
        best: also give the most likely token's log-probability; it equals the target's, to the bit, where that token is the target.

    Returns:
        float64 (1, number of values) on the processor, or (2, number of values) with the most likely token's in the second row; the
        log-sum-exp is taken in float32.
    """
    flat = _flat(hidden, rows, columns)
    places, inverse = torch.unique(flat, return_inverse=True)
    states = _states(hidden, places)
    others: list[Tensor] = []
    for view in biased:
        same = torch.empty_like(places)
        same[inverse] = _flat(view.hidden, rows, view.columns)
        others.append(_states(view.hidden, same))
    wanted = torch.as_tensor(targets, dtype=torch.long)
    result = torch.empty((1 + best, len(wanted)), dtype=torch.float64)
    step = max(1, HEAD_FLOATS // ((1 + len(others)) * model.hf.config.get_text_config().vocab_size))
    for start in range(0, len(places), step):
        logits = model.head(states[start : start + step]).float()
        if edit is not None:
            logits = edit.debiased(logits, [model.head(other[start : start + step]).float() for other in others])
        chosen = (inverse >= start) & (inverse < start + step)
        own = (inverse[chosen] - start).to(logits.device)
        normaliser = _log_sum_exp(logits)[own]
        result[0, chosen] = (logits[own, wanted[chosen].to(logits.device)] - normaliser).double().cpu()
        if best:
            result[1, chosen] = (logits.amax(dim=-1)[own] - normaliser).double().cpu()
    return result


def _flat(hidden: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Places among the states of a batch, its rows one after the other."""
    return torch.as_tensor(rows, dtype=torch.long) * hidden.shape[1] + torch.as_tensor(columns, dtype=torch.long)


def _states(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1])[places.to(hidden.device)]


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Over the vocabulary; on a processor some rows at a time, whose temporaries stay in its cache: twice to three times as fast."""
    if logits.device.type != "cpu":
        return torch.logsumexp(logits, dim=-1)
    return torch.cat([torch.logsumexp(rows, dim=-1) for rows in logits.split(CACHED_ROWS)])
