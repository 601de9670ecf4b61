"""Terms on the likelihood of whole rows against the base's, or against a counterpart's: NPO, SimNPO and DPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from fairforget.models.model import Model
from fairforget.objectives.drift import Reference, at_base
from fairforget.objectives.likelihood import other_side, row_labels, row_log_probabilities, without_dropout
from fairforget.training.objective import Batch, Objective, Role


class _RowTerm(Objective):
    """A term with one value a row; without the model's own dropout."""

    role: ClassVar[Role] = "forget"

    def count(self, batch: Batch) -> int:
        """Number of rows."""
        return batch["ids"].shape[0]


class NegativePreference(_RowTerm):
    """NPO: L = -(2/β) mean_rows log σ(-β (S - S_ref)), S = Σ_t log p(x_t | context) (Zhang et al. 2024, arXiv 2404.05868).

    At the base the gradient is that of ascent on S; it fades by 2σ(β (S - S_ref)) as a row is forgotten. A row's sums are over the same
    labelled tokens, and for masked models under the same masks, for model and base.

    Args:
        reference: context in which the model is its base.
        beta: inverse temperature β.
        weight: factor of the term.
        stream: stream of what is to be forgotten.
        per_token: S is the mean over a row's labelled tokens in place of the sum.
    """

    def __init__(
        self, reference: Reference, beta: float = 0.1, weight: float = 1.0, stream: str = "forget", *, per_token: bool = False
    ) -> None:
        super().__init__(weight, stream)
        self.reference, self.beta, self.per_token = reference, beta, per_token

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed over rows."""
        ratio = log_ratio(model, self.reference, batch)
        if self.per_token:
            ratio = ratio / row_labels(model, batch).clamp(min=1)
        return -2 / self.beta * logsigmoid(-self.beta * ratio).sum()


class SimpleNegativePreference(_RowTerm):
    """SimNPO: L = -(2/β) mean_rows log σ(-β (S / T + δ)), T tokens in the row, no base (Fan et al. 2024, arXiv 2410.07163).

    The paper writes a margin γ in place of βδ. T counts the tokens that are predicted.

    Args:
        beta: inverse temperature β.
        delta: margin δ, nats a token.
        weight: factor of the term.
        stream: stream of what is to be forgotten.
    """

    def __init__(self, beta: float = 4.5, delta: float = 0.0, weight: float = 1.0, stream: str = "forget") -> None:
        super().__init__(weight, stream)
        self.beta, self.delta = beta, delta

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed over rows."""
        with without_dropout(model):
            likelihood = row_log_probabilities(model, batch)
        mean = likelihood / row_labels(model, batch).clamp(min=1)
        return -2 / self.beta * logsigmoid(-self.beta * (mean + self.delta)).sum()


class DirectPreference(_RowTerm):
    """DPO: L = -mean_rows log σ(β [(S - S_ref)(counterpart) - (S - S_ref)(text)]) (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    Args:
        reference: context in which the model is its base.
        beta: inverse temperature β.
        weight: factor of the term.
        stream: stream of pairs; ``ids`` is the rejected text, ``other_ids`` the chosen one.
        scaling: ``trl``, the paper's; ``open-unlearning`` has another factor 2/β, as NPO has.
    """

    def __init__(
        self,
        reference: Reference,
        beta: float = 0.1,
        weight: float = 1.0,
        stream: str = "forget",
        *,
        scaling: Literal["trl", "open-unlearning"] = "trl",
    ) -> None:
        super().__init__(weight, stream)
        self.reference, self.beta = reference, beta
        self.factor = 1.0 if scaling == "trl" else 2 / beta

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed over pairs."""
        margin = log_ratio(model, self.reference, other_side(batch)) - log_ratio(model, self.reference, batch)
        return -self.factor * logsigmoid(self.beta * margin).sum()


def log_ratio(model: Model, reference: Reference, batch: Batch) -> Tensor:
    """S - S_ref of each row, nats, (batch,): how much likelier its labelled tokens are than under the base, gradient in S alone."""
    compute: Callable[[], Tensor] = lambda: row_log_probabilities(model, batch)  # noqa: E731
    base = at_base(model, reference, compute)
    with without_dropout(model):
        return compute() - base
