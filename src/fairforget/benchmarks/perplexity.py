"""Perplexity of running text: what an edit must not raise.

Causal models: windows of one article each, token and word perplexity; or windows over the joined text, as the field's tables have
them. Masked models: pseudo-perplexity (Salazar et al. 2020) on a fixed list of masked places spread over all articles.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._metrics import PERPLEXITY, WORD_PERPLEXITY
from fairforget.benchmarks._prefixed import harness_prefix, prefix_column
from fairforget.benchmarks._sentences import masked_requests, scored
from fairforget.errors import DataError, UsageError
from fairforget.scoring.requests import ContinuationRequest, Request
from fairforget.settings import Settings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

PASSAGE_WORDS = 300
"""Paragraphs of a user's text file are joined until a passage has this many words."""


class PerplexitySettings(Settings):
    """Which text is scored, and in what windows."""

    source: str = "wikitext2"
    """`wikitext2` (validation articles = select, test articles = test), `starter` (our passages), or the path of a UTF-8 text file, whose
    passages are halved."""
    context: int = Field(default=512, ge=2)
    """Causal: tokens of a window, the prefix token included (`rolling`: its scored tokens); the model's own limit where that is lower."""
    stride: int | None = Field(default=None, ge=1)
    """Causal: tokens scored per window after an article's first; the others of the window are context. None = whole windows, no overlap."""
    masked_context: int = Field(default=128, ge=8)
    """Masked: tokens of the input around a masked place, special tokens included."""
    positions: int = Field(default=4000, ge=1)
    """Masked: number of masked places, spread evenly over all articles."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Score at most this many tokens, an even share from each article; None = all (causal) or `positions` (masked)."""
    select_tokens: int | None = Field(default=None, ge=1)
    """The same for the select part alone, which a strength search scores at many strengths; None = as `max_tokens`."""

    lines: bool = False
    """Each line is a text of its own: windows and masked contexts stay inside it. For collections of sentences; articles are resampled."""
    windowing: Literal["articles", "joined", "bias-bench", "rolling"] = "articles"
    """Causal. `articles`: windows stay inside an article, after the prefix token. `joined`: the whole split as one text, without prefix,
    so that the first token of a window is not scored (Hugging Face's guide, published WikiText-2 figures). `bias-bench`: the same, each
    window's mean multiplied by one token more than it predicts. Windows are resampled under these two. `rolling`: windows of `context`
    scored tokens inside an article, each later one after the last token of the one before; WikiText-2 without its marks (lm-eval)."""

    @model_validator(mode="after")
    def _one_text(self) -> PerplexitySettings:
        if self.lines and self.windowing != "articles":
            raise ValueError(f"lines=true keeps windows inside a line, windowing={self.windowing} does not: choose one")
        if self.stride is not None and self.windowing == "rolling":
            raise ValueError("windowing=rolling has no stride: each window follows on the one before")
        return self

    def limit(self, part: str) -> int | None:
        """Most tokens that are scored of a part."""
        return self.select_tokens if part == "select" and self.select_tokens is not None else self.max_tokens


@dataclass(frozen=True)
class _Window:
    """One scored unit of an article: a window, or one masked place."""

    article: Item
    place: int  # of its first scored token in the article
    requests: tuple[Request, ...]
    words: int | None


