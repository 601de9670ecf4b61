"""Fine-tune on the anti-stereotypes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from fairforget.methods._counterfactuals import Counterfactuals, find_swap, with_counterfactuals
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective, PairStream, Stream


class AntiSettings(TrainedSettings):
    """Settings of the fine-tuning on anti-stereotypes."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW; 5e-4 suits low-rank tuning (ours, as for task-vector)."""
    scope: Literal["sentence", "answer"] = "sentence"
    """What of an anti-stereotype is learnt: the whole `sentence`, or the `answer`, the tokens in which it differs from the stereotype."""
    counterfactuals: Counterfactuals = "auto"
    """What the anti-stereotype of a text is: `source`, the counterpart that the source gives; `swap`, its `words` exchanged; `auto`, the
    source's where it gives one, else the swap."""
    words: str = "gender"
    """What a swap exchanges: `gender`, `race`, `religion`, `nationality`, or a file with rows of words."""
    names: bool = True
    """Whether a swap exchanges first names too."""


class Anti(TrainedMethod):
    """L = CE(x_anti), the cross-entropy of the anti-stereotypes; stereotypes are not looked at."""

    name: ClassVar[str] = "anti"
    summary: ClassVar[str] = "Fine-tune on the anti-stereotypes alone."
    source: ClassVar[str] = (
        "One-sided augmentation; by secondhand accounts the alignment of Liu et al. 2025 (arXiv 2509.21456), which could not be read"
    )
    settings_class: ClassVar[type[Settings]] = AntiSettings
    settings: AntiSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The anti-stereotypes.

        Raises:
            UsageError: no text has one.
        """
        settings = self.settings
        swap = find_swap(settings.words, names=settings.names, exact=False, seed=job.seed)
        pairs, unmatched = with_counterfactuals(job.data, swap, settings.counterfactuals)
        job.notes["counterfactuals"] = {"paired": len(pairs), "unpaired": len(unmatched)}
        if settings.scope == "sentence":
            return {"forget": self.text_stream(job, [other for _, other in pairs])}
        return {"forget": PairStream(job.model, [(other, text) for text, other in pairs], max_length=settings.max_length, seed=job.seed)}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Likelihood of the anti-stereotypes."""
        del job, reference
        return [CrossEntropy(stream="forget")]
