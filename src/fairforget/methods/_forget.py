"""What the methods that unlearn by a loss on the text to be forgotten have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.methods._base import texts_of
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.settings import Settings
from fairforget.training import Stream

FORGET = "forget"


class ForgetSettings(TrainedSettings):
    """Settings of the methods that unlearn by a loss."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW; 5e-4 suits low-rank tuning (ours, as for task-vector). Full tuning wants 1e-5 (open-unlearning) to 5e-5
    (Jang et al. 2023, gradient ascent): every weight moves at once, while the factors of a LoRA start at no change."""
    forget_weight: float = Field(1.0, gt=0)
    """Weight of the forget term; `retain_weight` is that of the retain term."""


class ForgetMethod(TrainedMethod):
    """A method whose leading stream is the training texts, to be forgotten."""

    settings_class: ClassVar[type[Settings]] = ForgetSettings
    forgets_texts: ClassVar[bool] = True

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The training texts as ``forget``."""
        return {FORGET: self.text_stream(job, texts_of(job.data))}
