"""TriviaQA (Joshi et al. 2017): trivia questions without a text to look in, answered freely, by exact match with any accepted answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._exact_match import ExactMatchBenchmark, ExactMatchSettings, few_shot, hashed_order, normalised
from fairforget.settings import Settings


class TriviaQASettings(ExactMatchSettings):
    """How questions are asked."""

    max_new_tokens: int = Field(default=32, ge=1)
    """Longest answer, in tokens; it ends at a new line, full stop or comma before that."""
    shots: int = Field(default=5, ge=0, le=64)
    """Answered questions before the one that is asked, the same for all and none of them its own."""
    question_mark: bool = False
    """Add a question mark to every question, as lm-eval's template does, also where there is one."""


class TriviaQA(ExactMatchBenchmark):
    """Share of questions whose answer, up to the first new line, full stop or comma, is one of the accepted spellings.

    Compared as in lm-eval (task ``triviaqa``, version 3): white space at the ends, case and ASCII punctuation do not count; articles do.
    Shots come from the part ``select``, never the question itself.
    """

    name = "triviaqa"
    description = "TriviaQA (Joshi et al. 2017): 3,000 trivia questions answered freely, by exact match with any accepted spelling."
    datasets = ("triviaqa",)
    Settings: ClassVar[type[Settings]] = TriviaQASettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "0-shot": {"shots": 0},
        "lm-eval": {"question_mark": True, "shots": 0},
        "lm-eval-5-shot": {"question_mark": True},
        "chat": {"prompt_format": "chat", "shots": 0},
    }
    stop = ("\n", ".", ",")

    def items(self, family: str, part: str) -> list[Item]:
        """Questions of one part."""
        del family
        from fairforget.data.triviaqa import load_triviaqa

        questions = load_triviaqa()
        ask = {one.id: f"Question: {one.question}{'?' * self.settings.question_mark}\nAnswer:" for one in questions}
        shots = hashed_order([(one.cluster, f"{ask[one.id]} {one.answer}") for one in questions if one.part == "select"])
        return [
            Item(
                id=one.id, task=self.name, role="ability", part=part, cluster=one.cluster, stratum=one.stratum, groups=(),
                texts=(one.question,),
                payload={"prompt": few_shot(shots, one.cluster, self.settings.shots, ask[one.id]), "accepted": one.aliases},
            )
            for one in questions
            if part in ("all", one.part)
        ]

    def protocol(self, item: Item, family: str) -> str:
        """``exact match, greedy`` with the number of shots, and the question mark that lm-eval adds."""
        return super().protocol(item, family) + ", question mark added" * self.settings.question_mark

    def judged(self, item: Item, answer: str) -> list[dict[str, Any]]:
        """Right where it equals an accepted answer; an answer of punctuation alone equals none."""
        given = normalised(answer.strip(), punctuation=True)
        return [{"correct": float(any(given == normalised(one, punctuation=True) for one in item.payload["accepted"])) if given else 0.0}]
