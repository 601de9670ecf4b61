"""Drift: how far a model's distributions over the vocabulary moved at fixed places of running text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from fairforget.errors import UsageError
from fairforget.forgetting import kl_divergence
from fairforget.forgetting.ledger import KEY
from fairforget.models import Model
from fairforget.scoring import Request
from fairforget.scoring.requests import MaskedRequest

_BATCH = 16
"""Sequences in a forward."""


class Drift:
    """KL(before || after) over the vocabulary at fixed places of running text, the first side computed once.

    Args:
        model: in the first state.
        table: item table of the text, a row per window.
        requests: the request behind each row.
        positions: places in all; windows are taken evenly over the text until there are as many.
    """

    def __init__(self, model: Model, table: pl.DataFrame, requests: Sequence[Request], positions: int) -> None:
        self.rows = _even(table, requests, positions)
        self.keys = table.select(KEY)[self.rows]
        self.requests = [requests[row] for row in self.rows]
        self.base = self._log_probabilities(model)

    def measure(self, model: Model) -> pl.DataFrame:
        """A row per window: what names it and ``kl``, nats a place.

        Args:
            model: the same model in the second state.
        """
        now = self._log_probabilities(model)
        values = [float(kl_divergence(before, after).mean()) for before, after in zip(self.base, now, strict=True)]
        return self.keys.with_columns(kl=pl.Series(values, dtype=pl.Float64))

    @torch.inference_mode()
    def _log_probabilities(self, model: Model) -> list[NDArray[np.float64]]:
        """(places, vocabulary) of each window."""
        found: list[NDArray[np.float64]] = []
        for start in range(0, len(self.requests), _BATCH):
            batch = self.requests[start : start + _BATCH]
            sequences = [_sequence(request) for request in batch]
            width = max(len(ids) for ids, _ in sequences)
            ids = torch.full((len(batch), width), model.pad_id, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, (own, _) in enumerate(sequences):
                ids[row, : len(own)] = torch.tensor(own)
                mask[row, : len(own)] = 1
            states = model.hidden(ids.to(model.device), mask.to(model.device))
            for row, (_, places) in enumerate(sequences):
                logits = model.head(states[row, list(places)]).double()
                found.append(torch.log_softmax(logits, dim=-1).cpu().numpy())
        return found


def window_requests(requests: Iterable[Sequence[Request]], table: pl.DataFrame) -> list[Request]:
    """The one request behind each row of running text.

    Args:
        requests: of each article, in order.
        table: item table of the same articles, a row per window.

    Raises:
        UsageError: a window is made of several requests.
    """
    flat = [request for own in requests for request in own]
    if len(flat) != table.height:
        raise UsageError("Running text of which a window takes several requests cannot be cut into strata: use `perplexity`.")
    return flat


def _even(table: pl.DataFrame, requests: Sequence[Request], positions: int) -> list[int]:
    """Numbers of windows, evenly over those with a score, that hold as many places as wanted, or all."""
    usable = [row for row, reason in enumerate(table["skipped"].to_list()) if reason is None and _sequence(requests[row])[1]]
    sizes = [len(_sequence(requests[row])[1]) for row in usable]
    wanted = max(1, round(len(usable) * min(1.0, positions / max(sum(sizes), 1))))
    return [usable[(2 * number + 1) * len(usable) // (2 * wanted)] for number in range(wanted)] if usable else []


def _sequence(request: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of one input, and the places whose state predicts what is scored."""
    if isinstance(request, MaskedRequest):
        return request.ids, request.positions
    start = len(request.context)
    return (*request.context, *request.continuation), tuple(place - 1 for place in range(start, start + len(request.continuation)) if place)
