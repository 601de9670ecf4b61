"""Benchmarks whose items are prompts that the model goes on from; what it wrote is measured, not how likely it was."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Item, Scores, StateBenchmark
from fairforget.benchmarks._choices import chat_prompt, check_chat_template
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.errors import UsageError
from fairforget.scoring.generation import Answer, Decoding, Generator
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model
    from fairforget.scoring.scorer import Scorer


class GenerationSettings(SubsetSettings):
    """How answers are asked for."""

    prompt_format: Literal["plain", "chat"] = "plain"
    """`plain` = the model goes on from the prompt; `chat` = the prompt is in the user's message of the tokenizer's chat template."""
    max_new_tokens: int = Field(default=20, ge=1)
    """Longest answer, in tokens."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates; `vllm` needs that package (extra `vllm`) and draws other samples from the same distribution."""


class GenerationBenchmark(StateBenchmark):
    """Common part of benchmarks that generate. Nothing is scored by likelihood: an item has no requests.

    Subclasses say what the prompt is (:meth:`prompt`), how answers are chosen (:meth:`decoding`), and what rows come of them
    (:meth:`answered`); a prompt without room for the new tokens is skipped with a sentence.
    """

    families: ClassVar[frozenset[str]] = frozenset({"causal"})
    samples: int = 1
    """Answers to each prompt."""

    @abstractmethod
    def decoding(self) -> Decoding:
        """How answers are chosen."""

    @abstractmethod
    def prompt(self, item: Item) -> str:
        """What the model is given, in the format of the settings, before any chat template."""

    @abstractmethod
    def answered(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]], model: Model, *, store: bool) -> list[dict[str, Any]]:
        """Rows of the item table.

        Args:
            items: what was asked.
            answers: to each item, one or more.
            model: the model that answered.
            store: whether what is computed of the answers may be kept on disk.
        """

    def check(self, model: Model) -> None:
        """Refuse a masked model, and the chat format where there is no template for it."""
        if model.family != "causal":
            raise UsageError(f"The benchmark {self.name} lets a causal model write; {model.name} is a masked one, which writes no text.")
        if self.settings.prompt_format == "chat":
            check_chat_template(self.name, model)

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """The columns of a row that do not depend on answers, with the prompt format."""
        return super().identity(item, model) | {"prompt_format": self.settings.prompt_format}

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """Generate with the model's present state and measure what it wrote."""
        del scores
        return self._measured(items, model, f"generating for {self.name}", store=True)

    def measure_items(self, scorer: Scorer, items: Sequence[Item], description: str) -> pl.DataFrame:
        """Generate answers to items and return their item table.

        Args:
            scorer: of the model in the state that is wanted; whether it keeps scores on disk goes for answers too.
            items: what to ask.
            description: what the progress display says.
        """
        return self._measured(items, scorer.model, description, store=scorer.use_store)

    def tokens_beside(self, items: Sequence[Item], model: Model) -> tuple[int, int]:
        """Tokens of the prompts, and as many new ones for each sample as an answer may have."""
        read = sum(len(self._ids(self.prompt(item), model)) for item in items)
        return read, len(items) * self.samples * self.settings.max_new_tokens

    def _measured(self, items: Sequence[Item], model: Model, description: str, *, store: bool) -> pl.DataFrame:
        self.check(model)
        generator = Generator(model, self.decoding(), engine=self.settings.engine, store=store)
        prompts = [self._ids(self.prompt(item), model) for item in items]
        answers = generator.generate(prompts, samples=self.samples, description=description)
        return item_table(self.answered(items, answers, model, store=store))

    def _ids(self, prompt: str, model: Model) -> list[int]:
        if self.settings.prompt_format == "chat":
            return model.token_ids(chat_prompt(model, prompt))
        return [*model.prefix, *model.token_ids(prompt)]
