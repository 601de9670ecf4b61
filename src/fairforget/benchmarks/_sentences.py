"""Requests that score whole sentences, and how their log-probabilities become one figure.

Sources: Nangia et al. 2020 (CrowS-Pairs, pseudo-likelihood of shared tokens), Meade et al. 2022 (bias-bench, changed tokens and
geometric means), Salazar et al. 2020 (pseudo-log-likelihood).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fairforget.benchmarks._base import Plan, Scores
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest, Request

if TYPE_CHECKING:
    from fairforget.models.model import Model


def sentence_requests(
    model: Model, ids: Sequence[int], *, split_first: bool = False, prefix: tuple[int, ...] | None = None
) -> tuple[Request, ...]:
    """Every token of a sentence after the prefix token of a causal model.

    Args:
        model: a causal model; without a prefix token the first token is not scored.
        ids: the sentence.
        prefix: what stands before it in place of the model's prefix token.
        split_first: score the first token after the prefix alone and the others in a pass *without* the prefix, as bias-bench does.
    """
    tokens, before = tuple(ids), model.prefix if prefix is None else prefix
    if split_first and len(tokens) > 1:
        return (ContinuationRequest(before, tokens[:1]), ContinuationRequest(tokens[:1], tokens[1:]))
    return (ContinuationRequest(before, tokens),)


def masked_requests(model: Model, ids: Sequence[int], positions: Iterable[int]) -> tuple[Request, ...]:
    """One request per position, with that position alone masked.

    Args:
        model: a masked model.
        ids: a whole input, special tokens included.
        positions: places in `ids`.
    """
    assert model.mask_id is not None
    requests: list[Request] = []
    for position in positions:
        masked = (*ids[:position], model.mask_id, *ids[position + 1 :])
        requests.append(MaskedRequest(masked, (position,), (ids[position],)))
    return tuple(requests)


def scored(scores: Scores) -> np.ndarray:
    """All log-probabilities behind one text in one array, places that were not scored (``nan``) left out."""
    flat = np.concatenate([np.atleast_1d(values) for values in scores]) if len(scores) else np.empty(0)
    return flat[~np.isnan(flat)]


def plan_texts(model: Model, texts: tuple[tuple[Request, ...], ...], *, empty: str = "a text without tokens") -> Plan:
    """The plan of an item, or why it is skipped: a text without tokens (`empty` says so), or one that is too long for the model."""
    if not all(texts):
        return Plan(skipped=empty)
    longest = max(_length(request) for text in texts for request in text)
    if longest > model.max_length:
        return Plan(skipped=f"{longest} tokens, more than the model's {model.max_length} positions")
    return Plan(texts)


def _length(request: Request) -> int:
    return len(request.context) + len(request.continuation) if isinstance(request, ContinuationRequest) else len(request.ids)
