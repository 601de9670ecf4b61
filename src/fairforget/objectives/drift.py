"""Terms that hold a model near its base while it is tuned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairforget.models.hidden_sites import Layer, hidden_site, states_of
from fairforget.models.model import Model
from fairforget.objectives.likelihood import label_logits
from fairforget.training.objective import IGNORED, Batch, Objective, Role

Reference = Callable[[], AbstractContextManager[object]]
"""Gives a context in which the model computes what its base computes, e.g. with its adapters disabled."""


class KLToBase(Objective):
    """Forward divergence from the base, E_t T² KL(p_ref(. | context) || p(. | context)), over the predicted places of the stream.

    Limits drift under negation too: what is not learnt is not subtracted (Yao et al. 2023, arXiv 2310.10683, there averaged over padding
    as well; padding and unpredicted places are left out here). The reference's logits are computed batch by batch and not stored.

    At a temperature T both distributions are softmax(logits / T) and T² keeps the size of the gradient (Hinton et al. 2015, arXiv
    1503.02531, section 2). On the texts of the new task it is learning without forgetting (Li, Hoiem 2016, arXiv 1606.09282), with T = 2.

    Args:
        reference: context in which the model is its base.
        weight: factor of the term.
        stream: stream of text on which the model should stay as it is.
        temperature: T.
    """

    role: ClassVar[Role] = "regularize"

    def __init__(self, reference: Reference, weight: float = 1.0, stream: str = "retain", *, temperature: float = 1.0) -> None:
        super().__init__(weight, stream)
        self.reference, self.temperature = reference, temperature

    def count(self, batch: Batch) -> int:
        """Number of places that a prediction exists for."""
        return int((batch["labels"] != IGNORED).sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed divergence, nats times T²."""

        def log_probabilities() -> Tensor:
            return torch.log_softmax(label_logits(model, batch)[0] / self.temperature, dim=-1)

        base = at_base(model, self.reference, log_probabilities)
        return self.temperature**2 * kl_divergence(base, log_probabilities()).sum()


class HiddenMatch(Objective):
    """Mean over tokens of (1/d) ‖h(x) - h_ref(x)‖², d the width: the retain loss of RMU (Li et al. 2024, arXiv 2403.03218).

    Args:
        reference: context in which the model is its base.
        weight: factor of the term.
        stream: stream of text on which the states should stay as they are.
        layer: block whose output is meant, from 0; by default the states before the head.
    """

    role: ClassVar[Role] = "retain"

    def __init__(self, reference: Reference, weight: float = 1.0, stream: str = "retain", *, layer: Layer = "final") -> None:
        super().__init__(weight, stream)
        self.reference = reference
        self.layer: Layer = layer

    def count(self, batch: Batch) -> int:
        """Number of tokens, padding left out."""
        return int(batch["mask"].sum())

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed mean squared distance."""
        chosen = batch["mask"].bool()
        base = at_base(model, self.reference, lambda: layer_states(model, batch, self.layer)[chosen].float())
        return (layer_states(model, batch, self.layer)[chosen].float() - base).square().mean(dim=-1).sum()


def layer_states(model: Model, batch: Batch, layer: Layer) -> Tensor:
    """Hidden states behind a layer, (batch, length, width); ``final``: those before the head.

    Raises:
        UsageError: the model has no such layer.
    """
    if layer == "final":
        return model.hidden(batch["ids"], batch["mask"])
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        del module, arguments
        kept.append(states_of(output))

    handle = hidden_site(model, layer).register_forward_hook(keep)
    try:
        model.hidden(batch["ids"], batch["mask"])
    finally:
        handle.remove()
    return kept[0]


@torch.no_grad()
def at_base(model: Model, reference: Reference, compute: Callable[[], Tensor]) -> Tensor:
    """What the base computes: without gradient and without dropout, as it is audited."""
    training = model.hf.training
    with reference():
        model.hf.eval()
        found = compute()
        model.hf.train(training)
    return found


def kl_divergence(reference: Tensor, current: Tensor) -> Tensor:
    """KL(p_ref || p) per row of two tables of log-probabilities, (rows, vocabulary) to (rows,)."""
    return (reference.exp() * (reference - current)).sum(dim=-1)
