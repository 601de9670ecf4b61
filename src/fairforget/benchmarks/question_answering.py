"""Question answering in one form: tasks that a chain can tune on and then audit, from social bias to science."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from fairforget.benchmarks._base import Item, MetricDefinition
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL, ChoiceBenchmark, ChoiceSettings
from fairforget.data.question_answering import (
    TASK_DATASETS,
    Answers,
    at_most_per_cluster,
    load_questions,
    put_question,
    question_tasks,
)
from fairforget.errors import unknown_name
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class QuestionAnsweringSettings(ChoiceSettings):
    """Which questions are asked, and how they are answered."""

    tasks: tuple[str, ...] = ("bbq",)
    """Tasks of `data/question_answering.py`; each is a task of the ledger, named `qa-TASK`."""
    answers: Answers = "letters"
    """`letters`: an option's letter is answered; `text`: its text. Options are listed in both."""
    items_per_cluster: int | None = Field(default=None, ge=1)
    """At most so many questions of each cluster (template, term), chosen by hash."""
    option_order: int = Field(default=0, ge=0)
    """Another number lists the options in another order, to see whether forgetting is of knowledge or of places."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_does(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for task in value:
            if task not in question_tasks():
                raise ValueError(str(unknown_name("question-answering task", task, question_tasks())))
        return value


class QuestionAnswering(ChoiceBenchmark):
    """Accuracy and the right answer's likelihood on tasks of one form, by option likelihood."""

    name = "question-answering"
    description = "Tasks cast as one kind of question (Ung et al. 2024), with parts to tune on: BBQ, SafeNLP, ARC and others; accuracy."
    Settings: ClassVar[type[Settings]] = QuestionAnsweringSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {task: {"tasks": (task,)} for task in question_tasks()}

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.datasets = tuple(dict.fromkeys(TASK_DATASETS[task] for task in self.settings.tasks))
        if any(task.endswith("-resplit") for task in self.settings.tasks):
            self.caution = "Dealt out anew from a test or validation file: compares with no published figure."

    def items(self, family: str, part: str) -> list[Item]:
        """Questions of one part of every task."""
        del family
        return [
            self._item(f"qa-{task}", question, part)
            for task in self.settings.tasks
            for question in at_most_per_cluster(
                [question for question in load_questions(task) if part in ("all", question.part)], self.settings.items_per_cluster
            )
        ]

    def _item(self, task: str, question: ChoiceQuestion, part: str) -> Item:
        prompt, options, right = put_question(question, self.settings.answers, self.settings.option_order)
        return Item(
            id=question.id, task=task, role="ability", part=part, cluster=question.cluster, stratum=question.stratum,
            groups=question.groups, texts=options, payload={"context": prompt, "right": right},
        )

    def protocol(self, item: Item, family: str) -> str:
        """How options are scored, and what is answered."""
        return f"{super().protocol(item, family)}, answers: {self.settings.answers}"

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy and the right answer's likelihood."""
        return [ACCURACY, ANSWER_NLL]
