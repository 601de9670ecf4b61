"""Count, sum and spread of the states of each class, in one pass over batches of any size and order, on one process or several."""

from __future__ import annotations

import torch
from torch import Tensor


class ClassMoments:
    """Running moments of K classes in float64: K x d numbers whatever was seen.

    The spread is kept as Σ ‖h - μ‖² and merged by Chan, Golub and LeVeque's update, so that it does not lose digits where the means are
    large against it, as Σ ‖h‖² / n - ‖μ‖² would.

    Args:
        classes: K.
        width: d.
        device: where they are kept; float64 must be known there.

    Attributes:
        counts: int64 (K,), states of each class.
        sums: float64 (K, d).
        scatter: float64 (K,), summed squared distance from the class mean.
    """

    def __init__(self, classes: int, width: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(classes, dtype=torch.int64, device=device)
        self.sums = torch.zeros((classes, width), dtype=torch.float64, device=device)
        self.scatter = torch.zeros(classes, dtype=torch.float64, device=device)

    def add(self, states: Tensor, classes: Tensor) -> None:
        """Add states (n, d) of the classes (n,)."""
        if not len(classes):
            return
        place = self.counts.device
        states, classes = states.detach().to(place).double(), classes.to(place)
        order = classes.argsort(stable=True)
        states = states[order]
        present, counts = torch.unique_consecutive(classes[order], return_counts=True)
        # states of a class lie side by side now: several times as fast as index_add, row by row
        sums = torch.segment_reduce(states, "sum", lengths=counts, axis=0)
        away = states - (sums / counts.unsqueeze(1)).repeat_interleave(counts, dim=0)
        distances = torch.linalg.vecdot(away, away)
        self._fold(present, counts, sums, torch.segment_reduce(distances, "sum", lengths=counts, axis=0))

    def merge(self, other: ClassMoments) -> None:
        """Add what another one has seen of the same classes."""
        seen = other.counts.nonzero()[:, 0]
        self._fold(seen, other.counts[seen], other.sums[seen], other.scatter[seen])

    def reduce(self) -> None:
        """Add up over the processes of the running group; each must call it."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        own_counts, own_means = self.counts.clone(), self.means
        distributed.all_reduce(self.counts)
        distributed.all_reduce(self.sums)
        # about the common mean, so that spreads just add up
        self.scatter += own_counts * (own_means - self.means).square().sum(dim=1)
        distributed.all_reduce(self.scatter)

    @property
    def means(self) -> Tensor:
        """Float64 (K, d); zeros where nothing was seen."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    @property
    def variances(self) -> Tensor:
        """Float64 (K,): mean squared distance from the class mean (population form, a trace); 0 where nothing was seen."""
        return self.scatter / self.counts.clamp(min=1)

    def _fold(self, present: Tensor, counts: Tensor, sums: Tensor, scatter: Tensor) -> None:
        before = self.counts[present]
        shift = sums / counts.unsqueeze(1) - self.sums[present] / before.clamp(min=1).unsqueeze(1)
        total = before + counts
        self.scatter[present] += scatter + (before * counts).double() / total * shift.square().sum(dim=1)
        self.sums[present] += sums
        self.counts[present] = total
