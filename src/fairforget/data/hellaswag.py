"""HellaSwag: four endings of a scene, of which one is the real one (Zellers et al. 2019, ACL), validation set.

The stored copy is plain text made for llama.cpp (klosax/hellaswag_text_data): the label of the activity and the scene as lm-eval cleans
them, the index of the right ending, the endings. Never trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

import bz2
import re
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.choice_questions import ChoiceQuestion, RawQuestion, deal
from fairforget.data.rows import read_bytes
from fairforget.errors import DataError

LINES = 6
"""Lines of one question."""

_LAST_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
_FINISHED = re.compile(r"[.!?][\"')\]]*$")
_SHARED_WORDS = 4
"""A sentence of so many words that two scenes share makes them one cluster."""


def load_hellaswag(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 10,042 questions, in upstream order. `question` is "ACTIVITY: SCENE".

    lm-eval writes the unfinished last sentence of a video's scene with a capital (``ctx_b.capitalize()``); the copy does not, so that this
    is done here: the words after the last end of a sentence, where the scene does not end in one. Strata: ``activitynet`` (unfinished
    scenes, of videos) and ``wikihow``. Clusters: scenes of one activity that share a sentence (steps of one video or article).

    Args:
        path: a file in the format of the copy, as it is or packed by bzip2; by default the one of the catalogue.

    Raises:
        DataError: the file is damaged or not in that format.
    """
    path = path or fetch("hellaswag", "hellaswag_val_full.txt.bz2")
    lines = _text(path).removesuffix("\n").split("\n")
    if len(lines) % LINES:
        raise DataError(f"{path} has {len(lines)} lines, not {LINES} for each question: it may be cut off.")
    raw: list[RawQuestion] = []
    for start in range(0, len(lines), LINES):
        scene, right, *endings = (line.strip() for line in lines[start : start + LINES])
        if right not in ("0", "1", "2", "3") or not scene or not all(endings):
            raise DataError(f"{path} line {start + 1}: this is not a scene, the index of the right ending and four endings.")
        source = "wikihow" if _FINISHED.search(scene) else "activitynet"
        activity = scene.partition(": ")[0]
        sentences = _LAST_SENTENCE.split(scene.removeprefix(f"{activity}: ").lower())
        keys = {f"{activity}: {sentence}" for sentence in sentences if len(sentence.split()) >= _SHARED_WORDS}
        raw.append(RawQuestion(
            capitalized(scene), tuple(endings), int(right), frozenset(keys or {scene}), stratum=source, groups=(source,)
        ))
    return deal(raw, "")


def capitalized(scene: str) -> str:
    """The scene with its unfinished last sentence, if any, as Python's ``capitalize`` writes it."""
    *_, last = _LAST_SENTENCE.split(scene)
    if _FINISHED.search(scene) or last == scene:
        return scene
    return scene[: len(scene) - len(last)] + last.capitalize()


def _text(path: Path) -> str:
    data = read_bytes(path)
    try:
        return (bz2.decompress(data) if path.suffix == ".bz2" else data).decode("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is cut off or damaged ({type(error).__name__}): get it again.") from error
