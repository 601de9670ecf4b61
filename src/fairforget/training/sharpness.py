"""Sharpness-aware minimisation: a step's gradient is taken where the loss is highest nearby, so that flat minima are sought."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Perturbation:
    """SAM's step from the weights θ to θ + ε, and the way back to the last bit.

    ε = ρ g / ‖g‖ (Foret et al. 2021, arXiv 2010.01412, eq. 2), the norm over all parameters together. Adaptive (ASAM, Kwon et al. 2021,
    arXiv 2102.11600): ε = ρ |θ|² g / ‖|θ| g‖, which does not change when weights are rescaled; a weight of 0 stays where it is.

    Args:
        radius: ρ.
        adaptive: scale the step by the weights.
    """

    def __init__(self, radius: float, *, adaptive: bool = False) -> None:
        self.radius, self.adaptive = radius, adaptive
        self._kept: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def put_on(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move every parameter that has a gradient to θ + ε, and clear the gradient."""
        moved = [(parameter, parameter.grad.float()) for parameter in parameters if parameter.grad is not None]
        if not moved:
            return
        scaled = [gradient * parameter.float().abs() if self.adaptive else gradient for parameter, gradient in moved]
        norm = torch.stack([part.norm().to(scaled[0].device) for part in scaled]).norm()
        factor = self.radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # no gradient at all: no step
        for (parameter, _), part in zip(moved, scaled, strict=True):
            self._kept.append((parameter, parameter.detach().clone()))
            step = part * parameter.float().abs() if self.adaptive else part
            parameter.add_((step * factor.to(step.device)).to(parameter.dtype))
            parameter.grad = None
        torch.clear_autocast_cache()  # autocast would go on with the rounded weights from before

    @torch.no_grad()
    def take_off(self) -> None:
        """Copy the weights back; subtracting the step again would leave its rounding behind."""
        for parameter, before in self._kept:
            parameter.copy_(before)
        self._kept.clear()
        torch.clear_autocast_cache()


class SharpnessCallback(TrainerCallback):
    """Puts SAM's step on before the gradients of an optimiser step are taken, and off before the optimiser moves the weights.

    Args:
        ascend: takes the step's own gradient and puts the perturbation on.
        perturbation: what is put on.
    """

    def __init__(self, ascend: Callable[[], None], perturbation: Perturbation) -> None:
        self.ascend, self.perturbation = ascend, perturbation

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Before the first micro-batch."""
        self.ascend()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any  # noqa: ARG002
    ) -> None:
        """After gradients were clipped."""
        self.perturbation.take_off()
