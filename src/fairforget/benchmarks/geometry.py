"""Neural collapse of fairness words in a corpus: figures with intervals over documents, and a row per word for the page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Item, MetricDefinition, Scores, StateBenchmark
from fairforget.benchmarks.perplexity import PASSAGE_WORDS, Perplexity, PerplexitySettings, windows
from fairforget.data.catalogue import fetch
from fairforget.errors import UsageError
from fairforget.geometry.collapse import STATISTICS
from fairforget.geometry.measure import Geometry, Window, measure_geometry
from fairforget.geometry.words import WordSet, control_words, full_vocabulary, listed_words
from fairforget.settings import Settings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

WORD_TASK = "-words"
"""Ending of the tasks whose items are words: scores are the cosine, two coordinates of the class mean, and the number of states."""

CORPUS = "lm-corpus-small"
_CORPUS_FILES = {"select": "sgd_dev.txt", "test": "sgd_test.txt"}
_CONTROLS = ("random", "matched")


class GeometrySettings(Settings):
    """Which words, in which text, read where."""

    words: tuple[str, ...] = ("gender", "random", "matched")
    """Word sets: lists (`gender`, `race`, `religion`, `nationality`, or a file), `full` (the vocabulary), and controls of the first list,
    as many other words of the corpus: `random`, or `matched` in frequency."""
    corpus: str = "wikitext2"
    """`wikitext2`, `lm-corpus-small` (dialogues that are in no training text), `starter`, or the path of a UTF-8 text file. Never a text
    that the model was just tuned on, unless that is the question (the released protocol)."""
    pieces: Literal["whole_word", "first_piece"] = "whole_word"
    """Words of several tokens: dropped, or their first piece in their place (released code)."""
    names: bool = False
    """Whether first names count as words of their groups; many are those of SEAT."""
    site: Literal["pre_decoder", "encoder_last"] = "pre_decoder"
    """States as the output matrix is multiplied with them, or before a masked model's transform."""
    pairing: Literal["auto", "next", "masked", "self"] = "auto"
    """Which word a state stands for: the next (causal), the masked one (masked), or as said; the released code takes `next` for all."""
    masking: Literal["auto", "targeted", "random"] = "auto"
    """Masked pairing: one occurrence of a word at a time, or 15 % of all places at once; `auto` is `random` for the full vocabulary."""
    per_word: int = Field(default=16, ge=1)
    """Targeted masking: occurrences of a word, spread evenly over the corpus."""
    min_count: int = Field(default=1, ge=1)
    """Words with fewer states are left out and counted. NC1 looks at words with two or more in any case."""
    context: int = Field(default=128, ge=8)
    """Tokens of an input, special tokens or prefix included."""
    documents: int | None = Field(default=None, ge=1)
    """At most so many documents, evenly spread; None = all."""
    centre_rows: bool = False
    """Subtract the mean row of the output matrix: softmax does not see it, NC3 does (released code: no)."""
    weighted: bool = False
    """Centre class means on the mean over states in place of that over words (released code: no)."""
    seed: int = Field(default=0, ge=0)
    """Of random words and random masks."""


