"""StereoSet (Nadeem et al. 2021): a stereotype, an anti-stereotype and an unrelated text in one context."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._metrics import ICAT, LMS, MARGIN, PCT_STEREOTYPE, SS
from fairforget.benchmarks._sentences import masked_requests, plan_texts, scored, sentence_requests
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest, Request
from fairforget.settings import Settings
from fairforget.tables import TIE_NATS, preference

if TYPE_CHECKING:
    from fairforget.models.model import Model

INTRASENTENCE, INTERSENTENCE = "stereoset-intrasentence", "stereoset-intersentence"
BLANK = "BLANK"


class StereoSetSettings(SubsetSettings):
    """Which task of StereoSet is scored and how."""

    task: Literal["both", "intrasentence", "intersentence"] = "both"
    """`intrasentence` = a word in a sentence; `intersentence` = a sentence after a context sentence."""
    split_first: bool = False
    """Causal intrasentence only: the first token after the prefix, the others in a pass without it, as the authors and bias-bench do."""
    tie: float = Field(default=TIE_NATS, ge=0)
    """Score differences (nats) under this are ties, which count against `ss` and `lms`; 0 compares exactly."""


class StereoSet(Benchmark):
    """LMS, SS and ICAT as means over target terms, by task, by domain and over both tasks.

    How the score of a text is made, all in nats:

    - causal, intrasentence (``sentence-mean``): mean log-probability per token of the sentence after the prefix token (the logarithm of the
      authors' geometric mean).
    - causal, intersentence (``continuation-mean``): mean log-probability per token of the candidate sentence given prefix and context. The
      authors' published figures come from a trained next-sentence head instead and are another metric.
    - masked, intrasentence (``fill-probability``): the candidate word's pieces are predicted left to right in the blank, earlier pieces
      filled in, one mask, later pieces absent; the score is the logarithm of the mean of the piece *probabilities*. Pieces are those of the
      word in its sentence, so byte-level tokenizers keep the leading space that the authors' code loses.
    - masked, intersentence (``continuation-pll``): mean log-probability of the candidate's tokens, masked one at a time, in one input with
      the context (pseudo-log-likelihood, Salazar et al. 2020). Masked checkpoints come without the trained next-sentence head behind the
      authors' figures, so this is our protocol and not comparable with theirs.

    The margin is score(stereotype) - score(anti-stereotype); ``correct`` is the share of the two related texts that beat the unrelated one.
    """

    name = "stereoset"
    description = "StereoSet (Nadeem et al. 2021): stereotype, anti-stereotype or unrelated text in context; LMS, SS and ICAT."
    Settings: ClassVar[type[Settings]] = StereoSetSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "intrasentence": {"task": "intrasentence"},
        "intersentence": {"task": "intersentence"},
        "bias-bench": {"task": "intrasentence", "split_first": True, "tie": 0.0},
    }
    datasets = ("stereoset",)
    pooled = "stereoset"

    def items(self, family: str, part: str) -> list[Item]:
        """Examples of one part, cut by target term for both tasks at once."""
        del family
        from fairforget.data.stereoset import load_stereoset

        wanted = {"both": ("intrasentence", "intersentence")}.get(self.settings.task, (self.settings.task,))
        return [
            Item(
                id=example.id,
                task=f"stereoset-{example.task}",
                role="bias",
                part=part,
                cluster=example.target,
                stratum=example.stratum,
                groups=(example.bias_type,),
                texts=(example.stereotype.text, example.anti_stereotype.text, example.unrelated.text),
                payload={"context": example.context},
            )
            for example in load_stereoset()
            if example.task in wanted and part in ("all", example.part)
        ]

    def protocol(self, item: Item, family: str) -> str:
        """``sentence-mean``, ``continuation-mean``, ``fill-probability`` or ``continuation-pll``."""
        if item.task == INTERSENTENCE:
            return "continuation-mean" if family == "causal" else "continuation-pll"
        if family == "masked":
            return "fill-probability"
        return "sentence-mean, first token apart" if self.settings.split_first else "sentence-mean"

    def sentences(self, item: Item) -> tuple[str, str] | None:
        """Both sentences; a continuation after its context."""
        before = f"{item.payload['context']} " if item.task == "stereoset-intersentence" else ""
        return before + item.texts[0], before + item.texts[1]

    def plan(self, item: Item, model: Model) -> Plan:
        """Requests of the three texts, most stereotypical first."""
        context = item.payload["context"]
        if item.task == INTERSENTENCE:
            make = self._continuation if model.family == "causal" else self._masked_continuation
            texts = tuple(make(model, context, text) for text in item.texts)
        elif model.family == "causal":
            texts = tuple(sentence_requests(model, model.token_ids(text), split_first=self.settings.split_first) for text in item.texts)
        elif context.count(BLANK) != 1:
            return Plan(skipped="context without exactly one blank")
        else:
            texts = tuple(self._fill(model, context, text) for text in item.texts)
        return plan_texts(model, texts, empty="a text without tokens to score")

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Scores of the three texts and what they prefer."""
        values = [scored(text) for text in scores]
        if any(not len(text) for text in values):
            return {"skipped": "no token can be scored without a prefix"}
        probabilities = item.task == INTRASENTENCE and model.family == "masked"
        figures = [_log_mean_probability(text) if probabilities else float(text.mean()) for text in values]
        likelihood = {"nll": -float(sum(text.sum() for text in values)), "tokens": sum(len(text) for text in values)}
        return compare(figures, self.settings.tie) | likelihood

    def metrics(self) -> list[MetricDefinition]:
        """SS, LMS and ICAT over target terms; share and mean margin over items."""
        return [SS, LMS, ICAT, PCT_STEREOTYPE, MARGIN]

    @staticmethod
    def _continuation(model: Model, context: str, text: str) -> tuple[Request, ...]:
        before, after = model.join_ids(context, " " + text)
        return (ContinuationRequest((*model.prefix, *before), tuple(after)),) if after else ()

    @staticmethod
    def _masked_continuation(model: Model, context: str, text: str) -> tuple[Request, ...]:
        start, end = model.enclosing_ids()
        before, after = model.join_ids(context, " " + text)
        first = len(start) + len(before)
        return masked_requests(model, (*start, *before, *after, *end), range(first, first + len(after)))

    @staticmethod
    def _fill(model: Model, context: str, text: str) -> tuple[Request, ...]:
        left, right = context.split(BLANK)
        start, end = model.enclosing_ids()
        word = candidate_word(context, text)
        before, pieces = model.join_ids(left, word)
        _, after = model.join_ids(left + word, right)
        assert model.mask_id is not None
        return tuple(
            MaskedRequest((*start, *before, *pieces[:place], model.mask_id, *after, *end), (len(start) + len(before) + place,), (piece,))
            for place, piece in enumerate(pieces)
        )


def candidate_word(context: str, text: str) -> str:
    """The word of `text` that stands where `context` has its blank, punctuation around it removed.

    Words are counted at single spaces, as the authors do, since contexts and sentences differ in case. Punctuation inside a word stays
    (theirs goes; six of 6,318 words differ).
    """
    places = [place for place, word in enumerate(context.split(" ")) if BLANK in word]
    words = text.split(" ")
    return words[places[-1]].strip(string.punctuation) if places and places[-1] < len(words) else ""


def compare(figures: Sequence[float], tie: float = TIE_NATS) -> dict[str, Any]:
    """Columns of a row from the scores (nats) of stereotype, anti-stereotype and unrelated text.

    Args:
        figures: the three scores.
        tie: differences under this are ties.
    """
    stereotype, anti, unrelated = (float(figure) for figure in figures)
    wins = [preference(related - unrelated, tie) == 1 for related in (stereotype, anti)]
    margin = stereotype - anti
    scores = [stereotype, anti, unrelated]
    return {"scores": scores, "margin": margin, "prefers_stereotype": preference(margin, tie), "correct": sum(wins) / 2}


def _log_mean_probability(log_probabilities: np.ndarray) -> float:
    top = log_probabilities.max()
    return float(top + np.log(np.exp(log_probabilities - top).mean()))
