"""Terms that pull the states of stereotype words away from what tells groups apart: the groups' mean states, and what is done with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.objectives.drift import Reference, at_base
from fairforget.objectives.fairness import jensen_shannon
from fairforget.progress import task
from fairforget.training.objective import IGNORED, Batch, Objective, Role
from fairforget.training.streams import Collator, Stream

BATCH_ROWS = 32


def marked_means(states: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled places of each row: (layers, rows, length, width) and (rows, length) to (layers, rows, width)."""
    weights = (labels != IGNORED).to(states.dtype)
    return torch.einsum("lrtd,rt->lrd", states, weights) / weights.sum(dim=1).clamp(min=1)[:, None]


@torch.no_grad()
def group_means(model: Model, streams: Sequence[Stream]) -> Tensor:
    """Mean state of each group's words at every depth, float32 (groups, layers + 1, width): a row's words are averaged first."""
    collator, found = Collator(model.pad_id), list[Tensor]()
    with task("mean states of the groups' words", sum(len(stream) for stream in streams)) as advance:
        for stream in streams:
            total: Tensor | None = None
            for start in range(0, len(stream), BATCH_ROWS):
                rows = [stream.example(row, 0) for row in range(start, min(start + BATCH_ROWS, len(stream)))]
                batch = {name: tensor.to(model.device) for name, tensor in collator.batch(rows).items()}
                means = marked_means(model.hidden_layers(batch["ids"], batch["mask"]).float(), batch["labels"]).sum(dim=1)
                total = means if total is None else total + means
                advance(len(rows))
            assert total is not None
            found.append(total / len(stream))
    return torch.stack(found)


class _Prototyped(Objective):
    """A term that looks at the groups' mean states, computed anew before every pass without gradient.

    Args:
        groups: rows of each group, its words labelled.
        weight: factor of the term.
        stream: rows with stereotype words, these labelled.
    """

    role: ClassVar[Role] = "forget"

    def __init__(self, groups: Sequence[Stream], weight: float = 1.0, stream: str = "neutral") -> None:
        super().__init__(weight, stream)
        self.groups = list(groups)
        self.means = torch.empty(0)

    def begin_pass(self, model: Model, number: int) -> None:
        """Compute the groups' mean states."""
        del number
        self.means = group_means(model, self.groups)

    def state(self) -> Mapping[str, Tensor]:
        """The mean states."""
        return {"means": self.means}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the mean states back."""
        self.means = state["means"]

    def words(self, model: Model, batch: Batch) -> Tensor:
        """States of each row's stereotype words, averaged, (layers + 1, rows, width)."""
        self.means = self.means.to(model.device)
        return marked_means(model.hidden_layers(batch["ids"], batch["mask"]).float(), batch["labels"])


class OrthogonalWords(_Prototyped):
    """Mean over rows of Σ_g mean over depths of ⟨v_g, h⟩²: stereotype words at right angles to the groups' mean states.

    Context-Debias (Kaneko, Bollegala 2021, arXiv 2101.09523, eq. 1). Their released code squares the mean over rows and depths instead,
    Σ_g (mean ⟨v_g, h⟩)², which opposite signs cancel in: `square_of_mean`.
    """

    def __init__(
        self, groups: Sequence[Stream], weight: float = 1.0, stream: str = "neutral", *, square_of_mean: bool = False
    ) -> None:
        super().__init__(groups, weight, stream)
        self.square_of_mean = self.in_batch = square_of_mean

    def count(self, batch: Batch) -> int:
        """Number of rows."""
        return len(batch["ids"])

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed over rows; with `square_of_mean` the batch's value times its rows."""
        products = torch.einsum("gld,lrd->glr", self.means, self.words(model, batch))
        if self.square_of_mean:
            return products.mean(dim=(1, 2)).square().sum() * len(batch["ids"])
        return products.square().mean(dim=1).sum()


