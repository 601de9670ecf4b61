"""Terms made of the likelihood of labelled tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.training.objective import IGNORED, Batch, Objective, Role


def token_log_probabilities(model: Model, batch: Batch) -> Tensor:
    """Return log p of every labelled token.

    A causal model predicts the label at a place from the place before it, a masked model at the place itself. The head is applied to
    these places only.

    Args:
        model: the model.
        batch: ids, mask and labels, (batch, length).

    Returns:
        float32 (number of labels,), in the order of the rows.
    """
    hidden = model.hidden(batch["ids"], batch["mask"])
    labels = batch["labels"]
    if model.family == "causal":
        hidden, labels = hidden[:, :-1], labels[:, 1:]
    chosen = labels != IGNORED
    logits = model.head(hidden[chosen]).float()
    return torch.log_softmax(logits, dim=-1).gather(1, labels[chosen].unsqueeze(1)).squeeze(1)


class CrossEntropy(Objective):
    """Negative log-likelihood of the labelled tokens: L = -mean_t log p(x_t | context).

    Trained on biased text it finds what a task vector subtracts (Ilharco et al. 2023); trained on neutral text it retains. The
    count is the number of labels, so long and short rows weigh by their tokens.
    """

    role: ClassVar[Role] = "retain"

    def count(self, batch: Batch) -> int:
        """Number of labels that a prediction exists for."""
        return int((batch["labels"] != IGNORED).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed negative log-likelihood, nats."""
        return -token_log_probabilities(model, batch).sum()
