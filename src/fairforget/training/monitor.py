"""Guards that watch a training run and can stop it; a workflow hands them in, a method never calls an audit."""

from __future__ import annotations

import math
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fairforget.errors import FairforgetError
from fairforget.models.model import Model
from fairforget.progress import Advance


class Monitor(Protocol):
    """Looks at a model in training now and then; it may see the ``select`` part only."""

    every: int
    """Optimiser steps between two looks."""

    def look(self, model: Model, step: int) -> str | None:
        """Return why training should stop now, or None."""
        ...


class MonitorCallback(TrainerCallback):
    """Lets a monitor stop the Trainer, and keeps the reason.

    Args:
        monitor: the monitor.
        model: the model in training.
    """

    def __init__(self, monitor: Monitor, model: Model) -> None:
        self.monitor, self.model = monitor, model
        self.reason: str | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Ask the monitor when it is due."""
        if state.global_step % self.monitor.every == 0:
            was_training = self.model.hf.training
            self.model.hf.eval()
            self.reason = self.monitor.look(self.model, state.global_step)
            self.model.hf.train(was_training)
            control.should_training_stop = control.should_training_stop or self.reason is not None


class ProgressCallback(TrainerCallback):
    """Advances the one progress display by a step.

    Args:
        advance: function of the running task.
    """

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.done = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Advance by the steps since the last call; a resumed run starts where it was."""
        self.advance(state.global_step - self.done)
        self.done = state.global_step


class FiniteLoss(TrainerCallback):
    """Stops a run whose loss is no longer a number."""

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Check every logged loss.

        Raises:
            FairforgetError: the loss is infinite or not a number.
        """
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise FairforgetError(
                    f"Training diverged: the {name.replace('_', ' ')} is {value} at step {state.global_step}. Lower method.learning_rate; "
                    "the base model is unchanged and the last checkpoint is kept."
                )