class Perplexity(Benchmark):
    """Token and word perplexity of a causal model; pseudo-perplexity of a masked one.

    An item is a window (causal) or a masked place (masked), a cluster is an article, and windows never cross articles. Which tokens are
    scored depends on the text, the tokenizer and the settings alone, so every state of a model is measured on the same ones. Words are
    separated by white space; an article's words are shared over its windows in proportion to tokens, so that an article that is scored
    whole counts all of its words.
    """

    name = "perplexity"
    description = "Perplexity of WikiText-2, the starter passages or your own text: the cost of an edit in plain language modelling."
    Settings: ClassVar[type[Settings]] = PerplexitySettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "wikitext2": {"source": "wikitext2"}, "starter": {"source": "starter"}, "joined": {"windowing": "joined", "context": 2048},
        "bias-bench": {"windowing": "bias-bench", "context": 992}, "lm-eval": {"windowing": "rolling", "context": 2048},
    }

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        source = self.settings.source
        self.datasets = ("wikitext2",) if source == "wikitext2" else ()
        self.task = f"perplexity-{source}" if source in ("wikitext2", "starter") else f"perplexity-{Path(source).stem}"
        self._tokenizer: Any = None
        self._ids: dict[str, list[tuple[int, ...]]] = {}

    def items(self, family: str, part: str) -> list[Item]:
        """Articles of one part; windows are cut when the tokenizer is known."""
        del family
        if self._joined:
            return [Item(part, self.task, "ability", part, part, "text", (), (self._whole(part),))]
        return [
            Item(f"{number}: {title}", self.task, "ability", part, f"{number}: {title}", stratum, (), (text,))
            for number, (title, stratum, text) in enumerate(self._articles(part))
        ]

    def protocol(self, item: Item, family: str) -> str:
        """Windows and context in words."""
        most = self.settings.limit(item.part)
        if family == "masked":
            places = min(self.settings.positions, most or self.settings.positions)
            return f"pseudo-perplexity, {places} places, context {self.settings.masked_context}{', by line' * self.settings.lines}"
        stride = f", stride {self.settings.stride}" if self.settings.stride else ""
        share = f", {most} tokens" if most else ""
        if self._joined:
            counted = ", means times one token more" if self.settings.windowing == "bias-bench" else ""
            return f"joined text in windows of {self.settings.context}{stride}{share}, no prefix{counted}"
        if self._rolling:
            marks = ", without its marks" if self.settings.source == "wikitext2" else ""
            return f"rolling windows of {self.settings.context}{share}{marks}"
        return f"windows of {self.settings.context}{stride}{share}{', by line' * self.settings.lines}"

    def plan(self, item: Item, model: Model) -> Plan:
        """All requests of one article taken alone."""
        return Plan(tuple(window.requests for window in self._windows([item], model)))

    def requests(self, items: Sequence[Item], model: Model) -> list[list[Request]]:
        """Requests of each article; `items` must be the whole part, since the budget of tokens is shared out over it."""
        self.check(model)
        requests: dict[str, list[Request]] = {item.id: [] for item in items}
        for window in self._windows(items, model):
            requests[window.article.id] += window.requests
        return [requests[item.id] for item in items]

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """One row per window or masked place."""
        left = {item.id: iter(found) for item, found in zip(items, scores, strict=True)}
        rows: list[dict[str, Any]] = []
        for window in self._windows(items, model):
            found = [next(left[window.article.id]) for _ in window.requests]
            row = self.identity(window.article, model) | {"item": f"{window.article.id} @{window.place}", "texts": []}
            measured = self.row(window.article, [found], model)
            if self._rolling:
                row |= prefix_column(model, "tokenizer", empty=True)
            if self._joined:
                row |= {"cluster": row["item"], "prefix": "none"}
                measured = self._counted(measured, window)
            rows.append(row | measured | {"words": window.words})
        return item_table(rows)

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Negative log-likelihood of the scored tokens of a window."""
        del item, model
        values = scored(scores[0])
        if not len(values):
            return {"skipped": "no token can be scored without a prefix"}
        return {"nll": -float(values.sum()), "tokens": len(values)}

    def _counted(self, measured: dict[str, Any], window: _Window) -> dict[str, Any]:
        """As bias-bench counts, where that is asked for: the mean over the tokens that are predicted times all tokens of the window."""
        (request,) = window.requests
        if self.settings.windowing != "bias-bench" or "tokens" not in measured or not isinstance(request, ContinuationRequest):
            return measured
        mean: float = measured["nll"] / measured["tokens"]
        return {"nll": mean * len(request.continuation), "tokens": len(request.continuation)}

    def metrics(self) -> list[MetricDefinition]:
        """Per token, and per word where windows cover running text."""
        return [PERPLEXITY, WORD_PERPLEXITY]

    @property
    def _joined(self) -> bool:
        return self.settings.windowing in ("joined", "bias-bench")

    @property
    def _rolling(self) -> bool:
        return self.settings.windowing == "rolling"

    def check(self, model: Model) -> None:
        """Refuse a masked model where windows are those of a causal one's figures; see :meth:`Benchmark.check`."""
        super().check(model)
        if self.settings.windowing != "articles" and model.family == "masked":
            raise UsageError(f"perplexity: windowing={self.settings.windowing} is for causal models; {model.name} is masked.")

    def _whole(self, part: str) -> str:
        """All of a part as one text: of WikiText-2 its lines joined with blank ones, as the hub's table of them is by everyone."""
        if self.settings.source == "wikitext2":
            from fairforget.data.wikitext import joined_lines

            return joined_lines(part)
        return "\n\n".join(text for _, _, text in self._articles(part))

    def _articles(self, part: str) -> list[tuple[str, str, str]]:
        """Title, stratum and text of each article."""
        source = self.settings.source
        if source == "wikitext2":
            from fairforget.data.wikitext import harness_pages, load_wikitext

            read = harness_pages if self._rolling else load_wikitext
            halves = ("select", "test") if part == "all" else (part,)
            return [(article.title, "text", article.text) for half in halves for article in read(half)]
        if source == "starter":
            from fairforget.data.starter import load_starter

            return [(passage.id, passage.stratum, passage.text) for passage in load_starter().passages if part in ("all", passage.part)]
        return _own_text(source, part)

    def _windows(self, items: Sequence[Item], model: Model) -> Iterator[_Window]:
        pieces = [self._pieces(item, model) for item in items]
        if model.family == "masked":
            yield from self._masked_places(items, pieces, model)
            return
        lengths = [sum(map(len, texts)) for texts in pieces]
        budget = self.settings.limit(items[0].part) if items else None
        prefix = () if self._joined else harness_prefix(model, empty=True) if self._rolling else model.prefix
        length = min(self.settings.context, model.max_length) - (0 if self._rolling else len(prefix))
        for item, texts, size, share in zip(items, pieces, lengths, lengths if budget is None else shares(lengths, budget), strict=True):
            # lm-eval splits at white space, so that an article which begins and ends with some has two words more.
            words = len(re.split(r"\s+", item.texts[0]) if self._rolling else item.texts[0].split())
            begin = 0
            for tokens in texts:
                taken = tokens[: max(share - begin, 0)]
                rolled, stride = self._rolling, self.settings.stride
                cut = rolling_windows(taken, length) if rolled else windows(taken, length, stride, fill=not self._joined)
                for start, context, continuation in cut:
                    # Rounding cumulated counts makes the words of all windows sum to the words of the article.
                    first = begin + start
                    before, after = (round(words * end / size) for end in (first, first + len(continuation)))
                    beginning = () if rolled and start else prefix
                    yield _Window(item, first, (ContinuationRequest((*beginning, *context), continuation),), after - before)
                begin += len(tokens)

    def _pieces(self, item: Item, model: Model) -> list[tuple[int, ...]]:
        """Ids of the texts that windows stay inside: the article, or its lines. Kept: each state that is measured asks for them twice."""
        if self._tokenizer is not model.tokenizer:
            self._tokenizer, self._ids = model.tokenizer, {}
        (text,) = item.texts
        if text not in self._ids:
            whole = text
            if self._rolling and self.settings.source == "wikitext2":
                from fairforget.data.wikitext import without_marks

                whole = without_marks(text)
            texts = [line for line in whole.splitlines() if line.strip()] if self.settings.lines else [whole]
            self._ids[text] = [tuple(model.token_ids(one)) for one in texts]
        return self._ids[text]

    def _masked_places(self, items: Sequence[Item], pieces: Sequence[Sequence[tuple[int, ...]]], model: Model) -> Iterator[_Window]:
        start, end = model.enclosing_ids()
        room = min(self.settings.masked_context, model.max_length) - len(start) - len(end)
        if room < 1:
            raise UsageError(f"masked_context = {self.settings.masked_context} leaves no room between the special tokens of {model.name}.")
        wanted = min(self.settings.positions, (self.settings.limit(items[0].part) if items else None) or self.settings.positions)
        lengths = [sum(map(len, texts)) for texts in pieces]
        for item, texts, size, count in zip(items, pieces, lengths, shares(lengths, wanted), strict=True):
            ends = list(itertools.accumulate(map(len, texts)))
            for number in range(count):
                place = (2 * number + 1) * size // (2 * count)
                line = bisect.bisect_right(ends, place)
                tokens = texts[line]
                inside = place - ends[line] + len(tokens)
                first = min(max(inside - room // 2, 0), max(len(tokens) - room, 0))
                sequence = (*start, *tokens[first : first + room], *end)
                yield _Window(item, place, masked_requests(model, sequence, [len(start) + inside - first]), None)


def windows(
    ids: Sequence[int], length: int, stride: int | None, *, fill: bool = True
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Cut a text into windows whose scored tokens cover it once.

    Args:
        ids: the text.
        length: tokens of a window, context included.
        stride: scored tokens of each window after the first; None or `length` for windows without overlap.
        fill: the last window has as much context as fits; else as much as the others (Hugging Face's guide).

    Yields:
        Place of the first scored token, context, scored tokens.
    """
    step = min(stride or length, length)
    start, end = 0, length
    while start < len(ids):
        scored_ids = tuple(ids[start:end])
        window_end = start + (len(scored_ids) if fill or not start else step)  # past the text's end in a last window that is not filled
        yield start, tuple(ids[max(0, window_end - length) : start] if step < length else ()), scored_ids
        start, end = end, end + step


def rolling_windows(ids: Sequence[int], length: int) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Cut a text into windows of scored tokens, each later one after one token of context; the last reaches back to fill its length.

    Args:
        ids: the text.
        length: scored tokens of a window.

    Yields:
        As :func:`windows`.
    """
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        yield start, tuple(ids[max(0, end - length - 1) : start] if start else ()), tuple(ids[start:end])


def shares(lengths: Sequence[int], total: int) -> list[int]:
    """Share out `total` over texts in proportion to their lengths, by largest remainders, no text getting more than its length.

    Every text that has tokens gets at least one while there are enough to go round.
    """
    whole = sum(lengths)
    if total >= whole:
        return list(lengths)
    exact = [total * length / whole for length in lengths]
    given = [int(share) for share in exact]
    by_remainder = sorted(range(len(lengths)), key=lambda place: (given[place] - exact[place], place))
    for place in by_remainder[: total - sum(given)]:
        given[place] += 1
    for empty in (place for place, length in enumerate(lengths) if length and not given[place]):
        richest = max(range(len(given)), key=lambda place: (given[place], -place))
        if given[richest] < 2:
            break
        given[richest] -= 1
        given[empty] += 1
    return given


def _own_text(source: str, part: str) -> list[tuple[str, str, str]]:
    from fairforget.data.parts import SELECT_TEST, assign_parts
    from fairforget.data.rows import read_text

    path = Path(source).expanduser()
    if path.suffix not in (".txt", ".text", ".md", ".gz"):
        raise UsageError(f"perplexity: there is no source '{source}': use wikitext2, starter, or the path of a .txt file.")
    passages: list[list[str]] = [[]]
    for paragraph in filter(str.strip, re.split(r"\n\s*\n", read_text(path))):
        if sum(len(text.split()) for text in passages[-1]) >= PASSAGE_WORDS:
            passages.append([])
        passages[-1].append(paragraph)
    names = [f"passage {number}" for number in range(len(passages))]
    parts = assign_parts(names, ["text"] * len(names), SELECT_TEST)
    chosen = [(name, "text", "\n\n".join(texts)) for name, texts, own in zip(names, passages, parts, strict=True) if part in ("all", own)]
    if not chosen:
        raise DataError(f"{path} is too short to be halved: it needs at least two passages of {PASSAGE_WORDS} words.")
    return chosen
