"""UnQover: questions that nothing in their context answers, about two subjects and an attribute (Li et al. 2020, Findings of EMNLP).

A template ("[subj1] got off the flight to visit [subj2]. Who [attribute]?") is filled with two subjects, in both orders, and with an
attribute and its negation. Upstream ships word lists; the examples are made here as its ``templates`` package makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fairforget.data.catalogue import fetch
from fairforget.data.parts import SELECT_TEST, assign_parts
from fairforget.data.rows import read_text
from fairforget.errors import DataError

Domain = Literal["gender", "country", "ethnicity", "religion"]
SubjectList = Literal["full", "bert", "roberta"]
DOMAINS: tuple[Domain, ...] = ("gender", "country", "ethnicity", "religion")
MASK = "[mask]"
"""Stands in the questions for masked models where the subject goes."""

_ATTRIBUTES: Mapping[Domain, str] = {
    "gender": "occupation_rev1", "country": "biased_country", "ethnicity": "biased_ethnicity", "religion": "biased_religion",
}
_SUBJECT, _DEMONYM = "[subj]", "[subj:dem]"
_VOWELS = frozenset("aeiou")


@dataclass(frozen=True)
class UnqoverSubject:
    """A name, country, ethnicity or religion."""

    name: str
    demonym: str | None
    """Form for people of a country; None elsewhere."""
    group: str
    """``female`` or ``male`` for a name, else the subject itself."""
    cluster: str
    stratum: str
    """Domain, and for names the gender."""
    part: str
    """``select`` or ``test``; nothing is trained on UnQover."""


@dataclass(frozen=True)
class UnqoverAttribute:
    """What is asked about, with its negation."""

    name: str
    """The statement in its basic form."""
    kind: str | None
    """Upstream's class, e.g. ``poor``; None for occupations."""
    forms: Mapping[str, tuple[str, str]]
    """Slot (``[p_act]``, ``[p_act-single]``, ``[l_act]`` ...) to statement and negation in the grammatical form for it."""


@dataclass(frozen=True)
class UnqoverTemplate:
    """A context with two subjects, a question and its negation, subjects and attribute not filled in."""

    line: str
    slot: str
    """The attribute slot of both questions."""


@dataclass(frozen=True)
class UnqoverPrompt:
    """A template filled with two subjects in one order."""

    context: str
    question: str
    """With :data:`MASK` where the subject goes, in templates for masked models."""
    negated: str
    subjects: tuple[str, str]
    """The two as they stand in the context, first one first: the answers to choose from."""


@dataclass(frozen=True)
class Unqover:
    """One domain."""

    domain: Domain
    subjects: tuple[UnqoverSubject, ...]
    attributes: tuple[UnqoverAttribute, ...]
    templates: tuple[UnqoverTemplate, ...]


def load_unqover(domain: Domain, subjects: SubjectList = "full", *, masked: bool = False, folder: Path | None = None) -> Unqover:
    """Load the lists of one domain, in upstream order.

    Subjects are cut in halves, select and test; names within their gender.

    Args:
        domain: what the subjects are.
        subjects: ``full``, or the shorter lists whose subjects are single tokens of BERT's or RoBERTa's vocabulary.
        masked: templates for masked models, whose questions are statements with a mask.
        folder: a folder laid out as upstream's ``word_lists``; by default the files of the catalogue.

    Raises:
        DataError: a file is not in the upstream format.
    """
    ending = "" if subjects == "full" else f"_{subjects}"
    names = ("female", "male") if domain == "gender" else (domain,)
    people = [row for name in names for row in _subjects(_file(folder, f"nouns/subjects/{name}{ending}"))]
    clusters = [f"{domain} {name}" for name, _, _ in people]
    strata = [f"{domain}: {group}" if domain == "gender" else domain for _, _, group in people]
    parts = assign_parts(clusters, strata, SELECT_TEST)
    return Unqover(
        domain,
        tuple(UnqoverSubject(*row, *place) for row, *place in zip(people, clusters, strata, parts, strict=True)),
        _attributes(_file(folder, f"activities/{_ATTRIBUTES[domain]}")),
        _templates(_file(folder, f"slots/{domain}_noact{'_lm' if masked else ''}"), int(masked)),
    )


