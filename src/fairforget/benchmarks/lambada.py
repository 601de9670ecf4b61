"""LAMBADA (Paperno et al. 2016): the last word of a passage, which only the whole passage tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._choices import ACCURACY
from fairforget.benchmarks._prefixed import Prefix, harness_prefix, prefix_column
from fairforget.benchmarks._sentences import plan_texts
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest, Request
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.models.model import Model


def _exponential(ratios: np.ndarray) -> np.ndarray:
    return np.exp(ratios[..., 0])


LAST_WORD_PERPLEXITY = MetricDefinition(
    "last_word_perplexity", (pl.col("nll"),), (pl.col("nll").is_not_null().cast(pl.Float64),), "ppl", "lower", function=_exponential,
    ratio_name="last_word_perplexity_ratio",
    description="exp of the mean negative log-likelihood of the last word, all its tokens together (perplexity of lm-eval's lambada).",
)


class LambadaSettings(SubsetSettings):
    """How much is measured, and what stands before the context."""

    prefix: Prefix = Field(default="model")
    """Causal models: before the context stands the `model`'s prefix token, as in all our benchmarks, or what the `tokenizer` adds by
    itself, as in lm-eval."""


class Lambada(Benchmark):
    """Accuracy and perplexity of the last word of OpenAI's detokenised test set.

    - causal (``last-word``): the word's tokens after the passage, as in lm-eval's `lambada_openai`; right where every token is the one that
      greedy decoding takes.
    - masked (``last-word-fill``): the word's pieces are predicted left to right in its place, earlier pieces filled in, one mask, later
      pieces absent, a full stop after; right where every piece is the most likely one. Ours: there is no published protocol for them.
    """

    name = "lambada"
    description = "LAMBADA (Paperno et al. 2016): the last word of a passage; accuracy and perplexity."
    Settings: ClassVar[type[Settings]] = LambadaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lm-eval": {"prefix": "tokenizer"}}
    datasets = ("lambada",)

    def items(self, family: str, part: str) -> list[Item]:
        """Passages of one part."""
        del family
        from fairforget.data.lambada import load_lambada

        return [
            Item(
                id=passage.id, task="lambada", role="ability", part=part, cluster=passage.cluster, stratum=passage.stratum, groups=(),
                texts=(passage.word,), payload={"context": passage.context},
            )
            for passage in load_lambada()
            if part in ("all", passage.part)
        ]

    def protocol(self, item: Item, family: str) -> str:
        """``last-word`` or ``last-word-fill``."""
        del item
        return "last-word" if family == "causal" else "last-word-fill"

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """The columns of a row that do not depend on scores; `prefix` is what really stood before the context."""
        return super().identity(item, model) | prefix_column(model, self.settings.prefix, empty=False)

    def plan(self, item: Item, model: Model) -> Plan:
        """The request, or one for each piece, of the last word."""
        before, pieces = model.join_ids(item.payload["context"], " " + item.texts[0])
        if not pieces:
            return Plan(skipped="a word without tokens")
        requests = self._fill(model, before, pieces) if model.family == "masked" else self._continue(model, before, pieces)
        return plan_texts(model, (requests,))

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Log-likelihood of the word, and whether every token of it is the most likely one."""
        del item, model
        own, best = (np.concatenate(side) for side in zip(*(np.split(values, 2) for values in scores[0]), strict=True))
        if np.isnan(own).any():
            return {"skipped": "no token can be scored without a prefix"}
        total = float(own.sum())
        return {"scores": [total], "correct": float((own >= best).all()), "nll": -total, "tokens": len(own)}

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy and perplexity of the last word."""
        accuracy = replace(ACCURACY, description="Share of passages whose last word greedy decoding finds, every token of it.")
        return [accuracy, LAST_WORD_PERPLEXITY]

    def _continue(self, model: Model, before: Sequence[int], pieces: Sequence[int]) -> tuple[Request, ...]:
        prefix = model.prefix if self.settings.prefix == "model" else harness_prefix(model, empty=False)
        return (ContinuationRequest((*prefix, *before), tuple(pieces), best=True),)

    @staticmethod
    def _fill(model: Model, before: Sequence[int], pieces: Sequence[int]) -> tuple[Request, ...]:
        start, end = model.enclosing_ids()
        assert model.mask_id is not None
        left, right = (*start, *before), (model.mask_id, *model.token_ids("."), *end)
        return tuple(
            MaskedRequest((*left, *pieces[:place], *right), (len(left) + place,), (piece,), best=True) for place, piece in enumerate(pieces)
        )
