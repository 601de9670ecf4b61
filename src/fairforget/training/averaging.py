"""The exponential moving average of the weights over a training, which is what the edit is made from."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ParameterAverage(TrainerCallback):
    """The bias-corrected average of the weights after each step: θ̄_t = Σ_i (1 - d) d^(t-i) θ_i / (1 - d^t), i = 1 … t.

    The weights before the first step have no part in it. An average that starts at them is θ₀ + (1 - d^t) (θ̄_t - θ₀), so that of an
    edit of whole weights it is the same change at a lower strength, and one that would hardly move in a short run.

    Args:
        parameters: what is averaged, by name.
        decay: d, from 0 (the last weights) to below 1 (all weights alike).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = dict(parameters), decay
        self.values = {name: parameter.detach().to(torch.float32, copy=True) for name, parameter in parameters.items()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Take the new weights in; before a monitor looks and before a checkpoint is written."""
        self.update(state.global_step)

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take the present weights in as those after so many steps, from 1."""
        share = (1 - self.decay) / (1 - self.decay**steps)
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter.float(), share)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take back what a checkpoint kept of :attr:`values`."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def put_on(self) -> None:
        """Make the average the weights."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.values[name])

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """The average is in the place of the weights while the block runs."""
        trained = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.values[name].to(parameter.dtype)
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = trained[name]
            torch.clear_autocast_cache()
