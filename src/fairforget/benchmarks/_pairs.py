"""Benchmarks of sentence pairs: a stereotype and its counterpart, scored under one of several published protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._metrics import LIKELIHOOD_DIFFERENCE, MARGIN, PCT_STEREOTYPE
from fairforget.benchmarks._prefixed import Prefix, harness_prefix, prefix_column
from fairforget.benchmarks._sentences import masked_requests, scored, sentence_requests
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.errors import UsageError
from fairforget.scoring.alignment import changed_positions, shared_positions
from fairforget.settings import Settings
from fairforget.tables import TIE_NATS, preference

if TYPE_CHECKING:
    from fairforget.models.model import Model

PROTOCOL_FAMILY = {"shared-pll": "masked", "changed": "masked", "sum": "causal", "mean": "causal"}
DEFAULT_PROTOCOL = {"masked": "shared-pll", "causal": "sum"}


class PairSettings(SubsetSettings):
    """How pairs of sentences are scored and compared."""

    protocol: Literal["auto", "shared-pll", "changed", "sum", "mean"] = "auto"
    """Masked models: `shared-pll` = sum of log-probabilities of the tokens that both sentences share, masked one at a time (Nangia et al.
    2020); `changed` = mean log-probability of the tokens that differ (bias-bench). Causal models: `sum` = log-probability of the sentence
    after the prefix token; `mean` = the same per token (bias-bench's geometric mean). `auto` = `shared-pll` and `sum`."""
    split_first: bool = False
    """Causal only: score the first token after the prefix, and the others in a pass without it, as bias-bench does."""
    prefix: Prefix = Field(default="model")
    """Causal only: before a sentence stands the `model`'s prefix token, or as in lm-eval the `tokenizer`'s BOS token, else EOS."""
    rounded: bool = False
    """Round each score to 3 decimals before comparing, as the scripts of Nangia et al. and bias-bench (masked) do; makes ties."""
    tie: float = Field(default=TIE_NATS, ge=0)
    """Score differences (nats) under this are ties; 0 compares exactly, as the published scripts do."""


class PairBenchmark(Benchmark):
    """Common part of benchmarks whose items are a more and a less stereotypical sentence.

    The margin is score(more) - score(less) in nats, per token for the protocols `mean` and `changed`.
    """

    Settings: ClassVar[type[Settings]] = PairSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "shared-pll": {"protocol": "shared-pll"},
        "changed": {"protocol": "changed"},
        "sum": {"protocol": "sum"},
        "mean": {"protocol": "mean"},
        "nangia": {"protocol": "shared-pll", "rounded": True, "tie": 0.0},
        "bias-bench-masked": {"protocol": "changed", "rounded": True, "tie": 0.0},
        "bias-bench-causal": {"protocol": "mean", "split_first": True, "tie": 0.0},
        "lm-eval": {"protocol": "sum", "prefix": "tokenizer", "tie": 0.0},
    }

    def method(self, family: str) -> str:
        """The scoring method for a model family, defaults resolved."""
        return DEFAULT_PROTOCOL[family] if self.settings.protocol == "auto" else self.settings.protocol

    def protocol(self, item: Item, family: str) -> str:
        """Method and variants in words, e.g. ``mean, first token apart``."""
        del item
        variants = (", first token apart" * (self.settings.split_first and family == "causal")) + ", rounded" * self.settings.rounded
        return self.method(family) + variants

    def check(self, model: Model) -> None:
        """Refuse a protocol that the model's family cannot run."""
        super().check(model)
        method = self.method(model.family)
        if PROTOCOL_FAMILY[method] != model.family:
            fitting = ", ".join(name for name, family in PROTOCOL_FAMILY.items() if family == model.family)
            raise UsageError(
                f"The protocol '{method}' of {self.name} is for {PROTOCOL_FAMILY[method]} models; {model.name} is a {model.family} one: "
                f"choose {fitting}."
            )

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """The columns of a row that do not depend on scores; `prefix` is what really stood before the sentence."""
        return super().identity(item, model) | prefix_column(model, self.settings.prefix, empty=True)

    def plan(self, item: Item, model: Model) -> Plan:
        """Requests of both sentences; a pair without tokens to compare is skipped."""
        more, less = (model.sequence_ids(text) for text in item.texts)
        if max(len(more), len(less)) + len(model.prefix) > model.max_length:
            return Plan(skipped=f"longer than the model's {model.max_length} positions")
        if model.family == "causal":
            if not (more and less):
                return Plan(skipped="a sentence without tokens")
            prefix = harness_prefix(model, empty=True) if self.settings.prefix == "tokenizer" else None
            return Plan(tuple(sentence_requests(model, ids, split_first=self.settings.split_first, prefix=prefix) for ids in (more, less)))
        choose = shared_positions if self.method(model.family) == "shared-pll" else changed_positions
        places_more, places_less = choose(more, less)
        if not places_more or not places_less:
            return Plan(skipped="no shared tokens" if choose is shared_positions else "no token differs on one side")
        return Plan((masked_requests(model, more, places_more), masked_requests(model, less, places_less)))

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Scores of both sentences, their difference, and the likelihood of all scored tokens."""
        del item
        values = [scored(text) for text in scores]
        if any(not len(text) for text in values):
            return {"skipped": "no token can be scored without a prefix"}
        per_token = self.method(model.family) in ("mean", "changed")
        figures = [float(text.mean() if per_token else text.sum()) for text in values]
        if self.settings.rounded:
            figures = [round(figure, 3) for figure in figures]
        margin = figures[0] - figures[1]
        return {
            "scores": figures,
            "margin": margin,
            "prefers_stereotype": preference(margin, self.settings.tie),
            "nll": -float(sum(text.sum() for text in values)),
            "tokens": sum(len(text) for text in values),
        }

    def metrics(self) -> list[MetricDefinition]:
        """Share of stereotypes preferred, and mean signed margin; as lm-eval reports it also the mean of its size."""
        return [PCT_STEREOTYPE, MARGIN, *([LIKELIHOOD_DIFFERENCE] if self.settings.prefix == "tokenizer" else [])]
