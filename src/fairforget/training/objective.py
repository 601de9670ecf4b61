"""What a loss term is: a sum and a count over a stream of batches, so that it reduces exactly over accumulation and processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor

from fairforget.models.model import Model

Role = Literal["forget", "retain", "regularize"]
Batch: TypeAlias = dict[str, Tensor]
"""One stream's part of a step: ``ids``, ``mask`` and ``labels``, int64 (batch, length); ``labels`` is the id to be predicted *at* a
place (not after it) and -100 elsewhere."""

IGNORED = -100


class Objective(ABC):
    """One differentiable term of a training loss.

    Args:
        weight: factor of the term in the total loss.
        stream: which stream it is computed on.
    """

    role: ClassVar[Role]

    def __init__(self, weight: float = 1.0, stream: str = "forget") -> None:
        self.weight, self.stream = weight, stream

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """How many units (tokens, pairs ...) the batch holds; known before any forward pass."""

    @abstractmethod
    def sum(self, model: Model, batch: Batch) -> Tensor:
        """The term summed over the batch's units, a scalar that carries gradient."""
