"""Questions with options of which one is right: what the parsers of capability benchmarks share, and the seven sets kept by llm-foundry.

llm-foundry (mosaicml, Apache-2.0) stores its copies as finished prompts; the loaders here take the prompts apart again, so that a
benchmark can put them together as the public scorers do. None of these sets is trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import fold, folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import read_rows
from fairforget.errors import DataError, unknown_name

ARC_FILES = {"easy": "arc_easy.jsonl", "challenge": "arc_challenge.jsonl"}
"""File of each set of ARC."""

CONNECTORS = {"because": "cause", "therefore": "effect"}
"""What COPA asks for after each connecting word."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question."""

    id: str
    """Row number of its file, from 0, with the set's or file's name where there are several."""
    question: str
    """The question, the beginning to go on from, or the goal."""
    options: tuple[str, ...]
    right: int
    """Index of the right option."""
    context: str
    """What the question is about (a passage, a story); empty where the question stands alone."""
    groups: tuple[str, ...]
    cluster: str
    stratum: str
    part: str
    """``train`` (where the set has one), ``select`` or ``test``."""


@dataclass(frozen=True)
class RawQuestion:
    """A question as a file gives it, before clusters and parts are made."""

    question: str
    options: tuple[str, ...]
    right: int
    keys: frozenset[str]
    """Questions that share a key are one cluster."""
    context: str = ""
    stratum: str = "all"
    groups: tuple[str, ...] = ()


def deal(raw: Sequence[RawQuestion], name: str, shares: Mapping[str, float] = SELECT_TEST) -> list[ChoiceQuestion]:
    """Cluster questions by shared keys and deal the clusters out to parts within strata.

    Args:
        raw: all questions of a set, in the order of its files.
        name: begins each id, unless empty.
        shares: of the parts.
    """
    clusters = [f"{name} {first}".strip() for first in connected_rows([set(entry.keys) for entry in raw])]
    strata = [entry.stratum for entry in raw]
    homes, parts = home_strata(clusters, strata), assign_parts(clusters, strata, shares)
    return [
        ChoiceQuestion(
            f"{name} {number}".strip(), entry.question, entry.options, entry.right, entry.context, entry.groups, cluster, home, part
        )
        for number, (entry, cluster, home, part) in enumerate(zip(raw, clusters, homes, parts, strict=True))
    ]


def key_of(text: str) -> frozenset[str]:
    """The key that texts share which differ in case, space and punctuation alone."""
    return frozenset({folded_key(text) or text})


def likeness(first: str, second: str) -> float:
    """Share of the words of two texts that both have (Jaccard index of their sets of folded words)."""
    one, other = set(fold(first).split()), set(fold(second).split())
    return len(one & other) / max(1, len(one | other))


def neighbour_keys(texts: Sequence[str], least: float, inside: Callable[[int], bool] = lambda _: True) -> list[str]:
    """Keys that texts share with the text before them where the two are alike: files keep twins side by side.

    Args:
        texts: in the order of a file.
        least: likeness from which on two neighbours are twins.
        inside: whether the text with an index may be a twin at all.
    """
    keys: list[str] = []
    for number, text in enumerate(texts):
        twin = number > 0 and inside(number) and inside(number - 1) and likeness(texts[number - 1], text) >= least
        keys.append(keys[-1] if twin else f"twins {number}")
    return keys


