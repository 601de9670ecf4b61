"""Terms that change sides by domain: where a stereotype is no longer preferred, the counterpart is forgotten in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.objectives.likelihood import other_side, row_labels, row_log_probabilities
from fairforget.training.objective import IGNORED, Batch, Objective, Role
from fairforget.training.streams import Collator, PairStream, Row, TextStream

PAIRS_A_BATCH = 16


class DomainTurns:
    """Which domains are turned: their stereotype is preferred in fewer of their pairs than neutral.

    Preferred is the text with the higher mean log p of its labelled tokens.

    Args:
        domains: number of domains.
        pairs: pairs of each domain, by its number; a domain without any is never turned.
        neutral: percentage of pairs below which a domain is turned.
        most: pairs looked at in a domain, the first ones.
    """

    def __init__(self, domains: int, pairs: Mapping[int, PairStream], neutral: float, most: int = 128) -> None:
        self.pairs, self.neutral, self.most = dict(pairs), neutral, most
        self.turned = torch.zeros(domains, dtype=torch.bool)

    def look(self, model: Model) -> None:
        """Measure every domain on the model as it is now."""
        for domain, stream in self.pairs.items():
            self.turned[domain] = preferred_share(model, stream, self.most) < self.neutral


@torch.no_grad()
def preferred_share(model: Model, stream: PairStream, most: int) -> float:
    """Percentage of (at most so many) pairs whose text has a higher mean log p than its counterpart, without dropout."""
    collator, count = Collator(model.pad_id), min(most, len(stream))
    preferred, was_training = 0, model.hf.training
    model.hf.eval()
    try:
        for start in range(0, count, PAIRS_A_BATCH):
            rows = [stream.example(row, 0) for row in range(start, min(start + PAIRS_A_BATCH, count))]
            batch = {field: tensor.to(model.device) for field, tensor in collator.batch(rows).items()}
            first, second = (row_log_probabilities(model, side) / row_labels(model, side) for side in (batch, other_side(batch)))
            preferred += int((first > second).sum())
    finally:
        model.hf.train(was_training)
    return 100 * preferred / count


class Turned(Objective):
    """A term on one side of a stream of two sides, the other one in the domains that are turned.

    Args:
        inner: the term; its weight and stream are taken over.
        turns: shared by the terms of both sides.
        second: the term is on the second side, ``other_ids``, and in turned domains on the first.
    """

    role: ClassVar[Role] = "forget"

    def __init__(self, inner: Objective, turns: DomainTurns, *, second: bool = False) -> None:
        super().__init__(inner.weight, inner.stream)
        self.inner, self.turns, self.second = inner, turns, second

    @property
    def label(self) -> str:
        """As the term itself."""
        return self.inner.label

    def prepare(self, model: Model) -> None:
        """As the term itself."""
        self.inner.prepare(model)

    def begin_pass(self, model: Model, number: int) -> None:
        """Look which domains are turned; once for both sides."""
        if not self.second:
            self.turns.look(model)
        self.inner.begin_pass(model, number)

    def state(self) -> Mapping[str, Tensor]:
        """The domains that are turned."""
        return {} if self.second else {"turned": self.turns.turned}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back the domains that are turned."""
        if "turned" in state:
            self.turns.turned = state["turned"]

    def count(self, batch: Batch) -> int:
        """As the term itself, on the rows' sides."""
        return self.inner.count(self.side(batch))

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """As the term itself, on the rows' sides."""
        return self.inner.sum(model, self.side(batch))

    def side(self, batch: Batch) -> Batch:
        """The side of each row that the term is on, as a batch of its own."""
        turned = self.turns.turned.to(batch["domain"].device)[batch["domain"][:, 0]]
        take = (turned != self.second).unsqueeze(1)
        first, second = {field: tensor for field, tensor in batch.items() if f"other_{field}" in batch}, other_side(batch)
        width = max(first["ids"].shape[1], second["ids"].shape[1])
        return {field: torch.where(take, _widened(second[field], width, field), _widened(first[field], width, field)) for field in first}


def _widened(values: Tensor, width: int, field: str) -> Tensor:
    """A field padded on the right; ids there are masked out, so that any serves."""
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=IGNORED if field == "labels" else 0)


class SidesStream:
    """Rows of two texts that need not be alike: ``ids`` and ``labels``, ``other_ids`` and ``other_labels``, and ``domain``.

    Args:
        first: rows of the first side.
        second: rows of the second side, as many.
        domains: number of each row's domain.

    Raises:
        UsageError: a text was left out of one side, since it holds no token.
    """

    def __init__(self, first: TextStream, second: TextStream, domains: list[int]) -> None:
        if not len(first) == len(second) == len(domains):
            raise UsageError("A training text or its counterpart holds no token: leave out rows that are empty.")
        self.first, self.second, self.domains = first, second, domains

    def __len__(self) -> int:
        return len(self.domains)

    def example(self, index: int, visit: int) -> Row:
        """Both sides at their n-th visit, and the domain."""
        one, other = self.first.example(index, visit), self.second.example(index, visit)
        return {**one, **{f"other_{field}": values for field, values in other.items()}, "domain": [self.domains[index % len(self)]]}
