"""What a loss term is: a sum and a count over a stream of batches, so that it reduces exactly over accumulation and processes."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from fairforget.models.model import Model

Role = Literal["forget", "retain", "regularize"]
Batch: TypeAlias = dict[str, Tensor]
"""One stream's part of a step. ``ids``, ``mask`` and ``labels`` are int64 (batch, length); ``labels`` is the id to be predicted *at* a
place (not after it) and -100 elsewhere. A stream may have more fields: those whose name ends in ``ids`` come with a mask of their own,
all others are padded with -100."""

IGNORED = -100


class Objective(ABC):
    """One differentiable term of a training loss.

    Args:
        weight: factor of the term in the total loss.
        stream: which stream it is computed on; None for a term of the parameters alone, which is added once a step.
    """

    role: ClassVar[Role]
    in_batch: bool = False
    """Whether rows of a batch are compared with each other, so that a step must be one batch on one process."""
    module: nn.Module | None = None
    """Parameters of the term's own, made by :meth:`prepare`: trained with the model and thrown away after."""

    def __init__(self, weight: float = 1.0, stream: str | None = "forget") -> None:
        self.weight, self.stream = weight, stream

    def prepare(self, model: Model) -> None:  # noqa: B027
        """Look at the base before the first step, with the parameters that will be trained marked; a resumed run calls it again."""

    def begin_pass(self, model: Model, number: int) -> None:  # noqa: B027  (a hook that most terms need not have)
        """Look at the model before the leading stream is gone through for the n-th time (from 0)."""

    def step(self, model: Model) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """A context around the terms of a (micro-)batch in training, for a term that reads what the terms before it compute."""
        return contextlib.nullcontext()

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must keep beside the weights for a resumed run to be the same; nothing by default."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what :meth:`state` gave."""

    @property
    def label(self) -> str:
        """Name of the term in logs."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """How many units (tokens, pairs ...) the batch holds; known before any forward pass. 1 for a term of the parameters."""

    @abstractmethod
    def sum(self, model: Model, batch: Batch) -> Tensor:
        """The term summed over the batch's units, a scalar that carries gradient."""
