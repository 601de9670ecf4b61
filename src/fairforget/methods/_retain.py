"""What every method with a loss may add to it: terms that hold the model on other text, near its base or off earlier edits, and (U)NC3."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from fairforget.data.catalogue import fetch, get_dataset
from fairforget.data.rows import read_rows, read_text
from fairforget.data.training import TrainingSource, TrainingText, stereoset_unrelated
from fairforget.edits import LowRank, WeightEdit
from fairforget.edits.loading import load_edit
from fairforget.errors import DataError, UsageError
from fairforget.files import sha256_file
from fairforget.geometry import control_words, listed_words
from fairforget.methods._tuning import neutral_texts
from fairforget.models.model import Model
from fairforget.objectives import (
    Collapse,
    CrossEntropy,
    ElasticWeightConsolidation,
    HiddenMatch,
    KLToBase,
    L2ToBase,
    OrthogonalFactors,
)
from fairforget.objectives.collapse import Receiver
from fairforget.objectives.drift import Reference
from fairforget.training import AnswerStream, Objective, Stream, TextStream

CORPUS = "lm-corpus-small"
CORPUS_ROWS = 4096
"""Texts drawn from the corpus: more than any run of a few hundred steps sees."""
UNRELATED = "stereoset-unrelated"
"""Name for StereoSet's sentences that fit their context in form alone, of its `train` terms."""
OWN = "own"
"""Name for the training texts themselves in the place of neutral text."""


