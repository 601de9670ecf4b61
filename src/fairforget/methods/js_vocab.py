"""Say of one group what is said of the other: a divergence of word predictions under a text and its counterfactual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from fairforget.data.catalogue import fetch
from fairforget.data.rows import read_text
from fairforget.data.words import find_word_list
from fairforget.methods._counterfactuals import find_swap, with_counterfactuals
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.models.model import Model
from fairforget.objectives.drift import Reference
from fairforget.objectives.fairness import VocabularyDivergence
from fairforget.objectives.swapped_places import SwappedPlaces, group_outcomes, word_outcomes
from fairforget.settings import Settings
from fairforget.training import Objective, Stream

STEREOTYPE_WORDS = ("word-lists", "context_debias/stereotype.txt")


class JsVocabSettings(TrainedSettings):
    """Settings of the divergence over a word set."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW; 5e-4 suits low-rank tuning (ours, as for task-vector)."""
    compare: Literal["group-words", "stereotype-words"] = "group-words"
    """The word set W and the places: `group-words`, the words of `words`, exchanged, where a group word stands (needs a list of two
    groups); `stereotype-words`, the 168 words of Kaneko and Bollegala 2021 (also Auto-Debias'), at the tokens that text and
    counterfactual share."""
    words: str = "gender"
    """What makes the counterfactual: `gender`, `race`, `religion`, `nationality`, or a file with rows of words."""
    names: bool = True
    """Whether the swap exchanges first names too."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "kl"
    """What holds the model on `retain_text`; the term itself says nothing of which text is likely, so `kl`, KL(base || tuned), by
    default (ours)."""


class JsVocab(TrainedMethod):
    """L = mean over places of JS(p_W(. | x), σ p_W(. | x_cf)), p_W renormalised over a word set, σ the exchange of the groups' words."""

    name: ClassVar[str] = "js-vocab"
    summary: ClassVar[str] = "Even out which words are predicted under a text and its counterfactual."
    source: ClassVar[str] = (
        "After Auto-Debias (Guo et al. 2022, ACL, eq. 2 and 3: JSD over stereotype words), on running text; in this form ours"
    )
    settings_class: ClassVar[type[Settings]] = JsVocabSettings
    settings: JsVocabSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Texts and their swaps.

        Raises:
            UsageError: no text has a listed word, or none at a place that can be compared.
        """
        settings = self.settings
        outcomes, _ = self.outcomes(job.model)
        swap = find_swap(settings.words, names=settings.names, exact=False, seed=job.seed)
        pairs, unmatched = with_counterfactuals(job.data, swap, "swap")
        stream = SwappedPlaces(
            job.model,
            pairs,
            [token for outcome in outcomes for token in outcome],
            places="group" if settings.compare == "group-words" else "other",
            max_length=settings.max_length,
            masking_rate=settings.masking_rate,
            seed=job.seed,
        )
        job.notes["counterfactuals"] = {"paired": len(stream), "unpaired": len(unmatched) + stream.left_out}
        job.notes["outcomes"] = len(outcomes)
        return {"forget": stream}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The divergence."""
        del reference
        return [VocabularyDivergence(*self.outcomes(job.model), stream="forget")]

    def outcomes(self, model: Model) -> tuple[list[list[int]], list[int]]:
        """Token ids of each word of W, and the exchange of the words.

        Raises:
            UsageError: too few words are one token, or the list has more than two groups.
        """
        if self.settings.compare == "group-words":
            return group_outcomes(model, find_word_list(self.settings.words))
        return word_outcomes(model, read_text(fetch(*STEREOTYPE_WORDS)).split())
