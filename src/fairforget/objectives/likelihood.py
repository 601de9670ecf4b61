"""Terms made of the likelihood of labelled tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.training.objective import IGNORED, Batch, Objective, Role


def label_logits(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits at every labelled token, and the labels.

    A causal model predicts the label at a place from the place before it, a masked model at the place itself. The head is applied to
    these places only.

    Args:
        model: the model.
        batch: ids, mask and labels, (batch, length).

    Returns:
        float32 (number of labels, vocabulary) and int64 (number of labels,), in the order of the rows.
    """
    hidden, labels = model.hidden(batch["ids"], batch["mask"]), predicted_labels(model, batch)
    if model.family == "causal":
        hidden = hidden[:, :-1]
    chosen = labels != IGNORED
    return model.head(hidden[chosen]).float(), labels[chosen]


def predicted_labels(model: Model, batch: Batch) -> Tensor:
    """Labels as they stand beside the states that predict them, (batch, length), for causal models (batch, length - 1)."""
    return batch["labels"][:, 1:] if model.family == "causal" else batch["labels"]


def token_log_probabilities(model: Model, batch: Batch) -> Tensor:
    """Return log p of every labelled token, float32 (number of labels,), in the order of the rows; see :func:`label_logits`."""
    logits, labels = label_logits(model, batch)
    return torch.log_softmax(logits, dim=-1).gather(1, labels.unsqueeze(1)).squeeze(1)


def row_log_probabilities(model: Model, batch: Batch) -> Tensor:
    """Return log p of each row, the sum over its labelled tokens, float32 (batch,); 0 for a row without one."""
    rows = (predicted_labels(model, batch) != IGNORED).nonzero()[:, 0]
    found = token_log_probabilities(model, batch)
    return found.new_zeros(batch["ids"].shape[0]).index_add(0, rows, found)


def row_labels(model: Model, batch: Batch) -> Tensor:
    """Return the number of tokens predicted in each row, int64 (batch,)."""
    return (predicted_labels(model, batch) != IGNORED).sum(dim=1)


def other_side(batch: Batch) -> Batch:
    """The counterparts in a batch of pairs as a batch of their own: fields ``other_ids`` and so on, without the prefix."""
    return {field.removeprefix("other_"): tensor for field, tensor in batch.items() if field.startswith("other_")}


@contextlib.contextmanager
def without_dropout(model: Model) -> Generator[None]:
    """The model's own dropout is off while the block runs, and gradients flow; dropout on the input of a LoRA stays as it was set.

    What is forgotten is what the model says as it is audited, and a ratio to the base is 1 where nothing was changed.
    """
    modules = [module for name, module in model.hf.named_modules() if module.training and "lora_dropout" not in name]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


class CrossEntropy(Objective):
    """Negative log-likelihood of the labelled tokens: L = -mean_t log p(x_t | context).

    Trained on biased text it finds what a task vector subtracts (Ilharco et al. 2023); trained on neutral text it retains. The
    count is the number of labels, so long and short rows weigh by their tokens.

    Args:
        weight: factor of the term.
        stream: stream of text to be learnt.
        per_row: average within each row first, so that all rows weigh the same; the count is then the number of rows.
    """

    role: ClassVar[Role] = "retain"

    def __init__(self, weight: float = 1.0, stream: str = "forget", *, per_row: bool = False) -> None:
        super().__init__(weight, stream)
        self.per_row = per_row

    def count(self, batch: Batch) -> int:
        """Number of labels that a prediction exists for, or of rows."""
        return batch["ids"].shape[0] if self.per_row else int((batch["labels"] != IGNORED).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed negative log-likelihood, nats."""
        if self.per_row:
            return -(row_log_probabilities(model, batch) / row_labels(model, batch).clamp(min=1)).sum()
        return -token_log_probabilities(model, batch).sum()