class GeometryBenchmark(StateBenchmark):
    """Collapse of word classes: a document is an item, and its scores are its values of the figures.

    A document's value of a figure T is T + n ∂T/∂r, r how often the document counts and n the number of documents (infinitesimal
    jackknife): their mean is T itself, and their resampled mean is T of the resampled corpus to first order, so that intervals and paired
    differences are those of any other benchmark. Nothing is scored by likelihood.
    """

    name = "geometry"
    description = "Neural collapse of fairness words: (U)NC3 and the other figures, with intervals over documents."
    Settings: ClassVar[type[Settings]] = GeometrySettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {"words": ("full",)},
        "xu2025": {"pieces": "first_piece", "pairing": "next"},
    }
    report_only: ClassVar[bool] = True
    caution = "geometry: no bias figure; read (U)NC3 with NC3"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.datasets = (self.settings.corpus,) if self.settings.corpus in ("wikitext2", CORPUS) else ()
        sets = self.settings.words
        if not sets or len(set(sets)) < len(sets) or (sets[0] in (*_CONTROLS, "full") and set(sets) & set(_CONTROLS)):
            raise UsageError("geometry: `words` names each set once, and a list first where there are controls, as in [gender, random].")

    def items(self, family: str, part: str) -> list[Item]:
        """A document for every word set."""
        texts = self._documents(family, part)
        most = self.settings.documents
        if most is not None and most < len(texts):
            texts = [texts[number * len(texts) // most] for number in range(most)]
        return [
            Item(f"{number}: {title}", self._task(words), "ability", part, f"{number}: {title}", "text", (), (text,), {"set": words})
            for words in self.settings.words
            for number, (title, text) in enumerate(texts)
        ]

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """Measure the model's present state: a row per set and document, and one per set and word."""
        del scores
        settings: GeometrySettings = self.settings
        by_set = {name: [item for item in items if item.payload["set"] == name] for name in settings.words}
        documents = by_set[settings.words[0]]
        cut = _windows(model, [item.texts[0] for item in documents], min(settings.context, model.max_length))
        found = measure_geometry(
            model, cut, len(documents), self._sets(model, cut), site=settings.site, pairing=settings.pairing, masking=settings.masking,
            per_word=settings.per_word, min_count=settings.min_count, centre_rows=settings.centre_rows, weighted=settings.weighted,
            seed=settings.seed, description=f"geometry of {', '.join(settings.words)}",
        )
        rows: list[dict[str, Any]] = []
        for (_, own), geometry in zip(by_set.items(), found, strict=True):
            rows += self._document_rows(own, geometry, model)
            if len(geometry.words) <= 4096:
                rows += self._word_rows(own[0], geometry, model)
        return item_table(rows)

    def protocol(self, item: Item, family: str) -> str:
        """Words, corpus and site in words."""
        del item
        settings: GeometrySettings = self.settings
        pairing = ("next" if family == "causal" else "masked") if settings.pairing == "auto" else settings.pairing
        options = [f"{settings.context} tokens"]
        options += [f"{settings.masking} masking, {settings.per_word} a word"] if pairing == "masked" else []
        options += [name for name in ("centre_rows", "weighted", "names") if getattr(settings, name)]
        options += [f"at least {settings.min_count} states"] if settings.min_count > 1 else []
        return f"{pairing} pairing, {settings.site}, {settings.pieces}, {Path(settings.corpus).name}, {', '.join(options)}"

    def metrics(self) -> list[MetricDefinition]:
        """Every figure, and NC4."""
        counted = pl.col("tokens").is_not_null()
        definitions: list[MetricDefinition] = []
        for number, statistic in enumerate(STATISTICS):
            value = pl.when(counted).then(pl.col("scores").list.get(number, null_on_oob=True))
            definitions.append(MetricDefinition(
                statistic.name, (value,), (pl.when(value.is_not_null()).then(1.0),), statistic.unit, statistic.better,
                description=statistic.description,
            ))
        agreed, decided = (
            pl.when(counted).then(pl.col("scores").list.get(len(STATISTICS) + number, null_on_oob=True)) for number in range(2)
        )
        definitions.append(MetricDefinition(
            "nc4", (100 * agreed,), (decided,), "%", "higher",
            description="NC4: share of states whose nearest class mean (of the other half of the documents) is that of their best row.",
        ))
        return definitions

    def _task(self, words: str) -> str:
        return f"geometry-{Path(words).stem if '.' in words else words}"

    def _sets(self, model: Model, cut: Sequence[Window]) -> list[WordSet]:
        settings: GeometrySettings = self.settings
        counts = Counter(token for window in cut for token in window.ids)
        found: dict[str, WordSet] = {}
        for name in settings.words:
            if name == "full":
                found[name] = full_vocabulary(model)
            elif name in _CONTROLS:
                taken = [token for words in found.values() for token in words.ids]
                first = found[settings.words[0]].ids
                found[name] = control_words(
                    model, first, "random" if name == "random" else "matched", counts, seed=settings.seed, avoid=taken
                )
            else:
                found[name] = listed_words(model, name, pieces=settings.pieces, names=settings.names)
        return list(found.values())

    def _document_rows(self, items: Sequence[Item], geometry: Geometry, model: Model) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        columns = {name: number for number, name in enumerate(geometry.values)}
        for number, item in enumerate(items):
            row = self.identity(item, model) | {"texts": []}
            tokens = int(geometry.tokens[number])
            if tokens:
                shares = geometry.shares[number]
                figures = [float(shares[columns[one.name]]) if one.name in columns else None for one in STATISTICS]
                agreed, decided = geometry.nc4[number].tolist()
                row |= {"scores": [*figures, agreed, decided], "tokens": tokens}
            else:
                row |= {"skipped": "no state of the set"}
            rows.append(row)
        return rows

    def _word_rows(self, item: Item, geometry: Geometry, model: Model) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        words = geometry.words
        for number, place in enumerate(geometry.classes.tolist()):
            cosine = float(geometry.cosines[number]) if len(geometry.cosines) else math.nan
            row = self.identity(item, model) | {
                "task": f"{item.task}{WORD_TASK}", "item": str(words.ids[place]), "cluster": str(words.ids[place]), "stratum": "words",
                "groups": [words.groups[place]] if words.groups[place] else [],
                "texts": [words.words[place]],
            }
            figures = [cosine, *geometry.coordinates[number].tolist(), float(geometry.counts[number])]
            rows.append(row | ({"skipped": "its angle is undefined"} if math.isnan(cosine) else {"scores": figures}))
        left_out = {**words.dropped, **({"too rare in the corpus": geometry.unseen} if geometry.unseen else {})}
        return rows + [
            self.identity(item, model) | {
                "task": f"{item.task}{WORD_TASK}", "item": f"dropped: {reason}", "cluster": f"dropped: {reason}", "stratum": "dropped",
                "texts": [], "skipped": f"{count} words dropped: {reason}",
            }
            for reason, count in left_out.items()
        ]

    def _documents(self, family: str, part: str) -> list[tuple[str, str]]:
        """Title and text of each document."""
        if self.settings.corpus == CORPUS:
            halves = ("select", "test") if part == "all" else (part,)
            lines = [line for half in halves for line in fetch(CORPUS, _CORPUS_FILES[half]).read_text(encoding="utf-8").splitlines()]
            return [(f"lines {start + 1} on", text) for start, text in _joined(lines)]
        source = Perplexity(PerplexitySettings(source=self.settings.corpus))
        return [(item.id.partition(": ")[2], item.texts[0]) for item in source.items(family, part)]


def _joined(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Lines joined until a document has some hundreds of words, with the number of the first."""
    found: list[tuple[int, list[str]]] = []
    words = PASSAGE_WORDS
    for number, line in enumerate(lines):
        if words >= PASSAGE_WORDS:
            found.append((number, []))
            words = 0
        found[-1][1].append(line)
        words += len(line.split())
    return [(number, "\n".join(texts)) for number, texts in found]


def _windows(model: Model, texts: Sequence[str], length: int) -> list[Window]:
    """Texts as inputs, each token in one."""
    start, end = (model.prefix, ()) if model.family == "causal" else model.enclosing_ids()
    room = length - len(start) - len(end)
    return [
        Window((*start, *ids, *end), document)
        for document, text in enumerate(texts)
        for _, _, ids in windows(model.token_ids(text), room, None)
    ]

