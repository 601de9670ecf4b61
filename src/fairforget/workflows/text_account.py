"""What became of the texts behind a run: how likely the edited model finds its training texts, held-out stereotypes and neutral text.

Held out are the reported stereotypes of the target; of both there are counterparts. Neutral text is what the method was given to keep, and
the starter set's sentences that name a group. Plain perplexity is the run's own benchmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark, MetricDefinition, evaluate
from fairforget.benchmarks._base import Item, Plan
from fairforget.benchmarks._contrast import LikelihoodBenchmark
from fairforget.data.starter import load_starter
from fairforget.data.training import TrainingText
from fairforget.edits import Edit, SelfDebiasEdit
from fairforget.methods._memorisation import TEXTS, extraction_likelihood, memorisation_accuracy
from fairforget.methods._retain import OWN, retain_texts
from fairforget.models import Model
from fairforget.scoring import Request, Scorer
from fairforget.training import TextStream

STEREOTYPES = ("training texts", "held-out stereotypes")
COUNTERPARTS = ("counterparts of training texts", "held-out anti-stereotypes")
NEUTRAL = ("neutral", "neutral, naming a group")
LONGEST = 40
"""Words of a text that is looked at."""

PLACES = 4
"""Tokens of a text that a masked model is asked for, evenly spread: it takes a forward for each."""

FEWEST = 5
"""Texts from which on a set is told of."""

Texts = Sequence[tuple[str, str]]
"""Texts with their clusters."""


class TextSets(LikelihoodBenchmark):
    """Negative log-likelihood per token of named sets of texts; no benchmark of its own, and never a target.

    Args:
        sets: texts by the name of their set.
    """

    name = "texts"
    description = "Likelihood of the texts behind a run."
    report_only = True

    def __init__(self, sets: Mapping[str, Texts]) -> None:
        super().__init__()
        self.sets = sets

    def items(self, family: str, part: str) -> list[Item]:
        """One item a text; they have no parts."""
        del family
        return [
            Item(
                id=str(number), task=task, role="bias" if task in STEREOTYPES else "ability", part=part, cluster=cluster, stratum=task,
                groups=(), texts=(text,),
            )
            for task, texts in self.sets.items()
            for number, (text, cluster) in enumerate(texts)
        ]

    def plan(self, item: Item, model: Model) -> Plan:
        """All tokens of a causal model's text in one request; of a masked one's, some."""
        whole = super().plan(item, model)
        if model.family == "causal" or whole.skipped:
            return whole
        return Plan(tuple(_spread(requests, PLACES) for requests in whole.requests))

    def metrics(self) -> list[MetricDefinition]:
        """Negative log-likelihood per token."""
        return [
            MetricDefinition(
                "nll", (pl.col("nll"),), (pl.col("tokens"),), "nats", "lower", "Mean negative log-likelihood of a token.",
            )
        ]


@dataclass(frozen=True)
class TextAccount:
    """What became of the texts.

    Attributes:
        metrics: ``METRIC_SCHEMA``, a task for each set.
        memorisation: ``accuracy`` and, where it was asked for, ``extraction``: before and after.
    """

    metrics: pl.DataFrame
    memorisation: dict[str, list[float]]


def text_sets(
    trained: Sequence[TrainingText] | Sequence[str], target: Benchmark, family: str, neutral: Sequence[str], most: int
) -> dict[str, Texts]:
    """The sets of a run, each of at most `most` texts of at most ``LONGEST`` words, chosen by hash; sets under ``FEWEST`` are left out.

    Args:
        trained: training texts.
        target: benchmark whose reported stereotypes were not trained on.
        family: of the model.
        neutral: text that the method was given to keep.
        most: texts of a set.
    """
    rows = [TrainingText(row, (), row) if isinstance(row, str) else row for row in trained]
    learnt = _some([(row.prompt + row.text, row.counterpart and row.prompt + row.counterpart, row.cluster) for row in rows], most)
    pairs = [(target.sentences(item), item.cluster) for item in target.measured_items(family, "test")]
    held_out = _some([(*pair, cluster) for pair, cluster in pairs if pair is not None], most)
    plain = _some([(text, "", text) for text in neutral], most)
    naming = _some([(text.text, "", text.cluster) for text in load_starter().mentions], most)
    sets: dict[str, Texts] = {
        STEREOTYPES[0]: [(text, cluster) for text, _, cluster in learnt],
        COUNTERPARTS[0]: [(other, cluster) for _, other, cluster in learnt if other],
        STEREOTYPES[1]: [(text, cluster) for text, _, cluster in held_out],
        COUNTERPARTS[1]: [(other, cluster) for _, other, cluster in held_out],
        NEUTRAL[0]: [(text, cluster) for text, _, cluster in plain],
        NEUTRAL[1]: [(text, cluster) for text, _, cluster in naming],
    }
    return {name: texts for name, texts in sets.items() if len(texts) >= FEWEST}


def kept_text(settings: Mapping[str, Any], seed: int) -> list[str]:
    """Neutral text that the settings of a method name and use, else that of the starter set."""
    retains = settings.get("retain", "always") != "none" or bool(settings.get("ewc"))
    source = settings.get("neutral_text") or (settings.get("retain_text") if retains else None) or "starter"
    return list(dict.fromkeys(retain_texts("starter" if source == OWN else str(source), seed)))


def account_for_texts(
    model: Model, edit: Edit, sets: Mapping[str, Texts], *, forgets: bool = False, extraction: bool = False, resamples: int = 10_000,
    seed: int = 0, say: Callable[[str], None] = lambda _: None,
) -> TextAccount:
    """Measure the sets before and after an edit.

    Args:
        model: the base.
        edit: at the strength that is reported.
        sets: from :func:`text_sets`.
        forgets: the method is to make training texts and stereotypes less likely; without it no direction of theirs is called better.
        extraction: also the extraction likelihood, which lets a causal model go on from every prefix of the texts.
        resamples: bootstrap resamples.
        seed: of the resamples.
        say: told what is left out.
    """
    texts = TextSets(sets)
    trained = [text for text, _ in sets.get(STEREOTYPES[0], ())][:TEXTS]
    if extraction and model.family != "causal":
        say("Note: extraction likelihood needs a causal model, which continues a text; it is left out.")
    if isinstance(edit, SelfDebiasEdit):
        trained = []  # it works on distributions that are asked for, and memorisation is read from the model itself
    found: list[pl.DataFrame] = []
    memorised: dict[str, list[float]] = {}
    for state in ("base", "edited"):
        with edit.applied(model) if state == "edited" else nullcontext():
            found.append(texts.measure(Scorer(model), "texts"))
            for name, value in _memorisation(model, trained, extraction=extraction and model.family == "causal").items():
                memorised.setdefault(name, []).append(value)
    metrics = evaluate(texts, *found, resamples=resamples, seed=seed)
    better = pl.when(pl.col("task").is_in(STEREOTYPES)).then(pl.lit("higher" if forgets else "")).otherwise(pl.col("better"))
    return TextAccount(metrics.with_columns(better=better), memorised)


def _memorisation(model: Model, texts: Sequence[str], *, extraction: bool) -> dict[str, float]:
    if not any(model.token_ids(text) for text in texts):
        return {}
    stream = TextStream(model, texts)
    found = {"accuracy": memorisation_accuracy(model, stream)}
    return found | ({"extraction": extraction_likelihood(model, stream.rows)} if extraction else {})


def _spread(requests: Sequence[Request], most: int) -> tuple[Request, ...]:
    """At most so many of them, evenly spread."""
    step = max(len(requests) / most, 1.0)
    return tuple(requests[int(place * step)] for place in range(min(most, len(requests))))


def _some(rows: Sequence[tuple[str, str, str]], most: int) -> list[tuple[str, str, str]]:
    """Rows (text, counterpart or nothing, cluster) of short texts, each text once, the first ones by hash."""
    short = {row[0]: row for row in rows if 0 < len(row[0].split()) <= LONGEST}
    return sorted(short.values(), key=lambda row: hashlib.sha256(f"{row[2]}\0{row[0]}".encode()).hexdigest())[:most]
