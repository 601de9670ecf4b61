"""HONEST (Nozza et al. 2021): how often a model completes a sentence about people with a word of a lexicon of hurtful words."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._sentences import plan_texts
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.errors import UsageError
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest
from fairforget.settings import Settings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model
    from fairforget.scoring.scorer import Scorer

COMPLETIONS, PROBABILITY = "honest-completions", "honest-probability"
LEXICON_SOURCE = "hurtlex_EN.tsv of github.com/valeriobasile/hurtlex, version 1.2"

_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_MEASURED = pl.when(pl.col("value").is_not_null()).then(1.0)


class HonestSettings(SubsetSettings):
    """Which templates are completed, how, and what counts as hurtful."""

    lexicon: str = ""
    """Path of HurtLex (`hurtlex_EN.tsv`, version 1.2), or of a CSV or TSV with columns lemma, category and level. Needed: it is not
    shipped."""
    templates: Literal["binary", "queer_nonqueer", "both"] = "binary"
    """`binary` = 810 templates about men and women (2021), `queer_nonqueer` = 705 about LGBTQIA+ identities (2022)."""
    form: Literal["completions", "probability"] = "completions"
    """`completions` = the share of completions with a hurtful word, HONEST itself; `probability` = the probability of a hurtful word, its
    likelihood form of ours."""
    completions: int = Field(default=20, ge=1)
    """K: likeliest fills (masked), or drawn continuations (causal), of a template."""
    max_new_tokens: int = Field(default=5, ge=1)
    """Causal completions: longest continuation, in tokens."""
    seed: int = Field(default=0, ge=0)
    """Causal completions: of the drawing."""


class Honest(Benchmark):
    """HONEST score by identity category: the share of K completions that hold a word of the lexicon's conservative level.

    - masked, completions (``top-K fills``): the K likeliest tokens in the gap, each looked up as it is.
    - causal, completions (``K drawn continuations``): K continuations drawn at temperature 1 from the whole distribution; one counts when
      any word of it, punctuation removed, is in the lexicon.
    - probability: of a masked model the summed probability, in the gap, of the lexicon's one-token words; of a causal model the probability
      that the text goes on with the tokens of one of its words. Exact and without sampling noise, and another figure than HONEST's.

    ``value`` is a template's share or probability, ``answer`` its completions.
    """

    name = "honest"
    description = "HONEST (Nozza et al. 2021): hurtful completions of sentences about people, by identity; needs HurtLex."
    Settings: ClassVar[type[Settings]] = HonestSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "probability": {"form": "probability"},
        "queer": {"templates": "queer_nonqueer"},
    }
    datasets = ("honest",)

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._lemmas: frozenset[str] | None = None

    @property
    def lemmas(self) -> frozenset[str]:
        """The hurtful words.

        Raises:
            UsageError: no lexicon is named.
            DataError: the file is missing or not a lexicon.
        """
        from fairforget.data.honest import load_hurtlex

        if not self.settings.lexicon:
            raise UsageError(
                f"honest needs a lexicon of hurtful words, which is not shipped: get {LEXICON_SOURCE} and name it in the setting 'lexicon'."
            )
        if self._lemmas is None:
            self._lemmas = frozenset(word.lemma for word in load_hurtlex(Path(self.settings.lexicon)))
        return self._lemmas

    def items(self, family: str, part: str) -> list[Item]:
        """Templates of one part; an identity is a cluster."""
        del family
        from fairforget.data.honest import SETS, load_honest
        from fairforget.data.overlap import folded_key

        _ = self.lemmas  # a missing lexicon is said before anything is run
        task = COMPLETIONS if self.settings.form == "completions" else PROBABILITY
        return [
            Item(
                id=template.id,
                task=task,
                role="bias",
                part=part,
                cluster=f"{template.stratum} {folded_key(template.identity)}",
                stratum=template.stratum,
                groups=(template.category, f"gap: {template.kind}"),
                texts=(template.text,),
            )
            for name in SETS
            if self.settings.templates in ("both", name)
            for template in load_honest(name=name)
            if part in ("all", template.part)
        ]

    def protocol(self, item: Item, family: str) -> str:
        """How completions are made, and the lexicon's file."""
        del item
        count = self.settings.completions
        kind = {
            ("completions", "masked"): f"top-{count} fills", ("completions", "causal"): f"{count} drawn continuations",
            ("probability", "masked"): "probability in the gap", ("probability", "causal"): "probability of the next word",
        }[self.settings.form, family]
        return f"{kind}, {Path(self.settings.lexicon).name}"

    def plan(self, item: Item, model: Model) -> Plan:
        """Requests for the probabilities of hurtful words; none where completions are made."""
        if self.settings.form == "completions":
            return Plan()
        before, after = _around(item.texts[0])
        if model.family == "masked":
            ids, place = _masked(model, before, after)
            words = {tokens[0] for lemma in sorted(self.lemmas) if len(tokens := model.join_ids(before, " " + lemma)[1]) == 1}
            requests = [MaskedRequest(ids, (place,) * len(words), tuple(sorted(words)))] if words else []
        else:
            context = (*model.prefix, *model.token_ids(before))
            found = {tuple(model.join_ids(before, " " + lemma)[1]) for lemma in self.lemmas}
            # A word that begins with another one's tokens is counted with that one.
            words = sorted(tokens for tokens in found if tokens and not any(tokens[:end] in found for end in range(1, len(tokens))))
            requests = [ContinuationRequest(context, tokens) for tokens in words]
        if not requests:
            return Plan(skipped="no word of the lexicon can be asked for")
        return plan_texts(model, (tuple(requests),))

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """The probability of a hurtful word."""
        del item
        if model.family == "masked":
            return {"value": float(np.exp(scores[0][0]).sum())}
        sums = [values.sum() for values in scores[0]]
        return {"skipped": "no token can be scored without a prefix"} if np.isnan(sums).any() else {"value": float(np.exp(sums).sum())}

    def measure_items(self, scorer: Scorer, items: Sequence[Item], description: str) -> pl.DataFrame:
        """Score or complete items and return their item table."""
        if self.settings.form == "probability":
            return super().measure_items(scorer, items, description)
        self.check(scorer.model)
        return self._completed(items, scorer.model, description, store=scorer.use_store)

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """The item table, from scores or from the completions of the model's present state."""
        if self.settings.form == "probability":
            return super().table(items, scores, model)
        return self._completed(items, model, f"completing {self.name}", store=True)

    def metrics(self) -> list[MetricDefinition]:
        """The HONEST score, or the mean probability of a hurtful word."""
        figure = {
            "completions": ("honest", "Share of completions with a hurtful word (Nozza et al. 2021, who print a share of 1)."),
            "probability": ("hurtful_probability", "Mean probability of a hurtful word at the gap."),
        }[self.settings.form]
        return [MetricDefinition(figure[0], (100 * pl.col("value"),), (_MEASURED,), "%", "lower", description=figure[1])]

    def _completed(self, items: Sequence[Item], model: Model, description: str, *, store: bool) -> pl.DataFrame:
        found = self._fills(items, model, description) if model.family == "masked" else self._drawn(items, model, description, store)
        rows: list[dict[str, Any]] = []
        for item, completions in zip(items, found, strict=True):
            row = self.identity(item, model)
            if isinstance(completions, str):
                row["skipped"] = completions
            else:
                hurtful = [is_hurtful(text, self.lemmas, whole=model.family == "masked") for text in completions]
                row |= {"value": sum(hurtful) / len(hurtful), "answer": " | ".join(completions)}
            rows.append(row)
        return item_table(rows)

    def _fills(self, items: Sequence[Item], model: Model, description: str) -> list[list[str] | str]:
        import torch

        from fairforget.progress import task
        from fairforget.scoring.masked import position_logits

        found: list[list[str] | str] = []
        with task(description, len(items)) as advance, torch.inference_mode():
            for item in items:
                ids, place = _masked(model, *_around(item.texts[0]))
                if len(ids) > model.max_length:
                    found.append(f"{len(ids)} tokens, more than the model's {model.max_length} positions")
                else:
                    best = position_logits(model, ids, [place])[0].topk(min(self.settings.completions, len(model.tokenizer)))
                    found.append([str(model.tokenizer.decode([token])).strip() for token in best.indices.tolist()])
                advance(1)
        return found

    def _drawn(self, items: Sequence[Item], model: Model, description: str, store: bool) -> list[list[str] | str]:
        from fairforget.scoring.generation import Decoding, Generator

        generator = Generator(model, Decoding(self.settings.max_new_tokens, seed=self.settings.seed), store=store)
        prompts = [[*model.prefix, *model.token_ids(_around(item.texts[0])[0])] for item in items]
        answers = generator.generate(prompts, samples=self.settings.completions, description=description)
        return [next((one.skipped for one in some if one.skipped), None) or [one.text.strip() for one in some] for some in answers]


def is_hurtful(completion: str, lemmas: frozenset[str], *, whole: bool) -> bool:
    """Whether a completion holds a hurtful word, by the rules of the authors' code.

    Args:
        completion: a fill, or a continuation.
        lemmas: hurtful words, without accents.
        whole: look the completion up as it is; otherwise each of its words, punctuation removed.
    """
    from fairforget.data.honest import without_accents

    words = [completion] if whole else completion.translate(_PUNCTUATION).split()
    return any(without_accents(word) in lemmas for word in words)


def _around(template: str) -> tuple[str, str]:
    """The text before the gap, without the space, and the text after it."""
    from fairforget.data.honest import GAP

    before, after = template.split(GAP)
    return before.rstrip(), after


def _masked(model: Model, before: str, after: str) -> tuple[tuple[int, ...], int]:
    """The input with its mask token, and the mask's place."""
    ids = tuple(model.sequence_ids(f"{before} {model.tokenizer.mask_token}{after}"))
    assert model.mask_id is not None
    return ids, ids.index(model.mask_id)
