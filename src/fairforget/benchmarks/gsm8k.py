"""GSM8K (Cobbe et al. 2021): grade-school arithmetic worked out in words, by exact match of the final number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._exact_match import ExactMatchBenchmark, ExactMatchSettings, few_shot, hashed_order, normalised
from fairforget.settings import Settings

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")
"""Patterns of lm-eval's task ``gsm8k`` (version 3)."""


class GSM8KSettings(ExactMatchSettings):
    """How problems are asked."""

    shots: int = Field(default=5, ge=0, le=64)
    """Solved problems of the part `train` before the one that is asked, the same for all."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest solution, in tokens."""


class GSM8K(ExactMatchBenchmark):
    """Share of problems whose final number is right, read strictly (after ``####``) and flexibly (the last number of all).

    Both readings are tasks of their own on the same solutions, extracted and compared as in lm-eval.
    """

    name = "gsm8k"
    description = "GSM8K (Cobbe et al. 2021): 1,319 problems of grade-school arithmetic, strict and flexible match of the final number."
    datasets = ("gsm8k",)
    Settings: ClassVar[type[Settings]] = GSM8KSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"0-shot": {"shots": 0}, "chat": {"prompt_format": "chat"}}
    stop = ("Question:", "</s>", "<|im_end|>")

    def items(self, family: str, part: str) -> list[Item]:
        """Problems of one part; ``all`` is upstream's test file."""
        del family
        from fairforget.data.gsm8k import load_gsm8k

        problems = load_gsm8k()
        ask = {one.id: f"Question: {one.question}\nAnswer:" for one in problems}
        solved = [(one.cluster, f"{ask[one.id]} {one.solution}\n#### {one.answer}") for one in problems if one.part == "train"]
        shots = hashed_order(solved)
        return [
            Item(
                id=one.id, task=self.name, role="ability", part=part, cluster=one.cluster, stratum=one.stratum, groups=(),
                texts=(one.question,),
                payload={"prompt": few_shot(shots, one.cluster, self.settings.shots, ask[one.id]), "accepted": one.answer},
            )
            for one in problems
            if (one.id.startswith("test") if part == "all" else one.part == part)
        ]

    def judged(self, item: Item, answer: str) -> list[dict[str, Any]]:
        """One row for the strict reading and one for the flexible one; a solution without a number is wrong."""
        right = normalised(item.payload["accepted"], IGNORED)
        readings = {"strict": strict_number(answer), "flexible": flexible_number(answer)}
        return [
            {"task": f"{self.name}-{reading}", "correct": float(number is not None and normalised(number, IGNORED) == right)}
            for reading, number in readings.items()
        ]


def strict_number(answer: str) -> str | None:
    """The first number after ``#### `` (lm-eval's ``strict-match``)."""
    found = STRICT.search(answer)
    return found[1].strip() if found else None


def flexible_number(answer: str) -> str | None:
    """The last number of a solution, dollar signs included (lm-eval's ``flexible-extract``)."""
    found = [first or second for first, second in FLEXIBLE.findall(answer)]
    return found[-1].strip() if found else None
