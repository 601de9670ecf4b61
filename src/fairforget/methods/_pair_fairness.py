"""What the methods have in common that even out the two sides of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from fairforget.errors import UsageError
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings, pairs_of
from fairforget.settings import Settings
from fairforget.training import Stream


class PairFairnessSettings(TrainedSettings):
    """Settings of the methods on pairs."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW; 5e-4 suits low-rank tuning (ours, as for task-vector)."""
    scope: Literal["auto", "answer", "sentence"] = "auto"
    """Which tokens' log-probabilities are evened out: the `answer`, the tokens in which the two differ (masked models: all of them masked),
    or the `sentence`, the sum that pair benchmarks compare (causal: all tokens; masked: a share `masking_rate` of the shared ones at each
    visit). `auto` is the answer for masked and the sentence for causal models (ours)."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "kl"
    """What holds the model on `retain_text`; the term itself says nothing of which text is likely, so `kl`, KL(base || tuned), by
    default (ours)."""


class PairFairness(TrainedMethod):
    """A term over the two sides of stereotype pairs."""

    settings_class: ClassVar[type[Settings]] = PairFairnessSettings
    settings: PairFairnessSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The pairs.

        Raises:
            UsageError: the training data give no counterparts.
        """
        if not pairs_of(job.data):
            raise UsageError(
                f"The method {self.name} needs pairs of a stereotype and its counterpart, and the training data give none: train on "
                "starter, stereoset, or a file with a `counterpart` column."
            )
        auto = "answer" if job.model.family == "masked" else "sentence"
        return {"forget": self.pair_stream(job, auto if self.settings.scope == "auto" else self.settings.scope)}
