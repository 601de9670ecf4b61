"""Runs masked inputs: each distinct input once, in batches of like length, the head at the asked positions only.

Under Self-Debias an input runs once more for each biasing prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray
from torch import Tensor

from fairforget.edits.self_debias import active_self_debias, prefixed
from fairforget.models.model import Model
from fairforget.scoring.causal import Counts
from fairforget.scoring.planning import Biased, pad, read_log_probabilities
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
    edit = active_self_debias(model)
    biased = [
        _biased(model, [tokens for tokens, _ in inputs], prefix, rows, positions, counts) for prefix in (edit.prefixes if edit else ())
    ]
    asks_best = any(requests[index].best for _, indices in inputs for index in indices)
    values, *best = read_log_probabilities(model, hidden, rows, positions, targets, edit=edit, biased=biased, best=asks_best).tolist()
    for (_, _, _, index, place), value in zip(wanted, values, strict=True):
        results[index][place] = value
    for (_, _, _, index, place), value in zip(wanted, *best, strict=True) if best else ():
        if requests[index].best:
            results[index][len(requests[index].positions) + place] = value
    size = int(mask.sum())
    counts.tokens += size
    counts.padded += ids.numel()
    counts.forwards += 1
    return size


def position_logits(model: Model, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
    """The whole distribution at positions of one input of a masked model in its present state, Self-Debias included.

    Args:
        model: a masked model.
        ids: the input with its special and mask tokens.
        positions: places in it.

    Returns:
        (number of positions, vocabulary), float32; unnormalised log-probabilities.
    """
    places = list(positions)
    rows = [0] * len(places)
    tokens, mask = pad([ids], model.pad_id, model.device)
    logits = model.head(model.hidden(tokens, mask)[0, places]).float()
    edit = active_self_debias(model)
    if edit is None:
        return logits
    views = [_biased(model, [tuple(ids)], prefix, rows, places, Counts()) for prefix in edit.prefixes]
    return edit.debiased(logits, [model.head(view.hidden[0, list(view.columns)]).float() for view in views])


def _biased(
    model: Model, inputs: Sequence[tuple[int, ...]], prefix: Sequence[int], rows: Sequence[int], positions: Sequence[int], counts: Counts
) -> Biased:
    """The inputs after a biasing prefix, and where the wanted places lie in them."""
    views = [prefixed(model, ids, prefix) for ids in inputs]
    ids, mask = pad([tokens for tokens, _ in views], model.pad_id, model.device)
    hidden = model.hidden(ids, mask)
    counts.tokens += int(mask.sum())
    counts.padded += ids.numel()
    counts.forwards += 1
    return Biased(hidden, [place if place < views[row][1] else place + len(prefix) for row, place in zip(rows, positions, strict=True)])
