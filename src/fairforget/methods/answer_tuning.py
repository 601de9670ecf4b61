"""Tuning on the questions of a task, the loss on the answers alone: what a stage of a chain teaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.errors import UsageError
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import AnswerStream, Objective, Stream


class AnswerTuningSettings(TrainedSettings):
    """Settings of tuning on answers."""

    learning_rate: float = Field(2e-4, gt=0, le=1)
    """Peak learning rate of AdamW. 2e-4 suits low-rank tuning; for `tuning=full` take 5e-6 to 5e-5."""
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the questions. `steps` overrides it."""
    batch_size: int = Field(32, ge=1)
    """Questions in an optimiser step."""
    warmup_share: float = Field(0.03, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    max_length: int = Field(512, ge=2)
    """Questions with more tokens are left out."""


class AnswerTuning(TrainedMethod):
    """Cross-entropy of the answer given its question: L = -Σ log p(answer token | prompt, answer before it) / number of answer tokens."""

    name: ClassVar[str] = "answer-tuning"
    summary: ClassVar[str] = "Tune on the questions of a task, the loss on the answers alone; the stage of a chain."
    source: ClassVar[str] = "Ung et al. 2024 (arXiv 2412.16469): all tasks cast as question answering; the loss on the answer is ours"
    default_source: ClassVar[str] = "qa:bbq"
    guarded: ClassVar[bool] = False
    settings_class: ClassVar[type[Settings]] = AnswerTuningSettings
    settings: AnswerTuningSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The questions with their answers.

        Raises:
            UsageError: the training data have no questions.
        """
        rows = job.data.texts if isinstance(job.data, TrainingSource) else job.data
        asked = [(row.prompt, row.text) for row in rows if isinstance(row, TrainingText) and row.prompt]
        if not asked:
            raise UsageError(
                "answer-tuning learns answers to questions, and the training data have none: use train.source=qa:TASK, or a file with a "
                "column for the role `prompt` beside `text`."
            )
        stream = AnswerStream(job.model, asked, max_length=self.settings.max_length)
        job.notes["questions"] = {"used": len(stream), "left_out": stream.left_out}
        return {"answers": stream}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Likelihood of the answers."""
        del job, reference
        return [CrossEntropy(stream="answers")]