class EvenDistances(_Prototyped):
    """Mean over pairs of groups of JS(p_i ‖ p_j) in bits, p_i = softmax over the batch's rows of -‖v_i - h‖² / (2ρ²).

    ADEPT (Yang et al. 2023, arXiv 2211.05414, eq. 2 to 4): stereotype words should be as near to one group's words as to the other's. Its
    rows are compared with each other, hence one batch a step. All depths count as one long vector.

    Args:
        radius: ρ.
    """

    in_batch = True

    def __init__(self, groups: Sequence[Stream], weight: float = 1.0, stream: str = "neutral", *, radius: float = 15.0) -> None:
        super().__init__(groups, weight, stream)
        self.radius = radius

    def count(self, batch: Batch) -> int:
        """One: the batch is the unit."""
        del batch
        return 1

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """The divergence, bits."""
        distances = (self.means.unsqueeze(2) - self.words(model, batch).unsqueeze(0)).square().sum(dim=(1, 3))
        shares = torch.log_softmax(-distances / (2 * self.radius**2), dim=1)
        pairs = [(first, second) for first in range(len(shares)) for second in range(first)]
        found = [jensen_shannon(shares[first : first + 1], shares[second : second + 1]).sum() for first, second in pairs]
        return torch.stack(found).mean() / math.log(2)


class LayersMatch(Objective):
    """Mean over tokens, depths and units of (h - h_base)²: everything else is to stay as it is.

    Context-Debias (eq. 3) and ADEPT (its β term) on the sentences of the groups' words. Padding is left out; the released codes average
    over it as well.

    Args:
        reference: context in which the model is its base.
        weight: factor of the term.
        stream: sentences.
    """

    role: ClassVar[Role] = "retain"

    def __init__(self, reference: Reference, weight: float = 1.0, stream: str = "attribute") -> None:
        super().__init__(weight, stream)
        self.reference = reference

    def count(self, batch: Batch) -> int:
        """Number of tokens."""
        return int(batch["mask"].sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed mean square over depths and units."""
        chosen = batch["mask"].bool()

        def states() -> Tensor:
            return model.hidden_layers(batch["ids"], batch["mask"]).float()[:, chosen]

        base = at_base(model, self.reference, states)
        return (states() - base).square().mean(dim=(0, 2)).sum()


class OrthogonalToDirection(Objective):
    """Mean over stereotype words of |⟨h, g⟩|, h their last state and g a unit vector from female to male words (BERT-ASE, WSDM 2023).

    g = Σ h(male words) - Σ h(female words), normalised, each list read as one text by the base; computed once and held.

    Args:
        male: male words.
        female: female words, as many.
        weight: factor of the term.
        stream: rows with stereotype words, these labelled.
    """

    role: ClassVar[Role] = "forget"

    def __init__(self, male: Sequence[str], female: Sequence[str], weight: float = 1.0, stream: str = "neutral") -> None:
        super().__init__(weight, stream)
        self.lists = tuple(male), tuple(female)
        self.direction = torch.empty(0)

    @torch.no_grad()
    def prepare(self, model: Model) -> None:
        """Find the direction in the base."""
        was_training = model.hf.training
        model.hf.eval()
        sums = [self._summed(model, words) for words in self.lists]
        model.hf.train(was_training)
        self.direction = torch.nn.functional.normalize(sums[0] - sums[1], dim=0)

    def count(self, batch: Batch) -> int:
        """Number of labelled tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed absolute products."""
        states = model.hidden(batch["ids"], batch["mask"])[batch["labels"] != IGNORED].float()
        return (states @ self.direction).abs().sum()

    def _summed(self, model: Model, words: Sequence[str]) -> Tensor:
        ids = model.sequence_ids(" ".join(words))
        room = model.max_length
        total: Tensor | None = None
        for start in range(0, len(ids), room):  # a list longer than the model's positions is read in stretches
            piece = torch.tensor([ids[start : start + room]], device=model.device)
            states = model.hidden(piece, torch.ones_like(piece))[0].float().sum(dim=0)
            total = states if total is None else total + states
        assert total is not None
        return total / len(words)
