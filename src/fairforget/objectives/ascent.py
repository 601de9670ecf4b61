"""Terms that raise the loss on what is to be forgotten: gradient ascent, weighted, and bounded."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.objectives.likelihood import label_logits, predicted_labels, row_labels, without_dropout
from fairforget.training.objective import IGNORED, Batch, Objective, Role


class Ascent(Objective):
    """Gradient ascent on the cross-entropy, L = mean_t w_t log p(x_t | context), without the model's own dropout.

    With w = 1 it is the loss of Jang et al. 2023 (arXiv 2210.01504). With `power` β the factor w_t = p_tᵝ, held constant in
    the gradient, is that of weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301): what is forgotten already is left alone.
    The loss has no lower bound; `clamp` gives it one: a token less likely than clamp / V (V: size of the vocabulary) gets no gradient,
    so that rare tokens are not driven to -∞. It still counts, so that the others' gradient does not grow.

    Args:
        weight: factor of the term.
        stream: stream of what is to be forgotten.
        power: exponent β of the token's probability in its weight.
        clamp: floor of a token's probability, in uniform guesses; 0 for none.
        per_row: mean over the labels of each row first, then over rows, so that a row with many labels counts no more than one with few.
    """

    role: ClassVar[Role] = "forget"

    def __init__(
        self, weight: float = 1.0, stream: str = "forget", *, power: float = 0.0, clamp: float = 0.0, per_row: bool = False
    ) -> None:
        super().__init__(weight, stream)
        self.power, self.clamp, self.per_row = power, clamp, per_row

    def count(self, batch: Batch) -> int:
        """Number of labels that a prediction exists for, or of rows that have one."""
        labelled = batch["labels"] != IGNORED
        return int((labelled.any(dim=1) if self.per_row else labelled).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed weighted log-likelihood, nats; of rows, their means."""
        with without_dropout(model):
            logits, labels = label_logits(model, batch)
        found = torch.log_softmax(logits, dim=-1).gather(1, labels.unsqueeze(1)).squeeze(1)
        factors = (self.power * found.detach()).exp()
        if self.clamp:
            found = found.clamp(min=math.log(self.clamp / logits.shape[-1]))
        if not self.per_row:
            return (factors * found).sum()
        rows = (predicted_labels(model, batch) != IGNORED).nonzero()[:, 0]
        return (factors * found / row_labels(model, batch)[rows]).sum()