def load_arc(subset: str, path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the test questions of ARC: 2,376 easy ones, 1,172 of the challenge (Clark et al. 2018).

    llm-foundry's copy has exactly four options in every row: a few questions that upstream asks with three carry their first option twice,
    which is put right here; those with five lack one wrong option. Clusters: equal questions.

    Args:
        subset: ``easy`` or ``challenge``.
        path: a file in the format of the copy; by default the one of the catalogue.

    Raises:
        UsageError: there is no such set.
        DataError: the file is not in that format.
    """
    if subset not in ARC_FILES:
        raise unknown_name("set of ARC", subset, ARC_FILES)
    path = path or fetch("arc", ARC_FILES[subset])
    raw = [
        RawQuestion(question, options, right, key_of(question), stratum=subset)
        for question, options, right in _rows(path, re.compile(r"Question: (.+)", re.DOTALL))
    ]
    return deal(raw, subset)


def load_openbookqa(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 500 test questions of OpenBookQA (Mihaylov et al. 2018). Clusters: equal questions.

    Raises:
        DataError: the file is not in the format of llm-foundry's copy.
    """
    path = path or fetch("openbookqa", "openbook_qa.jsonl")
    rows = _rows(path, re.compile(r"(.+)", re.DOTALL))
    return deal([RawQuestion(beginning, options, right, key_of(beginning)) for beginning, options, right in rows], "")


def load_commonsenseqa(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 1,221 validation questions of CommonsenseQA (Talmor et al. 2019), which has five options.

    llm-foundry's copy leaves out one wrong option, in such a way that 40 % of the right ones stand third. Clusters: equal questions.

    Raises:
        DataError: the file is not in the format of the copy.
    """
    path = path or fetch("commonsenseqa", "commonsense_qa.jsonl")
    raw: list[RawQuestion] = []
    pattern = re.compile(r"Question: (.+)\nChoices:\n((?:[A-Z]\. .*\n)+)Answer:", re.DOTALL)
    for number, (found, right) in enumerate(_lettered(path, pattern)):
        question, options = found[0], _options(path, number, found[1])
        raw.append(RawQuestion(question, options, right, key_of(question)))
    return deal(raw, "")


def load_siqa(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 1,954 validation questions of Social IQa (Sap et al. 2019), which has three options.

    llm-foundry's copy leaves out one wrong option. Clusters: questions about one scene.

    Raises:
        DataError: the file is not in the format of the copy.
    """
    path = path or fetch("siqa", "siqa.jsonl")
    raw: list[RawQuestion] = []
    pattern = re.compile(r"Context: (.+)\nQuestion: (.+)\nChoices:\n((?:[A-Z]\. .*\n)+)Answer:")
    for number, (found, right) in enumerate(_lettered(path, pattern)):
        raw.append(RawQuestion(found[1], _options(path, number, found[2]), right, key_of(found[0]), context=found[0]))
    return deal(raw, "")


def load_copa(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 100 validation questions of COPA (Roemmele et al. 2011): `context` is the premise, `question` ``cause`` or ``effect``.

    Raises:
        DataError: the file is not in the format of llm-foundry's copy.
    """
    path = path or fetch("copa", "copa.jsonl")
    raw: list[RawQuestion] = []
    for (premise, connector), options, right in _rows_of(path, re.compile(r"(.+), (because|therefore)", re.DOTALL)):
        kind = CONNECTORS[connector]
        raw.append(RawQuestion(kind, options, right, key_of(premise), context=premise, stratum=kind, groups=(kind,)))
    return deal(raw, "")


def load_boolq(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 3,270 validation questions of BoolQ (Clark et al. 2019), ``question`` without its question mark, options no and yes.

    llm-foundry's copy lacks the titles that SuperGLUE puts before the passages. Clusters: questions about one passage.

    Raises:
        DataError: the file is not in the format of the copy.
    """
    path = path or fetch("boolq", "boolq.jsonl")
    raw: list[RawQuestion] = []
    for (passage, question), options, right in _rows_of(path, re.compile(r"Passage: (.+)\nQuestion: (.+)\?", re.DOTALL)):
        if options != ("no", "yes"):
            raise DataError(f"{path} row {len(raw) + 1}: the options of BoolQ are no and yes.")
        raw.append(RawQuestion(question, options, right, key_of(passage), context=passage))
    return deal(raw, "")


def load_winogrande(path: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 1,267 validation sentences of WinoGrande (Sakaguchi et al. 2020).

    `options` are the sentence's beginnings, each with one of the two names in the gap; `question` is what follows the gap in both.
    Clusters: twins, which the file keeps side by side and which have most words in common.

    Raises:
        DataError: the file is not in the format of llm-foundry's copy.
    """
    path = path or fetch("winogrande", "winogrande.jsonl")
    rows = read_rows(path, ["context_options", "continuation", "gold"])
    whole: list[str] = []
    for number, row in enumerate(rows, start=1):
        options, right = _checked(path, number, row["context_options"], row["gold"])
        if len(options) != 2 or not str(row["continuation"]).strip():
            raise DataError(f"{path} row {number}: a sentence of WinoGrande has two beginnings and an end.")
        row |= {"context_options": options, "gold": right}
        whole.append(f"{options[0]} {row['continuation']}")
    return deal([
        RawQuestion(row["continuation"].strip(), row["context_options"], row["gold"], frozenset({twins}))
        for row, twins in zip(rows, neighbour_keys(whole, 0.5), strict=True)
    ], "")


def _rows(path: Path, pattern: re.Pattern[str]) -> list[tuple[str, tuple[str, ...], int]]:
    """One part of the prompt, options, index of the right one."""
    return [(found[0], options, right) for found, options, right in _rows_of(path, pattern)]


def _rows_of(path: Path, pattern: re.Pattern[str]) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The parts of each prompt that the pattern finds, the options, and the index of the right one."""
    rows: list[tuple[tuple[str, ...], tuple[str, ...], int]] = []
    for number, row in enumerate(read_rows(path, ["query", "choices", "gold"]), start=1):
        found = pattern.fullmatch(str(row["query"]).strip())
        if found is None:
            raise DataError(f"{path} row {number}: 'query' is not a prompt of this set: it was changed, or is of another set.")
        rows.append((tuple(part.strip() for part in found.groups()), *_checked(path, number, row["choices"], row["gold"])))
    return rows


def _lettered(path: Path, pattern: re.Pattern[str]) -> list[tuple[tuple[str, ...], int]]:
    """As :func:`_rows_of`, where the options stand in the prompt and the choices are their letters."""
    rows: list[tuple[tuple[str, ...], int]] = []
    for number, (found, letters, right) in enumerate(_rows_of(path, pattern), start=1):
        if [line[:1] for line in found[-1].split("\n")] != list(letters):
            raise DataError(f"{path} row {number}: the letters of the prompt's options are not those of 'choices'.")
        rows.append((found, right))
    return rows


def _options(path: Path, number: int, listed: str) -> tuple[str, ...]:
    """The options of lines such as ``A. river``."""
    options = tuple(line.partition(". ")[2].strip() for line in listed.split("\n"))
    if not all(options):
        raise DataError(f"{path} row {number + 1}: an option is blank.")
    return options


def _checked(path: Path, number: int, choices: Any, gold: Any) -> tuple[tuple[str, ...], int]:
    """Options and the index of the right one; an option that is there twice counts once."""
    if not isinstance(choices, list) or not isinstance(gold, int) or not 0 <= gold < len(choices):  # pyright: ignore[reportUnknownArgumentType]
        raise DataError(f"{path} row {number}: this is not a list of options and the index of the right one.")
    texts = [str(choice).strip() for choice in choices]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    options = tuple(dict.fromkeys(texts))
    if not all(options) or len(options) < 2:
        raise DataError(f"{path} row {number}: an option is blank, or there is one only.")
    return options, options.index(texts[gold])
