"""Representation misdirection: hidden states of what is to be forgotten are led to a random direction."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.hidden_sites import Layer
from fairforget.models.model import Model
from fairforget.objectives.drift import layer_states
from fairforget.objectives.likelihood import without_dropout
from fairforget.training.objective import IGNORED, Batch, Objective, Role


class Misdirection(Objective):
    """RMU's forget term, mean over tokens of (1/d) ‖h(x) - c·u‖² at one layer (Li et al. 2024, arXiv 2403.03218).

    u is a unit vector, its entries drawn once from U[0, 1) before it is normalised. A causal model's first token, which is the same for
    all texts, is left out: its states are not about the text.

    Args:
        layer: block whose output is led away, from 0, or ``final``.
        steering: c, length of the vector.
        seed: of u.
        weight: factor of the term.
        stream: stream of what is to be forgotten.
    """

    role: ClassVar[Role] = "forget"

    def __init__(self, layer: Layer, steering: float, *, seed: int = 0, weight: float = 1.0, stream: str = "forget") -> None:
        super().__init__(weight, stream)
        self.layer: Layer = layer
        self.steering, self.seed = steering, seed
        self.family = "causal"
        self.direction: Tensor | None = None

    def prepare(self, model: Model) -> None:
        """Draw the direction; the same one for a seed, so that a resumed run goes on with it."""
        self.family = model.family
        width = int(model.hf.config.get_text_config().hidden_size)
        drawn = torch.rand(width, generator=torch.Generator().manual_seed(self.seed))
        self.direction = (drawn / drawn.norm()).to(model.device)

    def chosen(self, batch: Batch) -> Tensor:
        """Places that are led away, bool (batch, length): what a causal model has labels for, all tokens of a masked one."""
        return batch["labels"] != IGNORED if self.family == "causal" else batch["mask"].bool()

    def count(self, batch: Batch) -> int:
        """Number of these places."""
        return int(self.chosen(batch).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed mean squared distance."""
        assert self.direction is not None, "prepare() comes first"
        with without_dropout(model):
            states = layer_states(model, batch, self.layer)[self.chosen(batch)].float()
        return (states - self.steering * self.direction).square().mean(dim=-1).sum()
