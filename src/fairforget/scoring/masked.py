"""Runs masked inputs: each distinct input once, in batches of like length, the head at the asked positions only."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

from fairforget.models.model import Model
from fairforget.scoring.causal import Counts
from fairforget.scoring.planning import pad, read_log_probabilities
from fairforget.scoring.requests import MaskedRequest


def run_masked_batch(
    model: Model,
    inputs: Sequence[tuple[tuple[int, ...], list[int]]],
    requests: Sequence[MaskedRequest],
    results: dict[int, NDArray],
    counts: Counts,
) -> int:
    """Score one batch of distinct inputs.

    Args:
        model: a masked model.
        inputs: (ids, indices of the requests on these ids).
        requests: all requests.
        results: request index to array of its positions' length; filled in place.
        counts: where the work is added up.

    Returns:
        Tokens run, padding excluded.
    """
    ids, mask = pad([tokens for tokens, _ in inputs], model.pad_id, model.device)
    hidden = model.hidden(ids, mask)
    wanted = [
        (row, position, target, index, place)
        for row, (_, indices) in enumerate(inputs)
        for index in indices
        for place, (position, target) in enumerate(zip(requests[index].positions, requests[index].targets, strict=True))
    ]
    rows, positions, targets = ([entry[column] for entry in wanted] for column in range(3))
    values = read_log_probabilities(model, hidden, rows, positions, targets)
    for (_, _, _, index, place), value in zip(wanted, values.tolist(), strict=True):
        results[index][place] = value
    size = int(mask.sum())
    counts.tokens += size
    counts.padded += ids.numel()
    counts.forwards += 1
    return size
