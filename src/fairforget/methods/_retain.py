"""What every method with a loss may add to it: terms that hold the model on neutral text, and near its base."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from fairforget.data.catalogue import fetch, get_dataset
from fairforget.errors import DataError
from fairforget.methods._tuning import neutral_texts
from fairforget.objectives import CrossEntropy, ElasticWeightConsolidation, HiddenMatch, KLToBase, L2ToBase
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
