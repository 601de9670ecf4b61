"""What stands before a causal context: the model's prefix token, as in all our benchmarks, or what lm-eval puts there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._choices import ChoiceBenchmark, ChoiceSettings
from fairforget.scoring.requests import ContinuationRequest, Request
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.models.model import Model

Prefix = Literal["model", "tokenizer"]


class PrefixedChoiceSettings(ChoiceSettings):
    """How options are scored and compared, and what stands before the context."""

    prefix: Prefix = Field(default="model")
    """Causal models: before the context stands the `model`'s prefix token, as in all our benchmarks, or what the `tokenizer` adds by
    itself, as in lm-eval (an empty context: its BOS token, else EOS)."""


class PrefixedChoiceBenchmark(ChoiceBenchmark):
    """Choices after the model's prefix token or, as in lm-eval, after what the tokenizer adds by itself."""

    Settings: ClassVar[type[Settings]] = PrefixedChoiceSettings

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """The columns of a row that do not depend on scores; `prefix` is what really stood before the context."""
        row = super().identity(item, model)
        return row | prefix_column(model, self.settings.prefix, empty=not item.payload.get("context"))

    def _causal(self, model: Model, context: str, separator: str, option: str) -> tuple[Request, ...]:
        if self.settings.prefix == "model" or self.settings.prompt_format == "chat":
            return super()._causal(model, context, separator, option)
        before, after = model.join_ids(context, separator + option) if context else ([], model.token_ids(option))
        prefix = harness_prefix(model, empty=not context)
        return (ContinuationRequest((*prefix, *before), tuple(after)),) if after else ()


def harness_prefix(model: Model, *, empty: bool) -> tuple[int, ...]:
    """What lm-eval puts before a causal context: what the tokenizer adds by itself; before an empty one its BOS token, else EOS."""
    tokenizer: Any = model.tokenizer
    if empty:
        chosen = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return () if chosen is None else (int(chosen),)
    bare = model.token_ids("a")
    whole: list[int] = list(tokenizer("a", verbose=False)["input_ids"])
    return tuple(next(whole[:start] for start in range(len(whole) + 1) if whole[start : start + len(bare)] == bare))


def prefix_column(model: Model, prefix: Prefix, *, empty: bool) -> dict[str, str]:
    """The column `prefix` of a row where it is not the model's own policy."""
    if prefix == "model" or model.family == "masked":
        return {}
    return {"prefix": ", ".join(f"id {token}" for token in harness_prefix(model, empty=empty)) or "none"}
