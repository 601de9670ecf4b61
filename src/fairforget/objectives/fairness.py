"""Terms that make a model as ready to say one side of a pair as the other, or one group's words as the other's."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.objectives.drift import kl_divergence
from fairforget.objectives.likelihood import label_logits, other_side, row_log_probabilities, without_dropout
from fairforget.training.objective import IGNORED, Batch, Objective, Role


def squared_gap(first: Tensor, second: Tensor) -> Tensor:
    """(log p_s - log p_a)², elementwise."""
    return (first - second).square()


def even_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence of π = softmax(log p_s, log p_a) from its mirror image, log 2 - H(π), elementwise, nats."""
    shares = torch.log_softmax(torch.stack([first, second]), dim=0)
    return math.log(2) + (shares.exp() * shares).sum(dim=0)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½ (p + q), per row of two tables of log-probabilities, (rows, outcomes) to (rows,); at most log 2."""
    middle = torch.logaddexp(first, second) - math.log(2)
    return 0.5 * (kl_divergence(first, middle) + kl_divergence(second, middle))


class _PairTerm(Objective):
    """A function of the two sides' log-probabilities, one unit a pair.

    The model's own dropout is off, since a difference of two noisy values would be punished for the noise.
    """

    role: ClassVar[Role] = "forget"

    def count(self, batch: Batch) -> int:
        """Number of pairs."""
        return len(batch["ids"])

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """The term summed over pairs."""
        with without_dropout(model):
            return self.of(row_log_probabilities(model, batch), row_log_probabilities(model, other_side(batch))).sum()

    @abstractmethod
    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """The term of each pair, from log p of the stereotype and of its counterpart, (pairs,)."""


class SquaredGap(_PairTerm):
    """Mean over pairs of (log p_s - log p_a)², the square of the margin that pair benchmarks measure."""

    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """Nats²."""
        return squared_gap(first, second)


class EvenDivergence(_PairTerm):
    """Mean over pairs of log 2 - H(π), π = softmax(log p_s, log p_a): 0 where both sides are equally likely, at most log 2.

    Bounded, and flat where one side is far ahead: pairs near even move most, those far from it hardly.
    """

    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """Nats."""
        return even_divergence(first, second)


class VocabularyDivergence(Objective):
    """Mean over places of JS(p_W(. | x), σ p_W(. | x_cf)): what is said of one group should be said of the other, as often.

    p_W is the prediction at a labelled place, restricted to the tokens of W and renormalised; forms of one word ("him" and "his", "he" and
    "He") are one outcome. σ exchanges the groups' words and leaves all others.

    Args:
        outcomes: token ids of each outcome; no id stands twice.
        exchange: number of the outcome that takes the place of each one; an involution.
        weight: factor of the term.
        stream: pairs of a text and its counterfactual, with equally many labelled places on both sides of a row.
    """

    role: ClassVar[Role] = "forget"

    def __init__(
        self, outcomes: Sequence[Sequence[int]], exchange: Sequence[int], weight: float = 1.0, stream: str | None = "forget"
    ) -> None:
        super().__init__(weight, stream)
        self.ids = torch.tensor([token for outcome in outcomes for token in outcome])
        self.outcome = torch.tensor([number for number, outcome in enumerate(outcomes) for _ in outcome])
        self.exchange = torch.tensor(list(exchange))

    def count(self, batch: Batch) -> int:
        """Number of labelled places on one side."""
        return int((batch["labels"] != IGNORED).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed divergence, nats."""
        with without_dropout(model):
            first, second = self.predictions(model, batch), self.predictions(model, other_side(batch))
        return jensen_shannon(first, second[:, self.exchange.to(second.device)]).sum()

    def predictions(self, model: Model, batch: Batch) -> Tensor:
        """Log p_W at the labelled places, (places, outcomes)."""
        logits = label_logits(model, batch)[0]
        shares = torch.softmax(logits[:, self.ids.to(logits.device)], dim=-1)
        summed = shares.new_zeros(len(shares), len(self.exchange)).index_add(1, self.outcome.to(shares.device), shares)
        return summed.clamp_min(1e-12).log()
