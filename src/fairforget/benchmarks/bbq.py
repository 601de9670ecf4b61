"""BBQ (Parrish et al. 2022): questions about two people, a stereotype points at one of them, with and without facts that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from fairforget.benchmarks._base import Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._bbq_scores import AMBIGUOUS, BIAS_SCORES, DISAMBIGUATED
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL
from fairforget.benchmarks._metrics import MARGIN, PCT_STEREOTYPE
from fairforget.benchmarks._prefixed import PrefixedChoiceBenchmark, PrefixedChoiceSettings
from fairforget.benchmarks._sentences import scored
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.data.bbq import BBQItem
    from fairforget.models.model import Model

LETTERS = "ABC"
HELM_INSTRUCTIONS = "The following are multiple choice questions (with answers).\n\n"
Category = Literal[
    "all", "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity", "Race_x_SES",
    "Race_x_gender", "Religion", "SES", "Sexual_orientation",
]
_CATEGORIES: tuple[str, ...] = get_args(Category)


class BbqSettings(PrefixedChoiceSettings):
    """Which questions of BBQ are asked, how, and how the answers are added up."""

    protocol: Literal["paper", "lm-eval", "helm"] = "paper"
    """`paper` = the item's three answers and the formulas of Parrish et al. 2022; `lm-eval` = the two people and ten wordings of unknown,
    lm-eval's rule of what is biased, and 0 where nothing is; `helm` = letters A, B, C after HELM's prompt, HELM's rule and aggregation."""
    context: Literal["both", "ambig", "disambig"] = "both"
    """`ambig` = the context leaves the answer open and unknown is right; `disambig` = it settles the answer."""
    category: Category = "all"
    """One of the eleven categories, or all of them; small and capital letters are one."""
    metadata: str | None = None
    """Upstream's `additional_metadata.csv`, which says which answer is biased. Without it that is told from the stereotyped groups, which
    leaves nearly all intersectional items open: they then count for accuracy alone."""

    @field_validator("category", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return next((name for name in _CATEGORIES if isinstance(value, str) and name.lower() == value.lower()), value)


class Bbq(PrefixedChoiceBenchmark):
    """Accuracy and bias scores in both contexts, by category and by the stereotyped group that a question is about.

    Texts are ordered biased, counter-biased, unknown, so that ``choice`` 0, 1 or 2 says what was answered (under ``lm-eval`` 2 to 11 are
    unknown). ``value`` is 1 for a biased answer under the protocol's rule, 0 for an informative one that is not, null for unknown or a tie.
    Items whose biased answer is not known (nearly all are intersectional) count for accuracy alone under ``paper``; their first two texts
    stand in upstream's order. Both contexts are one set of requests, in which the ambiguous context begins the disambiguated one.
    """

    name = "bbq"
    description = "BBQ (Parrish et al. 2022): questions on eleven kinds of bias, in ambiguous and settled contexts; accuracy, bias scores."
    Settings: ClassVar[type[Settings]] = BbqSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"protocol": "paper"},
        "lm-eval": {"protocol": "lm-eval", "prefix": "tokenizer", "tie": 0.0},
        "helm": {"protocol": "helm", "tie": 0.0},
        "chat": {"prompt_format": "chat"},
        "ambig": {"context": "ambig"},
        "disambig": {"context": "disambig"},
    }
    datasets = ("bbq",)
    pooled = "bbq"

    def items(self, family: str, part: str) -> list[Item]:
        """Questions of one part; a template, and all that share its question, lies in one part in both contexts."""
        del family
        from fairforget.data.bbq import load_bbq

        return [
            self.item(question, part)
            for question in load_bbq(metadata=None if self.settings.metadata is None else Path(self.settings.metadata).expanduser())
            if part in ("all", question.part)
            and self.settings.context in ("both", question.condition)
            and self.settings.category in ("all", question.category)
        ]

    def item(self, question: BBQItem, part: str) -> Item:
        """One question with its options under the chosen protocol."""
        from fairforget.benchmarks import _bbq_rules as rules
        from fairforget.data.bbq import UNKNOWN_WORDINGS

        protocol = self.settings.protocol
        if question.biased is None:
            people = [place for place in range(3) if place != question.unknown]
        else:
            people = [question.biased, 3 - question.biased - question.unknown]
        order = (*people, question.unknown)
        texts = tuple(question.answers[place].text for place in order)
        right: tuple[int, ...] = (order.index(question.label),)
        kinds = {"paper": rules.paper_kinds, "lm-eval": rules.lm_eval_kinds, "helm": rules.helm_kinds}[protocol](question)
        kinds = tuple(kinds[place] for place in order)
        if protocol == "lm-eval":
            texts = (*texts[:2], *UNKNOWN_WORDINGS)
            kinds = (*kinds[:2], *[None] * len(UNKNOWN_WORDINGS))
            right = tuple(range(2, len(texts))) if right == (2,) else right
        wording = question.wording
        return Item(
            id=question.id,
            task=AMBIGUOUS if question.condition == "ambig" else DISAMBIGUATED,
            role="bias",
            part=part,
            cluster=question.cluster,
            stratum=question.stratum,
            groups=(
                question.category, *([f"{question.category} ({wording})"] if wording else []),
                *(f"target: {group}" for group in question.targets),
            ),
            texts=texts,
            payload={
                "context": self._prompt(question),
                "options": tuple(LETTERS[place] for place in order) if protocol == "helm" else texts,
                "right": right[0] if len(right) == 1 else None,
                "all_right": right,
                "kinds": kinds,
                "directed": question.biased is not None,
            },
        )

    @property
    def sums_suffice(self) -> bool:
        """All that its protocols compare."""
        return True

    def as_scored(self, item: Item) -> Item:
        """The item with its options, which are letters under HELM's protocol."""
        return replace(item, texts=item.payload["options"])

    def protocol(self, item: Item, family: str) -> str:
        """The protocol's name and how options are scored, e.g. ``paper, option-likelihood``."""
        return f"{self.settings.protocol}, {super().protocol(item, family)}"

    def plan(self, item: Item, model: Model) -> Plan:
        """Requests of each option: the answers themselves, or their letters."""
        return super().plan(self.as_scored(item), model)

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Scores of the options, the chosen one, whether it is right, and whether it is biased (``value``)."""
        row = super().row(self.as_scored(item), scores, model)
        if "skipped" in row:
            return row
        if item.payload["right"] is None:
            row |= self._several_right(item, row["scores"], [scored(text) for text in scores])
        if not item.payload["directed"]:
            row |= {"margin": None, "prefers_stereotype": None}
        return row | {"value": None if row["choice"] is None else item.payload["kinds"][row["choice"]]}

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy, the protocol's bias scores and share of informative answers; likelihoods of the right answer and of the two people."""
        return [ACCURACY, *BIAS_SCORES[self.settings.protocol], PCT_STEREOTYPE, MARGIN, ANSWER_NLL]

    def _prompt(self, question: BBQItem) -> str:
        if self.settings.protocol == "helm":
            options = "".join(f"{letter}. {answer.text}\n" for letter, answer in zip(LETTERS, question.answers, strict=True))
            return f"{HELM_INSTRUCTIONS}Passage: {question.context}\nQuestion: {question.question}\n{options}Answer:"
        if self.settings.prompt_format == "chat":
            return f"{question.context}\n\n{question.question}"
        return f"{question.context}\n\nQ: {question.question}\nA:"

    def _several_right(self, item: Item, figures: Sequence[float], tokens: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
        """Accuracy and likelihood where any of several options is right: options tied for the first place share it."""
        right = list(item.payload["all_right"])
        behind = max(figures) - np.asarray(figures)
        best = np.flatnonzero((behind == 0) | (behind < self.settings.tie))
        sums = np.array([float(tokens[place].sum()) for place in right])
        likeliest = right[int(sums.argmax())]
        return {
            "correct": float(np.isin(best, right).mean()), "nll": -float(np.logaddexp.reduce(sums)), "tokens": len(tokens[likeliest]),
        }
