"""Benchmarks of what a model can do: questions with options of which one is right, with the prompts of the evaluation harness (lm-eval)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from fairforget.benchmarks._base import Item, MetricDefinition, Scores
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL
from fairforget.benchmarks._prefixed import PrefixedChoiceBenchmark
from fairforget.benchmarks._sentences import scored
from fairforget.tables import preference

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion
    from fairforget.models.model import Model

_NORMALIZED = pl.col("value").is_not_null().cast(pl.Float64)

ACCURACY_NORM = MetricDefinition(
    "accuracy_norm", (100 * pl.col("value"),), (_NORMALIZED,), "%", "higher",
    description="Share of items whose right option scores highest per character (acc_norm of lm-eval); options tied for the first place "
    "share it.",
)


class CapabilityBenchmark(PrefixedChoiceBenchmark):
    """Common part of benchmarks with a right answer.

    A subclass says which questions there are (:meth:`questions`) and how a question is put (:meth:`prompt`, :meth:`options`). Both
    accuracies come from one scoring: `accuracy` compares the options' scores under the chosen normalisation (``correct``),
    `accuracy_norm` always those per character (``value``); where options are letters or yes and no the latter means nothing and is not
    given.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lm-eval": {"prefix": "tokenizer", "tie": 0.0},
        "chat": {"prompt_format": "chat"},
    }
    per_character: bool = True
    """Whether options are texts of different lengths, so that scores per character mean something."""

    @abstractmethod
    def questions(self) -> Sequence[ChoiceQuestion]:
        """All questions of all parts.

        Raises:
            DataError: the data are missing or damaged.
        """

    @abstractmethod
    def prompt(self, question: ChoiceQuestion) -> str:
        """What the options follow."""

    def options(self, question: ChoiceQuestion) -> tuple[str, ...]:
        """The texts that are scored."""
        return question.options

    def task(self, question: ChoiceQuestion) -> str:
        """Name of the question's task."""
        del question
        return self.name

    def items(self, family: str, part: str) -> list[Item]:
        """Questions of one part."""
        del family
        return [self.item(question, part) for question in self.questions() if part in ("all", question.part)]

    def item(self, question: ChoiceQuestion, part: str) -> Item:
        """One question as it is scored."""
        return Item(
            id=question.id, task=self.task(question), role="ability", part=part, cluster=question.cluster, stratum=question.stratum,
            groups=question.groups, texts=self.options(question), payload={"context": self.prompt(question), "right": question.right},
        )

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """As of every choice, with ``value``: whether the right option is also the most likely per character."""
        row = super().row(item, scores, model)
        if self.per_character and "scores" in row:
            sums = [float(scored(text).sum()) for text in scores]
            figures = [total / max(1, len(text)) for total, text in zip(sums, item.texts, strict=True)]
            row["value"] = share_of_best(figures, item.payload["right"], self.settings.tie)
        return row

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy, where it means something also per character, and the right answer's likelihood."""
        return [ACCURACY, *([ACCURACY_NORM] if self.per_character else []), ANSWER_NLL]


def share_of_best(figures: Sequence[float], right: int, tie: float) -> float:
    """1 where the right option scores highest, 0 where another does; options tied for the first place share it."""
    best = max(figures)
    tied = [place for place, figure in enumerate(figures) if preference(best - figure, tie) == 0.5]
    return 1 / len(tied) if right in tied else 0.0
