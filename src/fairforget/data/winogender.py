"""Winogender schemas: sentences about 60 occupations in which only a pronoun's gender differs (Rudinger et al. 2018, NAACL)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.parts import TRAIN_SELECT_TEST, assign_parts
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

GENDERS = ("male", "female", "neutral")


@dataclass(frozen=True)
class WinogenderTriplet:
    """One sentence with a male, a female and a neutral pronoun."""

    id: str
    """Occupation, participant and answer, as upstream joins them."""
    occupation: str
    """It is the cluster."""
    participant: str
    """The other person of the sentence; ``someone`` in the variant without a noun."""
    answer: int
    """Whom the pronoun refers to: 0 the occupation, 1 the participant."""
    male: str
    female: str
    neutral: str
    text_percent_female: float
    """Share of women among mentions of the occupation in text, per cent (Bergsma and Lin 2006)."""
    labour_percent_female: float
    """Share of women in the occupation in the United States, per cent (Bureau of Labor Statistics)."""
    labour_year: int
    """Year of that figure: 2015 or 2016."""
    part: str
    """``train``, ``select`` or ``test``, by occupation."""

    @property
    def advantaged(self) -> str:
        """The sentence with the pronoun of the stereotype: male below 50 per cent of women in text, else female (Yu et al. 2023)."""
        return self.male if self.text_percent_female < 50 else self.female

    @property
    def disadvantaged(self) -> str:
        """The sentence with the other pronoun."""
        return self.female if self.text_percent_female < 50 else self.male


def load_winogender(sentences: Path | None = None, statistics: Path | None = None) -> list[WinogenderTriplet]:
    """Load all triplets, in upstream order: 240, four for each occupation.

    Occupations are cut 40/20/40 into train, select and test within the gender that text associates them with (49 of 60: male).

    Args:
        sentences: a file in the format of ``all_sentences.tsv``; by default the one of the catalogue.
        statistics: a file in the format of ``occupations-stats.tsv``; by default the one of the catalogue.

    Raises:
        DataError: a file is not in the upstream format, a triplet is not whole, or an occupation has no statistics.
    """
    sentences = sentences or fetch("winogender", "all_sentences.tsv")
    figures = _figures(statistics or fetch("winogender", "occupations-stats.tsv"))
    triplets: defaultdict[tuple[str, str, int], dict[str, str]] = defaultdict(dict)
    for number, row in enumerate(read_rows(sentences, ["sentid", "sentence"]), start=1):
        name = str(row["sentid"]).removesuffix(".txt").split(".")
        if len(name) != 4 or name[2] not in ("0", "1") or name[3] not in GENDERS or not row["sentence"].strip():
            raise DataError(f"{sentences} row {number} is not OCCUPATION.PARTICIPANT.ANSWER.GENDER.txt with a sentence.")
        if name[0] not in figures:
            raise DataError(f"{sentences} row {number}: there are no statistics of its occupation.")
        triplets[name[0], name[1], int(name[2])][name[3]] = row["sentence"].strip()
    if any(len(texts) != len(GENDERS) for texts in triplets.values()):
        raise DataError(f"{sentences}: a sentence does not come with a male, a female and a neutral pronoun; the file may be cut off.")
    occupations = [occupation for occupation, _, _ in triplets]
    sides = ["male" if figures[occupation][0] < 50 else "female" for occupation in occupations]
    parts = assign_parts(occupations, sides, TRAIN_SELECT_TEST)
    return [
        WinogenderTriplet(
            f"{occupation}.{participant}.{answer}", occupation, participant, answer, texts["male"], texts["female"], texts["neutral"],
            *figures[occupation], part,
        )
        for ((occupation, participant, answer), texts), part in zip(triplets.items(), parts, strict=True)
    ]


def _figures(path: Path) -> dict[str, tuple[float, float, int]]:
    figures: dict[str, tuple[float, float, int]] = {}
    for number, row in enumerate(read_rows(path, ["occupation", "bergsma_pct_female", "bls_pct_female", "bls_year"]), start=1):
        try:
            figures[row["occupation"]] = (float(row["bergsma_pct_female"]), float(row["bls_pct_female"]), int(row["bls_year"]))
        except ValueError as error:
            raise DataError(f"{path} row {number}: percentages and year must be numbers.") from error
    return figures
