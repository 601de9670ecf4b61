"""What every method with a loss may add to it: terms that hold the model on neutral text and near its base, and (U)NC3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fairforget.data.catalogue import fetch, get_dataset
from fairforget.errors import DataError
from fairforget.geometry import control_words, listed_words
from fairforget.methods._tuning import neutral_texts
from fairforget.models.model import Model
from fairforget.objectives import Collapse, CrossEntropy, ElasticWeightConsolidation, HiddenMatch, KLToBase, L2ToBase
from fairforget.objectives.collapse import Receiver
from fairforget.objectives.drift import Reference
from fairforget.training import Objective, Stream

CORPUS = "lm-corpus-small"
CORPUS_ROWS = 4096
"""Texts drawn from the corpus: more than any run of a few hundred steps sees."""


class RetainSettings(Protocol):
    """The settings that are looked at here; see ``TrainedSettings``."""

    @property
    def retain(self) -> str: ...
    @property
    def retain_weight(self) -> float: ...
    @property
    def l2_sp(self) -> float: ...
    @property
    def ewc(self) -> float: ...


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


def retain_terms(settings: RetainSettings, stream: Stream | None, reference: Reference) -> list[Objective]:
    """The terms that the settings ask for; `stream` is the neutral text, computed on under the name ``retain``."""
    terms: list[Objective] = []
    if settings.retain == "cross-entropy":
        terms.append(CrossEntropy(settings.retain_weight, "retain"))
    elif settings.retain == "kl":
        terms.append(KLToBase(reference, settings.retain_weight, "retain"))
    elif settings.retain == "hidden":
        terms.append(HiddenMatch(reference, settings.retain_weight, "retain"))
    if settings.l2_sp:
        terms.append(L2ToBase(settings.l2_sp))
    if settings.ewc and stream is not None:
        terms.append(ElasticWeightConsolidation(stream, settings.ewc))
    return terms


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


def retain_texts(source: str, seed: int) -> list[str]:
    """Neutral text by name: ``starter``, ``lm-corpus-small`` (an even draw of paragraphs and dialogue turns), or a text file.

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
    path = Path(source).expanduser()
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"retain_text: {source} is not `starter`, not `{CORPUS}`, and cannot be read as a text file ({reason}).") from error
    if not texts:
        raise DataError(f"retain_text: {source} holds no text; write one text a line.")
    return texts
