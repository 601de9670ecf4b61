"""Runs a token trie through a causal model: batches of segments, each continued from its parent's keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from fairforget.models.model import Model
from fairforget.scoring.planning import batches_by_length, pad, read_log_probabilities
from fairforget.scoring.trie import Segment


@dataclass
class _Past:
    """Keys and values of a batch of computed segments, with the mask over all that came before (and in) them."""

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor

    def rows(self, index: Tensor) -> tuple[DynamicCache, Tensor]:
        """A fresh cache and mask with one row per wanted parent; columns that are padding in all of them are dropped."""
        mask = self.mask[index]
        columns = mask.any(dim=0)
        trimmed = not bool(columns.all())
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            chosen = (keys[index], values[index])
            cache.update(*((part[:, :, columns] for part in chosen) if trimmed else chosen), number)
        return cache, mask[:, columns] if trimmed else mask


@dataclass
class Counts:
    """What a scoring cost."""

    tokens: int = 0
    """Tokens fed to the model, padding excluded."""
    padded: int = 0
    """Tokens fed to the model, padding included."""
    forwards: int = 0
    distinct: int = field(default=0)
    """Distinct requests that were run."""


class CausalRunner:
    """Computes the targets of segments.

    Args:
        model: a causal model.
        budget: padded tokens in a forward.
        counts: where the work is added up.
    """

    def __init__(self, model: Model, budget: int, counts: Counts) -> None:
        self.model, self.budget, self.counts = model, budget, counts

    def run(self, roots: Sequence[Segment], results: dict[int, NDArray], advance: Callable[[float], None]) -> None:
        """Fill `results` (request index to array of its continuation's length) for all targets at and below the given roots."""
        self._run_level([(root, 0) for root in roots], None, results, advance)

    def _run_level(
        self, segments: Sequence[tuple[Segment, int]], past: _Past | None, results: dict[int, NDArray], advance: Callable[[float], None]
    ) -> None:
        lengths = [len(segment.tokens) for segment, _ in segments]
        for batch in batches_by_length(segments, lengths, self.budget):
            self._run_batch(batch, past, results, advance)

    def _run_batch(
        self, batch: Sequence[tuple[Segment, int]], past: _Past | None, results: dict[int, NDArray], advance: Callable[[float], None]
    ) -> None:
        model = self.model
        ids, own_mask = pad([segment.tokens for segment, _ in batch], model.pad_id, model.device)
        depths = torch.tensor([segment.depth for segment, _ in batch], device=model.device)
        positions = depths[:, None] + torch.arange(ids.shape[1], device=model.device)
        branches = any(segment.children for segment, _ in batch)
        mask, cache = own_mask, None
        if past is not None:
            cache, before = past.rows(torch.tensor([row for _, row in batch], device=model.device))
            mask = torch.cat([before, own_mask], dim=1)
        elif branches:
            cache = DynamicCache()
        hidden = model.hidden(ids, mask, positions=positions if cache is not None else None, cache=cache)
        size = int(own_mask.sum())
        self.counts.tokens += size
        self.counts.padded += ids.numel()
        self.counts.forwards += 1
        wanted = [(row, target) for row, (segment, _) in enumerate(batch) for target in segment.targets]
        if wanted:
            values = read_log_probabilities(
                model, hidden, [row for row, _ in wanted], [target.offset for _, target in wanted], [target.token for _, target in wanted]
            ).tolist()
            for (_, target), value in zip(wanted, values, strict=True):
                results[target.request][target.place] = value
        del hidden
        advance(size)
        if branches:
            assert cache is not None
            below = _Past([(layer.keys, layer.values) for layer in cache.layers], mask)  # type: ignore[misc]
            children = [(child, row) for row, (segment, _) in enumerate(batch) for child in segment.children]
            self._run_level(children, below, results, advance)
