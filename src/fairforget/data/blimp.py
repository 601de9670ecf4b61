"""BLiMP: minimal pairs of an acceptable and an unacceptable sentence, 67 paradigms of 1,000 (Warstadt et al. 2020, TACL).

Never trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.parts import SELECT_TEST, assign_parts
from fairforget.errors import DataError

PHENOMENA = (
    "anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement", "ellipsis",
    "filler_gap_dependency", "irregular_forms", "island_effects", "npi_licensing", "quantifiers", "subject_verb_agreement",
)
"""The twelve phenomena of the paper."""

FIELDS = ("morphology", "semantics", "syntax", "syntax_semantics")
_SAME_PHENOMENON = {"s-selection": "argument_structure"}
"""The files give two paradigms a term of their own that the paper counts under another."""


@dataclass(frozen=True)
class BlimpPair:
    """One pair."""

    id: str
    """Paradigm and upstream's `pairID`."""
    paradigm: str
    """Upstream's `UID`; it is the stratum."""
    phenomenon: str
    field: str
    good: str
    bad: str
    part: str
    """``select`` or ``test``: halves of each paradigm."""


def load_blimp(path: Path | None = None) -> list[BlimpPair]:
    """Load all pairs, paradigms in alphabetical order; each pair is a cluster of its own.

    Args:
        path: an archive in the upstream format; by default the one of the catalogue.

    Raises:
        DataError: the archive is damaged or holds no pairs, or a line is not one.
    """
    path = path or fetch("blimp", "BLiMP.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith("data/") and name.endswith(".jsonl"))
            files = {name: archive.read(name).decode("utf-8") for name in names}
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (zipfile.BadZipFile, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is cut off or damaged ({type(error).__name__}): get it again.") from error
    if not files:
        raise DataError(f"{path} holds no files data/PARADIGM.jsonl: it is not BLiMP.")
    pairs = [
        _pair(f"{path} ({name}) line {number}", line)
        for name, text in files.items()
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not pairs:
        raise DataError(f"{path} holds no pairs.")
    parts = assign_parts([pair["id"] for pair in pairs], [pair["paradigm"] for pair in pairs], SELECT_TEST)
    return [BlimpPair(**pair, part=part) for pair, part in zip(pairs, parts, strict=True)]


def _pair(where: str, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
        pair = {
            "id": f"{row['UID']} {row['pairID']}", "paradigm": str(row["UID"]),
            "phenomenon": _SAME_PHENOMENON.get(row["linguistics_term"], str(row["linguistics_term"])),
            "field": str(row["field"]).replace("/", "_"),
            "good": str(row["sentence_good"]).strip(), "bad": str(row["sentence_bad"]).strip(),
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{where} has not the fields of BLiMP ({type(error).__name__}): the file may be cut off.") from error
    if pair["phenomenon"] not in PHENOMENA or pair["field"] not in FIELDS or not pair["good"] or not pair["bad"]:
        raise DataError(f"{where}: its phenomenon or field is none of BLiMP's, or a sentence is blank.")
    return pair
