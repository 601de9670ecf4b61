"""Terms that teach a model a distribution in which the token to be forgotten has lost its place: UNDIAL and CE-U."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.objectives.drift import Reference, at_base
from fairforget.objectives.likelihood import label_logits, without_dropout
from fairforget.training.objective import IGNORED, Batch, Objective, Role


class _TokenTerm(Objective):
    """A term with one value a labelled token; without the model's own dropout."""

    role: ClassVar[Role] = "forget"

    def count(self, batch: Batch) -> int:
        """Number of labels that a prediction exists for."""
        return int((batch["labels"] != IGNORED).sum())


class Undial(_TokenTerm):
    """UNDIAL: cross-entropy to softmax(z_ref - b · onehot(x_t)) (Dong et al. 2025, arXiv 2402.10052).

    The base's logits z_ref are computed batch by batch and not stored. The target is fixed, so that the loss is bounded and converges.

    Args:
        reference: context in which the model is its base.
        penalty: b, subtracted from the logit of the token.
        weight: factor of the term.
        stream: stream of what is to be forgotten.
    """

    def __init__(self, reference: Reference, penalty: float = 10.0, weight: float = 1.0, stream: str = "forget") -> None:
        super().__init__(weight, stream)
        self.reference, self.penalty = reference, penalty

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed cross-entropy, nats."""
        base = at_base(model, self.reference, lambda: label_logits(model, batch)[0])
        with without_dropout(model):
            logits, labels = label_logits(model, batch)
        places = labels.unsqueeze(1)
        target = base.scatter_add(1, places, torch.full_like(places, -self.penalty, dtype=base.dtype))
        return soft_cross_entropy(target, logits)


class CrossEntropyUnlearning(_TokenTerm):
    """CE-U: cross-entropy to the model's own distribution without the token, logits held constant (Yang 2025, arXiv 2503.01224).

    Args:
        weight: factor of the term.
        stream: stream of what is to be forgotten.
    """

    def __init__(self, weight: float = 1.0, stream: str = "forget") -> None:
        super().__init__(weight, stream)

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed cross-entropy, nats."""
        with without_dropout(model):
            logits, labels = label_logits(model, batch)
        return soft_cross_entropy(logits.detach().scatter(1, labels.unsqueeze(1), float("-inf")), logits)


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Σ over rows of the cross-entropy of softmax(logits) to softmax(target); both (rows, vocabulary), nats."""
    return -(torch.softmax(target, dim=-1) * torch.log_softmax(logits, dim=-1)).sum()