class RetainSettings(Protocol):
    """The settings that are looked at here; see ``TrainedSettings``."""

    @property
    def retain(self) -> str: ...
    @property
    def retain_weight(self) -> float: ...
    @property
    def retain_temperature(self) -> float: ...
    @property
    def retain_text(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def masking_rate(self) -> float: ...
    @property
    def l2_sp(self) -> float: ...
    @property
    def ewc(self) -> float: ...
    @property
    def ewc_rows(self) -> int: ...
    @property
    def ewc_labels(self) -> str: ...
    @property
    def orthogonal(self) -> float: ...
    @property
    def orthogonal_to(self) -> Sequence[str]: ...


class CollapseSettings(Protocol):
    """The settings of the (U)NC3 term; see ``TrainedSettings``."""

    @property
    def unc3(self) -> float: ...
    @property
    def unc3_words(self) -> str: ...
    @property
    def unc3_gradient(self) -> Receiver: ...
    @property
    def unc3_means(self) -> str: ...
    @property
    def unc3_protocol(self) -> str: ...


def retain_terms(settings: RetainSettings, stream: Stream | None, reference: Reference, seed: int = 0) -> list[Objective]:
    """The terms that the settings ask for; `stream` is the text to be retained, computed on under the name ``retain``.

    Raises:
        UsageError: an edit to be orthogonal to that is not there or not low-rank.
        DataError: one that is damaged.
    """
    terms: list[Objective] = []
    if settings.retain == "cross-entropy":
        terms.append(CrossEntropy(settings.retain_weight, "retain"))
    elif settings.retain == "kl":
        terms.append(KLToBase(reference, settings.retain_weight, "retain", temperature=settings.retain_temperature))
    elif settings.retain == "hidden":
        terms.append(HiddenMatch(reference, settings.retain_weight, "retain"))
    if settings.l2_sp:
        terms.append(L2ToBase(settings.l2_sp))
    if settings.ewc and stream is not None:
        drawn = settings.ewc_labels == "drawn"
        terms.append(ElasticWeightConsolidation(stream, settings.ewc, settings.ewc_rows, drawn=drawn, seed=seed))
    if settings.orthogonal:
        terms.append(OrthogonalFactors({folder: earlier_factors(folder) for folder in settings.orthogonal_to}, settings.orthogonal))
    return terms


def earlier_factors(folder: str) -> dict[str, Tensor]:
    """The factors A of a saved low-rank edit, (rank, in), by the name of the weight they change.

    Raises:
        UsageError: there is no edit there, or it is not low-rank throughout.
        DataError: the edit is damaged.
    """
    edit = load_edit(Path(folder).expanduser())
    deltas = edit.deltas if isinstance(edit, WeightEdit) else {}
    factors = {name: delta.A for name, delta in deltas.items() if isinstance(delta, LowRank)}
    if not factors or len(factors) < len(deltas):
        raise UsageError(f"orthogonal_to: the edit in {folder} is not low-rank, so it has no factors: name one made with tuning=lora.")
    return factors


def retain_stream(
    settings: RetainSettings, model: Model, data: TrainingSource | Sequence[TrainingText] | Sequence[str], seed: int
) -> tuple[Stream, dict[str, Any]]:
    """The rows of `retain_text` as a stream, and what the record of an edit says of them.

    Args:
        settings: which text, and how it is cut and masked.
        model: whose tokenizer and family decide ids and labels.
        data: the training data, which ``own`` stands for.
        seed: of this fit.

    Raises:
        DataError: the file is missing, not text, or empty.
        UsageError: no row can be used.
    """
    source = settings.retain_text
    facts: dict[str, Any] = {"text": source}
    if source not in (OWN, "starter", CORPUS, UNRELATED):
        texts, answers = file_rows(source)
        facts["sha256"] = sha256_file(Path(source).expanduser())
    else:
        texts, answers = own_texts(data) if source == OWN else retain_texts(source, seed), []
    if answers:
        stream = AnswerStream(model, answers, max_length=settings.max_length)
        return stream, facts | {"answers": len(stream), "left_out": stream.left_out}
    # a seed of its own, so that the masks are not those of the training texts
    found = TextStream(model, texts, max_length=settings.max_length, masking_rate=settings.masking_rate, seed=seed + 1)
    return found, facts | {"texts": len(found)}


def own_texts(data: TrainingSource | Sequence[TrainingText] | Sequence[str]) -> list[str]:
    """What is trained on, up to where the new is learnt: the prompt of a question, otherwise the text."""
    rows = data.texts if isinstance(data, TrainingSource) else data
    return list(dict.fromkeys(row if isinstance(row, str) else row.prompt or row.text for row in rows))


def collapse_terms(
    settings: CollapseSettings, model: Model, texts: Sequence[str], stream: str, seed: int
) -> tuple[list[Objective], dict[str, Any]]:
    """The (U)NC3 term on a stream, if it is asked for, and what the record of the edit says of it.

    Raises:
        UsageError: no such words, or too few of them among the training texts.
    """
    if not settings.unc3:
        return [], {}
    released = settings.unc3_protocol == "xu2025"
    kind, _, reference = settings.unc3_words.rpartition(":")
    if kind not in ("", "random", "matched"):  # a path may hold a colon
        kind, reference = "", settings.unc3_words
    words = listed_words(model, reference, pieces="first_piece" if released else "whole_word")
    if kind:
        counts = Counter(token for text in texts for token in model.token_ids(text))
        words = control_words(model, words.ids, "random" if kind == "random" else "matched", counts, seed=seed)
    fixed = settings.unc3_means in ("never", "epoch")
    term = Collapse(
        words.ids,
        settings.unc3,
        stream,
        gradient=settings.unc3_gradient,
        reset=settings.unc3_means if fixed else float(settings.unc3_means.removeprefix("ema:")),  # type: ignore[arg-type]
        pairing="next" if released else "auto",
        site="encoder_last" if released else "pre_decoder",
    )
    return [term], {"unc3": {"words": settings.unc3_words, "classes": len(words), "dropped": dict(words.dropped), "stream": stream}}


def collapse_facts(settings: CollapseSettings, terms: Sequence[Objective], facts: dict[str, Any]) -> dict[str, Any]:
    """What the record of the edit says of (U)NC3 after a training: how many words were seen, and a warning where it was 0 all along."""
    found: dict[str, Any] = {}
    for term in terms:
        if isinstance(term, Collapse):
            found["unc3"] = {**facts["unc3"], "seen": term.seen}
            if term.seen < 2:
                found["warnings"] = [
                    f"unc3 added nothing: {term.seen} of the {len(term.words)} words of unc3_words={settings.unc3_words} stood at a place "
                    "that this method learns to predict. Choose words that its targets hold, or another method."
                ]
    return found


def retain_texts(source: str, seed: int) -> list[str]:
    """Neutral text by name, in an order drawn by the seed, or of a file.

    ``lm-corpus-small`` is an even draw of its paragraphs and dialogue turns.

    Of a file of questions, prompt and answer are one text; see :func:`file_rows`.

    Raises:
        DataError: the file is missing, not text, or empty.
    """
    if source == "starter":
        return neutral_texts(seed)
    if source == CORPUS:
        names = [file.name for file in get_dataset(CORPUS).files if "dev" not in file.name and "test" not in file.name]
        read = [fetch(CORPUS, name).read_text(encoding="utf-8").splitlines() for name in names]
        halves = [[line for line in lines if len(line.split()) > 4] for lines in read]
        generator = np.random.default_rng([seed, 7])
        drawn = [[half[index] for index in generator.permutation(len(half))[: CORPUS_ROWS // len(halves)].tolist()] for half in halves]
        return [text for rows in zip(*drawn, strict=False) for text in rows]
    if source == UNRELATED:
        unrelated = stereoset_unrelated()
        return [unrelated[index] for index in np.random.default_rng([seed, 7]).permutation(len(unrelated)).tolist()]
    texts, answers = file_rows(source)
    return texts or [prompt + answer for prompt, answer in answers]


def file_rows(source: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts of a file, or its questions and answers; one of the two is empty.

    A JSONL file has in each row ``text``, or ``prompt`` and ``answer``, the answer as it follows the prompt with the space between them.
    Any other file has one text a line.

    Raises:
        DataError: the file is missing, not text, empty, or a row lacks a value.
    """
    path = Path(source).expanduser()
    if Path(path.name.removesuffix(".gz")).suffix in (".jsonl", ".ndjson"):
        columns = ("prompt", "answer") if _asks(path) else ("text",)
        rows = read_rows(path, columns)
        for number, row in enumerate(rows, start=1):
            blank = next((name for name in columns if not isinstance(row[name], str) or not row[name].strip()), None)
            if blank is not None:
                raise DataError(f"retain_text: {source} row {number} has no text in '{blank}': fill it in or take the row out.")
        if len(columns) == 1:
            return [row["text"] for row in rows], []
        return [], [(row["prompt"], row["answer"]) for row in rows]
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        known = f"`starter`, `{CORPUS}`, `{UNRELATED}` or `{OWN}`"
        raise DataError(f"retain_text: {source} is not {known}, and cannot be read as a text file ({reason}).") from error
    if not texts:
        raise DataError(f"retain_text: {source} holds no text; write one text a line.")
    return texts, []


def _asks(path: Path) -> bool:
    """Whether the first row of a JSONL file is a question with its answer; rows that cannot be read are complained of by their reader."""
    first = next(line for line in read_text(path).split("\n") if line.strip())
    try:
        return "answer" in json.loads(first)
    except (ValueError, TypeError):
        return False
