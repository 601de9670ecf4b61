"""Counterfactual data augmentation: go on with language modelling on texts and their counterfactuals."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from fairforget.errors import UsageError
from fairforget.methods._counterfactuals import Counterfactuals, find_swap, with_counterfactuals
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective, Stream


class CdaSettings(TrainedSettings):
    """Settings of counterfactual data augmentation."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW. 5e-4 suits low-rank tuning (ours, as for task-vector); Bias Bench tunes all weights with 5e-5."""
    sides: Literal["two", "one", "substitute", "control"] = "two"
    """What a text with a counterfactual is replaced by: `two`, both (½ [CE(x) + CE(x_cf)], Bias Bench); `one`, the counterfactual alone;
    `substitute`, the counterfactual with probability `swap_probability`, else the text (CDS, Hall Maudslay et al. 2019); `control`
    (`cda0`), the text twice: the same sentences without any swap, so that what the change of domain does can be told apart."""
    swap_probability: float = Field(0.5, ge=0, le=1)
    """With sides=substitute: how often a text gives way to its counterfactual (1/2 in CDS)."""
    counterfactuals: Counterfactuals = "auto"
    """Where x_cf comes from: `swap`, the words below exchanged (all papers); `source`, the counterpart that the source gives; `auto`, the
    source's where it gives one, else the swap (ours, so that domains without a word list can be augmented too)."""
    words: str = "gender"
    """What is exchanged: `gender`, `race`, `religion`, `nationality` (lists of this package), or a JSON or YAML file with rows of words,
    `FILE#KEY` for the rows under a key. With three or more groups every text draws a target for each group (Bias Bench)."""
    names: bool = True
    """Whether first names are exchanged with the gender words, one to one (Hall Maudslay et al. 2019). Bias Bench does not."""
    keep_unmatched: bool = False
    """Whether texts without a counterfactual are trained on as they are. Bias Bench leaves them out, and so trains on text that always
    names a group."""
    faithful: bool = False
    """Swap as Bias Bench's code does: exact words in small letters between white space, "her" always to "his", no names; set
    `words` to its list for its figures."""


class Cda(TrainedMethod):
    """Cross-entropy on x and x_cf: L = ½ [CE(x) + CE(x_cf)] over the tokens of both."""

    name: ClassVar[str] = "cda"
    summary: ClassVar[str] = "Go on with language modelling on texts and their counterfactuals."
    source: ClassVar[str] = (
        "Meade et al. 2022 (arXiv 2110.08527), section 3; Hall Maudslay et al. 2019 (arXiv 1909.00871), sections 3 and 4"
    )
    default_source: ClassVar[str] = "corpus"
    settings_class: ClassVar[type[Settings]] = CdaSettings
    settings: CdaSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The augmented texts.

        Raises:
            UsageError: no text has a counterfactual.
        """
        return {"forget": self.text_stream(job, self.augmented(job))}

    def augmented(self, job: Job) -> list[str]:
        """The texts to be trained on; says in the record how many were paired."""
        settings = self.settings
        if settings.faithful and settings.counterfactuals == "source":
            raise UsageError("faithful is about the swap of words: it does not go with counterfactuals=source.")
        swap = find_swap(settings.words, names=settings.names, exact=settings.faithful, seed=job.seed)
        pairs, unmatched = with_counterfactuals(job.data, swap, "swap" if settings.faithful else settings.counterfactuals)
        job.notes["counterfactuals"] = {"paired": len(pairs), "unpaired": len(unmatched), "unpaired_kept": settings.keep_unmatched}
        texts: list[str] = []
        for text, other in pairs:
            if settings.sides == "substitute":
                drawn = random.Random(f"{job.seed} substitute {text}").random() < settings.swap_probability
                texts.append(other if drawn else text)
            else:
                texts += {"two": [other, text], "one": [other], "control": [text, text]}[settings.sides]
        return [*texts, *(unmatched if settings.keep_unmatched else [])]

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Likelihood of the augmented texts."""
        del job, reference
        return [CrossEntropy(stream="forget")]
