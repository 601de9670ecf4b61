"""The scorers that a benchmark of the user's own file can have: pairs, choices, likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._choices import ChoiceBenchmark
from fairforget.benchmarks._metrics import PERPLEXITY, WORD_PERPLEXITY
from fairforget.benchmarks._pairs import PairBenchmark
from fairforget.benchmarks._sentences import masked_requests, plan_texts, scored
from fairforget.scoring.requests import ContinuationRequest, Request
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.models.model import Model


class FilePairs(PairBenchmark):
    """A stereotype and its counterpart, as CrowS-Pairs."""

    name = "file-pairs"
    description = "Pairs of a file."

    def items(self, family: str, part: str) -> list[Item]:
        """None of its own: the file's benchmark reads them."""
        del family, part
        return []


class FileChoices(ChoiceBenchmark):
    """Options after a context, as question answering."""

    name = "file-choices"
    description = "Options of a file."

    def items(self, family: str, part: str) -> list[Item]:
        """None of its own: the file's benchmark reads them."""
        del family, part
        return []


class FileLikelihood(Benchmark):
    """The likelihood of a text, after a context where there is one, as perplexity and by group.

    Causal: log P(text | prefix, context). Masked: pseudo-log-likelihood of the text's tokens, each masked in turn (Salazar et al. 2020).
    """

    name = "file-likelihood"
    description = "Texts of a file."
    Settings: ClassVar[type[Settings]] = Settings

    def items(self, family: str, part: str) -> list[Item]:
        """None of its own: the file's benchmark reads them."""
        del family, part
        return []

    def protocol(self, item: Item, family: str) -> str:
        """``likelihood``, or ``pseudo-likelihood`` of a masked model."""
        del item
        return "pseudo-likelihood" if family == "masked" else "likelihood"

    def plan(self, item: Item, model: Model) -> Plan:
        """Requests of the text; one that is too long or empty is skipped with the reason."""
        context, text = str(item.payload.get("context") or ""), item.texts[0]
        separator = item.payload.get("separator", " ")
        before, after = model.join_ids(context, separator + text) if context else ([], model.token_ids(text))
        if not after:
            return Plan(skipped="a text without tokens")
        requests: tuple[Request, ...]
        if model.family == "causal":
            requests = (ContinuationRequest((*model.prefix, *before), tuple(after)),)
        else:
            start, end = model.enclosing_ids()
            first = len(start) + len(before)
            requests = masked_requests(model, (*start, *before, *after, *end), range(first, first + len(after)))
        return plan_texts(model, (requests,))

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Log-probability of the text, its tokens and, for causal models, its words."""
        values = scored(scores[0])
        if not len(values):
            return {"skipped": "no token can be scored without a prefix"}
        words = len(item.texts[0].split()) if model.family == "causal" else None
        return {"scores": [float(values.sum())], "nll": -float(values.sum()), "tokens": len(values), "words": words}

    def metrics(self) -> list[MetricDefinition]:
        """Perplexity per token and per word."""
        return [PERPLEXITY, WORD_PERPLEXITY]


SCORERS: Mapping[str, type[Benchmark]] = {"pairs": FilePairs, "choices": FileChoices, "likelihood": FileLikelihood}
