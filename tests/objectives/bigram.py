"""A stand-in for a model whose every logit is a table's entry, so that terms of a loss can be worked out by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairforget.training import IGNORED, Batch


class Bigram:
    """Logits of the token after (causal) or at (masked) a token are the row of the table that the token's id names."""

    pad_id, device = 0, torch.device("cpu")

    def __init__(self, logits: Sequence[Sequence[float]], family: str = "causal") -> None:
        self.family = family
        self.hf = nn.Module()
        self.hf.table = nn.Parameter(torch.tensor(logits, dtype=torch.float32))
        self.hf.eval()

    @property
    def table(self) -> nn.Parameter:
        """Logits, (tokens, tokens)."""
        found: Any = self.hf.table
        return found

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The rows of the table are the states."""
        del mask
        return self.table[ids]

    def head(self, hidden: Tensor) -> Tensor:
        """The states are the logits."""
        return hidden

    @contextlib.contextmanager
    def at(self, logits: Sequence[Sequence[float]]) -> Generator[None]:
        """Another table while the block runs: the base of a changed model."""
        own, self.table.data = self.table.data, torch.tensor(logits, dtype=torch.float32)
        try:
            yield
        finally:
            self.table.data = own


def batch_of(*rows: Sequence[int], first: int = 1) -> Batch:
    """Rows of equal length, labelled from place `first` on."""
    ids = torch.tensor(rows)
    labels = ids.clone()
    labels[:, :first] = IGNORED
    return {"ids": ids, "mask": torch.ones_like(ids), "labels": labels}
