"""Benchmarks whose items are a context and options, scored by each option's likelihood: questions, completions, minimal pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._metrics import MARGIN, PCT_STEREOTYPE
from fairforget.benchmarks._sentences import masked_requests, plan_texts, scored
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.errors import UsageError
from fairforget.scoring.requests import ContinuationRequest, Request
from fairforget.settings import Settings
from fairforget.tables import TIE_NATS, preference

if TYPE_CHECKING:
    from fairforget.models.model import Model

Normalization = Literal["sum", "token-mean", "character-mean"]

ACCURACY = MetricDefinition(
    "accuracy", (100 * pl.col("correct"),), (pl.col("correct").is_not_null().cast(pl.Float64),), "%", "higher",
    description="Share of items whose right option scores highest; options tied for the first place share it.",
)
ANSWER_NLL = MetricDefinition(
    "answer_nll", (pl.when(pl.col("correct").is_not_null()).then(pl.col("nll")),), (pl.col("correct").is_not_null().cast(pl.Float64),),
    "nats", "lower",
    description="Mean negative log-likelihood of the right option: what is forgotten below the level of right and wrong.",
    bounds=(0.0, math.inf),
)


class ChoiceSettings(SubsetSettings):
    """How options are scored and compared."""

    prompt_format: Literal["plain", "chat"] = "plain"
    """`plain` = the option follows the context; `chat` = the context is the user's message in the tokenizer's chat template and the option
    the answer."""
    normalization: Normalization = "sum"
    """An option's score in nats: `sum` of its tokens' log-probabilities (accuracy of lm-eval), `token-mean`, or `character-mean` = sum over
    its number of characters (`acc_norm` of lm-eval)."""
    tie: float = Field(default=TIE_NATS, ge=0)
    """Score differences (nats) under this are ties; 0 compares exactly."""


class ChoiceBenchmark(Benchmark):
    """Common part of benchmarks that compare options by likelihood.

    Items hold the options as ``texts`` and in ``payload``: ``context`` (one, or one for each option where the option stands in the context
    and the continuation is shared), ``right`` (index of the right option, or None), and ``separator`` between context and option, one space
    if not said.

    - causal (``option-likelihood``): log P(option | context). Tokens are cut as in lm-eval: context and option are tokenised as one text,
      and the option is what follows the context's own tokens; white space at the context's end goes to the option. With an empty context
      the whole option is scored after the prefix token.
    - masked (``option-pll``): the option's tokens in the joined text, masked one at a time (pseudo-log-likelihood, Salazar et al. 2020).
    """

    Settings: ClassVar[type[Settings]] = ChoiceSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"chat": {"prompt_format": "chat"}}

    def protocol(self, item: Item, family: str) -> str:
        """``option-likelihood`` or ``option-pll``, with the normalisation where it is not the sum."""
        del item
        base = "option-pll" if family == "masked" else "option-likelihood"
        return base if self.settings.normalization == "sum" else f"{base}, {self.settings.normalization}"

    def check(self, model: Model) -> None:
        """Refuse the chat format where there is no template for it."""
        super().check(model)
        if self.settings.prompt_format == "chat":
            if model.family == "masked":
                raise UsageError(f"{self.name}: masked models have no chat format; {model.name} is one: use prompt_format plain.")
            check_chat_template(self.name, model)

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """The columns of a row that do not depend on scores, with the prompt format."""
        return super().identity(item, model) | {"prompt_format": self.settings.prompt_format}

    @property
    def sums_suffice(self) -> bool:
        """Whether a row follows from the sum of each option's log-probabilities after the item's context."""
        return type(self).plan is ChoiceBenchmark.plan

    def as_scored(self, item: Item) -> Item:
        """The item with the texts that are scored, where they are not those that are compared (letters)."""
        return item

    def plan(self, item: Item, model: Model) -> Plan:
        """Requests of each option; an item with an option that cannot be scored is skipped with the reason."""
        contexts = item.payload["context"]
        contexts = [contexts] * len(item.texts) if isinstance(contexts, str) else list(contexts)
        separator = item.payload.get("separator", " ")
        make = self._masked if model.family == "masked" else self._causal
        options = tuple(make(model, context, separator, text) for context, text in zip(contexts, item.texts, strict=True))
        return plan_texts(model, options, empty="an option without tokens")

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Scores of the options, the one that scores highest, whether it is right, and what is preferred in bias items."""
        del model
        values = [scored(text) for text in scores]
        if any(not len(text) for text in values):
            return {"skipped": "no token can be scored without a prefix"}
        sums = [float(text.sum()) for text in values]
        return compare_options(item, sums, [len(text) for text in values], self.settings)

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy and the right answer's likelihood; share of stereotypes preferred and mean margin of bias items."""
        return [ACCURACY, ANSWER_NLL, PCT_STEREOTYPE, MARGIN]

    def _causal(self, model: Model, context: str, separator: str, option: str) -> tuple[Request, ...]:
        if self.settings.prompt_format == "chat":
            before, after = model.token_ids(chat_prompt(model, context)), model.token_ids(option)
            return (ContinuationRequest(tuple(before), tuple(after)),) if after else ()
        before, after = model.join_ids(context, separator + option) if context else ([], model.token_ids(option))
        return (ContinuationRequest((*model.prefix, *before), tuple(after)),) if after else ()

    def _masked(self, model: Model, context: str, separator: str, option: str) -> tuple[Request, ...]:
        start, end = model.enclosing_ids()
        before, after = model.join_ids(context, separator + option) if context else ([], model.token_ids(option))
        first = len(start) + len(before)
        return masked_requests(model, (*start, *before, *after, *end), range(first, first + len(after)))


def check_chat_template(benchmark: str, model: Model) -> None:
    """Refuse the chat format where the tokenizer has no template for it.

    Raises:
        UsageError: it has none.
    """
    if not getattr(model.tokenizer, "chat_template", None):
        raise UsageError(f"{benchmark}: the tokenizer of {model.name} has no chat template: use prompt_format plain.")


def chat_prompt(model: Model, message: str) -> str:
    """A user's message in the tokenizer's chat template, up to where the answer begins."""
    return str(model.tokenizer.apply_chat_template([{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True))


def compare_options(item: Item, sums: Sequence[float], tokens: Sequence[int], settings: ChoiceSettings) -> dict[str, Any]:
    """Columns of a row from the log-probabilities of all options.

    Args:
        item: whose options they are; of a bias item the first text is the stereotype, the second its counterpart.
        sums: log-probability of each option, nats.
        tokens: scored tokens of each option.
        settings: normalisation and tie limit.
    """
    sizes: Sequence[int] = {
        "sum": [1] * len(sums), "token-mean": tokens, "character-mean": [max(1, len(text)) for text in item.texts],
    }[settings.normalization]
    figures = [total / size for total, size in zip(sums, sizes, strict=True)]
    top = max(figures)
    best = [place for place, figure in enumerate(figures) if preference(top - figure, settings.tie) == 0.5]
    row: dict[str, Any] = {"scores": figures, "choice": best[0] if len(best) == 1 else None}
    right: int | None = item.payload.get("right")
    if right is not None:
        row |= {"correct": 1 / len(best) if right in best else 0.0, "nll": -sums[right], "tokens": tokens[right]}
    if item.role == "bias" and len(figures) > 1:
        margin = figures[0] - figures[1]
        row |= {"margin": margin, "prefers_stereotype": preference(margin, settings.tie)}
        if right is None:
            row |= {"nll": -float(sum(sums)), "tokens": sum(tokens)}
    return row
