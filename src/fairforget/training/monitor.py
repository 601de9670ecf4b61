"""Guards that watch a training run and can stop it; a workflow hands them in, a method never calls an audit."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fairforget.models.model import Model
from fairforget.progress import Advance
from fairforget.training.objective import Objective


class Monitor(Protocol):
    """Looks at a model in training now and then; it may see the ``select`` part only."""

    looks: int
    """How often it looks, spread evenly over the run; never at the end, where the edit is measured anyway."""

    def look(self, model: Model, step: int) -> str | None:
        """Return why training should stop now, or None."""
        ...


class StopCondition(ABC):
    """A monitor of a method's own, beside the one that a workflow hands in: that one is asked before, and says how often to look.

    Args:
        inner: the other monitor; one that never looks counts as none.
    """

    LOOKS: ClassVar[int] = 10
    """Looks at a run where no other monitor says how many."""

    def __init__(self, inner: Monitor | None = None) -> None:
        self.inner = inner if inner is not None and inner.looks else None
        self.looks = self.inner.looks if self.inner is not None else self.LOOKS

    def look(self, model: Model, step: int) -> str | None:
        """Why training should stop now, by the other monitor or by this condition; None when it should not."""
        return (self.inner.look(model, step) if self.inner is not None else None) or self.reached(model, step)

    @abstractmethod
    def reached(self, model: Model, step: int) -> str | None:
        """What holds now that ends the training, or None."""


class MonitorCallback(TrainerCallback):
    """Lets a monitor stop the Trainer, and keeps the reason.

    Args:
        monitor: the monitor.
        model: the model in training.
        shown: a context in which the model has the weights that it would end with; those in training by default.
    """

    def __init__(
        self, monitor: Monitor, model: Model, shown: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    ) -> None:
        self.monitor, self.model, self.shown = monitor, model, shown
        self.reason: str | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Ask the monitor when it is due."""
        every = -(-state.max_steps // (self.monitor.looks + 1))
        if self.monitor.looks and state.global_step % every == 0 and state.global_step < state.max_steps:
            was_training = self.model.hf.training
            self.model.hf.eval()
            with self.shown():
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


class PassCallback(TrainerCallback):
    """Tells the terms of a loss when the leading stream is gone through again.

    Args:
        model: the model in training.
        objectives: terms of the loss.
        steps: optimiser steps of one pass.
    """

    def __init__(self, model: Model, objectives: Sequence[Objective], steps: float) -> None:
        self.model, self.objectives, self.steps = model, objectives, steps

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Before the first step of every pass but the first; a run resumed within one got the terms' state from its checkpoint."""
        number = int(state.global_step / self.steps)
        if state.global_step and number > int((state.global_step - 1) / self.steps):
            was_training = self.model.hf.training
            self.model.hf.eval()
            for objective in self.objectives:
                objective.begin_pass(self.model, number)
            self.model.hf.train(was_training)


class FiniteLoss(TrainerCallback):
    """Stops a run whose loss is no longer a number, before it is saved; the last of the callbacks."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Have the last steps logged too, however many there are: the Trainer saves what it ends with, in place of the last good state."""
        control.should_log = control.should_log or control.should_training_stop or state.global_step >= state.max_steps

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Check every logged loss and gradient norm."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value) and self.reason is None:
                self.reason = f"the {name.replace('_', ' ')} is {value} at step {state.global_step}"
                control.should_training_stop, control.should_save = True, False