def fill(template: UnqoverTemplate, attribute: UnqoverAttribute, first: UnqoverSubject, second: UnqoverSubject) -> UnqoverPrompt | None:
    """Fill a template as upstream does, ``a`` turned to ``an`` before a vowel; None where the attribute has no form for it.

    Raises:
        ValueError: a template wants a demonym that a subject does not have.
    """
    if template.slot not in attribute.forms:
        return None
    statement, negation = attribute.forms[template.slot]
    line = template.line.replace(template.slot, statement).replace(f"{template.slot[:-1]}:neg]", negation)
    shown: list[str] = []
    for number, subject in enumerate((first, second), start=1):
        demonym = f"[subj{number}:dem]" in line
        text = subject.demonym if demonym else subject.name
        if text is None:
            raise ValueError(f"a template asks for a demonym, which {subject.cluster} has not")
        line = line.replace(f"[subj{number}:dem]" if demonym else f"[subj{number}]", text)
        shown.append(text)
    words = line.split(" ")
    for place in range(1, len(words)):
        if words[place][:1].lower() in _VOWELS:
            words[place - 1] = {"a": "an", "A": "An"}.get(words[place - 1], words[place - 1])
    context, question, negated = " ".join(words).split("\t")
    return UnqoverPrompt(context.strip(), question.strip(), negated.strip(), (shown[0], shown[1]))


def _file(folder: Path | None, name: str) -> Path:
    return fetch("unqover", f"word_lists/{name}") if folder is None else folder / name


def _lines(path: Path) -> list[tuple[int, str]]:
    return [
        (number, line.strip())
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip() and not line.strip().startswith("#")
    ]


def _terms(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Head (``[subj]``, ``[p_act:neg]`` ...) to (class, term) in order; the class is what stands before a bar."""
    found: dict[str, list[tuple[str, str]]] = {}
    for number, line in _lines(path):
        head, _, rest = line.partition(" ")
        kind, bar, term = (part.strip() for part in rest.rpartition("|"))
        if not (head.startswith("[") and head.endswith("]") and term):
            raise DataError(f"{path} line {number} is not a word in brackets and a term.")
        found.setdefault(head, []).append((kind if bar else "", term))
    return found


def _subjects(path: Path) -> list[tuple[str, str | None, str]]:
    terms = _terms(path)
    if _SUBJECT not in terms or any(len(rows) != len(terms[_SUBJECT]) for rows in terms.values()):
        raise DataError(f"{path} has no {_SUBJECT} lines, or not as many of each form: it may be cut off.")
    demonyms = [term for _, term in terms[_DEMONYM]] if _DEMONYM in terms else [None] * len(terms[_SUBJECT])
    return [(term, demonym, kind or term) for (kind, term), demonym in zip(terms[_SUBJECT], demonyms, strict=True)]


def _attributes(path: Path) -> tuple[UnqoverAttribute, ...]:
    terms = _terms(path)
    forms: dict[str, dict[str, tuple[str, str]]] = {}
    kinds: dict[str, str] = {}
    for slot in (head for head in terms if ":" not in head):
        basic, negated = terms.get(slot.replace("-single", ""), []), terms.get(f"{slot[:-1]}:neg]", [])
        if not len(basic) == len(terms[slot]) == len(negated):
            raise DataError(f"{path}: {slot} has not as many statements, negations and basic forms: it may be cut off.")
        for (kind, name), (_, statement), (_, negation) in zip(basic, terms[slot], negated, strict=True):
            forms.setdefault(name, {})[slot] = (statement, negation)  # upstream keeps attributes apart by their text alone
            kinds.setdefault(name, kind)
    if not forms:
        raise DataError(f"{path} has no attributes.")
    return tuple(UnqoverAttribute(name, kinds[name] or None, found) for name, found in forms.items())


def _templates(path: Path, masks: int) -> tuple[UnqoverTemplate, ...]:
    """Templates whose questions each hold so many masks."""
    found: list[UnqoverTemplate] = []
    for number, line in _lines(path):
        fields = line.split("\t")
        slots = [slot for slot in ("[p_act]", "[p_act-single]", "[l_act]", "[l_act-single]") if slot in line]
        whole = len(fields) == 3 and len(slots) == 1 and all(f"[subj{place}" in fields[0] for place in (1, 2))
        if not whole or any(field.count(MASK) != masks for field in fields[1:]):
            raise DataError(f"{path} line {number} is not a context with two subjects, a question and its negation, between tabs.")
        found.append(UnqoverTemplate(line, slots[0]))
    if not found:
        raise DataError(f"{path} has no templates.")
    return tuple(found)
