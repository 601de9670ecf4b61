"""Streams of training text: tokenised once, masked afresh at every visit by a seed of its own, collated by stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.training.objective import IGNORED, Batch


class TextStream:
    """Texts of one stream as token ids.

    Args:
        model: whose tokenizer and family decide ids and labels.
        texts: one text a row.
        max_length: longer texts are cut on the right.
        masking_rate: share of tokens predicted at each visit (masked models); at least one.
        seed: masks are a function of (seed, row, visit) alone, so that a resumed run sees the same ones.

    Raises:
        UsageError: there is no text that holds a token to predict.
    """

    def __init__(self, model: Model, texts: Sequence[str], *, max_length: int = 128, masking_rate: float = 0.15, seed: int = 0) -> None:
        self.model, self.masking_rate, self.seed = model, masking_rate, seed
        limit = min(max_length, model.max_length)
        rows = [model.sequence_ids(text) for text in texts]
        if model.family == "causal":
            rows = [[*model.prefix, *row][:limit] for row in rows]
        else:
            rows = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
        self.rows = [row for row in rows if len(row) > (1 if model.family == "causal" else 2)]
        if not self.rows:
            raise UsageError("The training data hold no text to learn from: every row is empty after tokenising.")

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> tuple[list[int], list[int]]:
        """Ids and labels of a row at its n-th visit."""
        row = self.rows[index % len(self.rows)]
        if self.model.family == "causal":
            first = len(self.model.prefix) or 1  # a first token without prefix has no distribution to learn
            return row, [IGNORED] * first + row[first:]
        return self._masked(row, np.random.default_rng([self.seed, index, visit]))

    def _masked(self, row: list[int], generator: np.random.Generator) -> tuple[list[int], list[int]]:
        """BERT's corruption (Devlin et al. 2019): of the chosen places 80 % become the mask, 10 % a random id, 10 % stay."""
        assert self.model.mask_id is not None
        inner = np.arange(1, len(row) - 1)
        chosen = generator.choice(inner, max(1, round(len(inner) * self.masking_rate)), replace=False)
        ids, labels = list(row), [IGNORED] * len(row)
        for place in chosen.tolist():
            labels[place] = row[place]
            kind = generator.random()
            if kind < 0.8:
                ids[place] = self.model.mask_id
            elif kind < 0.9:
                ids[place] = int(generator.integers(len(self.model.tokenizer)))
        return ids, labels


class StreamDataset(Dataset[dict[str, Any]]):
    """Rows of several streams side by side; its length is that of the first stream, shorter others start over.

    Args:
        streams: by name, the leading one first.
        visits: how often the leading stream is gone through; each visit has masks of its own.
    """

    def __init__(self, streams: dict[str, TextStream], visits: int = 1) -> None:
        self.streams, self.visits = streams, visits
        self.rows = len(next(iter(streams.values())))

    def __len__(self) -> int:
        return self.rows * self.visits

    def __getitem__(self, index: int) -> dict[str, tuple[list[int], list[int]]]:
        visit, row = divmod(index, self.rows)
        return {name: stream.example(row, visit) for name, stream in self.streams.items()}


class Collator:
    """Pads each stream of a batch on the right.

    Args:
        pad_id: id of padding.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: Sequence[dict[str, tuple[list[int], list[int]]]]) -> dict[str, Batch]:
        """Ids, mask and labels of every stream, (batch, longest row)."""
        return {name: self._pad([example[name] for example in examples]) for name in examples[0]}

    def _pad(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
        width = max(len(ids) for ids, _ in pairs)

        def filled(value: int, rows: Sequence[Sequence[int]]) -> Tensor:
            return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows], dtype=torch.long)

        return {
            "ids": filled(self.pad_id, [ids for ids, _ in pairs]),
            "mask": filled(0, [[1] * len(ids) for ids, _ in pairs]),
            "labels": filled(IGNORED, [labels for _, labels in pairs]),
        }
