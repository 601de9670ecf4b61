"""The starter set: small, mild and written for this package, so that a first run and every test work without any download.

Five domains (occupation and gender, nationality, religion, age, disability), each a YAML file with

- ``contrasts``: pairs of groups that are compared;
- ``words``: what a group slot of a template reads for each group, e.g. ``{he}`` is "she" for *female*;
- ``traits``: phrases by grammatical form and by the side on which they are the stereotype (``sides`` gives the side of a group where
  that is not the group itself);
- ``templates``: sentences with group slots and one trait slot; ``{a:slot}`` puts "a" or "an" before the word.

A template is expanded in **units**: a contrast (A, B) with one trait that is stereotyped for A and one for B gives two pairs, in which A
and B change places as stereotype and anti-stereotype. The mean margin of a template is therefore free of how common the words for A and B
are: what is left is the interaction of group and trait. Every trait stands once in a template, on its own side.

Templates are clusters and domains are strata; a template belongs to one part (``train``, ``select``, ``test``), while groups and traits
are shared by all parts, which is what training can transfer through.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from fairforget.data.english import indefinite_article
from fairforget.data.parts import SELECT_TEST, assign_parts

Part = Literal["train", "select", "test"]

STARTER_NOTE = (
    "The starter set is small and was written for this package: it serves a first look and offline tests, not claims about a model; "
    "use published benchmarks for those."
)
"""Printed wherever a figure from the starter set is printed."""

DOMAINS = ("occupation-gender", "nationality", "religion", "age", "disability")

PAIR_SHARES = {"train": 7 / 16, "select": 4 / 16, "test": 5 / 16}
"""Shares of the templates of a domain; with 16 or 20 templates at least 4 are for selection and at least 5 for the test."""

UNITS = {"train": 9, "select": 5, "test": 5}
"""Units (of two pairs each) that are kept per template: many to train on, few to score, so that an audit takes seconds."""

_SLOT = re.compile(r"\{(a:)?(\w+)\}")


@dataclass(frozen=True)
class StarterPair:
    """Two sentences that differ only in the words for a group (and an article before them).

    Attributes:
        id: ``template/number`` and ``a`` or ``b``, unique in the set.
        domain: stratum.
        template: cluster.
        groups: the group that the trait is stereotyped for, then the group it is contrasted with. A figure by group must take the pairs
            that name the group on *either* side, since only those are balanced for how common its words are.
        stereotype: the sentence with the first group.
        anti: the sentence with the second group.
        part: ``train``, ``select`` or ``test``.
        unit: what the two pairs of a unit have in common. The mean of their margins is free of how common the words are, while the sign of
            one margin is mostly a matter of it: rates over pairs lie near one half even for a biased model, means do not.
    """

    id: str
    domain: str
    template: str
    groups: tuple[str, str]
    stereotype: str
    anti: str
    part: Part
    unit: str


@dataclass(frozen=True)
class StarterText:
    """One text: a sentence to train on, a neutral sentence for retention, or a passage for perplexity.

    Attributes:
        id: unique within its list.
        text: the text, without line breaks.
        cluster: template of a training sentence; the text itself otherwise.
        stratum: domain of a training sentence, topic of a passage, ``neutral`` for neutral sentences.
        groups: groups that the text is about; empty for neutral sentences and passages.
        part: ``train`` for sentences; ``select`` or ``test`` for passages.
    """

    id: str
    text: str
    cluster: str
    stratum: str
    groups: tuple[str, ...]
    part: Part


@dataclass(frozen=True)
class Starter:
    """The whole set.

    Attributes:
        pairs: minimal pairs of all parts.
        neutral: ordinary sentences that name no group (part ``train``), for retention.
        mentions: ordinary sentences that name a group (part ``test``; nothing is trained on them): may it still be spoken of?
        passages: plain text of 60 to 110 words each (parts ``select`` and ``test``), for perplexity.
    """

    pairs: tuple[StarterPair, ...]
    neutral: tuple[StarterText, ...]
    mentions: tuple[StarterText, ...]
    passages: tuple[StarterText, ...]

    def pairs_of(self, part: str) -> tuple[StarterPair, ...]:
        """Pairs of one part."""
        return tuple(pair for pair in self.pairs if pair.part == part)

    def passages_of(self, part: str) -> tuple[StarterText, ...]:
        """Passages of one part."""
        return tuple(passage for passage in self.passages if passage.part == part)

    @property
    def training(self) -> tuple[StarterText, ...]:
        """The stereotypical sentences of the ``train`` pairs, each once."""
        return tuple(
            StarterText(id=pair.id, text=pair.stereotype, cluster=pair.template, stratum=pair.domain, groups=pair.groups[:1], part="train")
            for pair in self.pairs_of("train")
        )


@functools.cache
def load_starter() -> Starter:
    """Read and expand the starter set; the result is the same on every machine and is kept for the process."""
    pairs = [pair for domain in DOMAINS for pair in _expand_domain(_read_yaml(domain.replace("-", "_") + ".yaml"))]
    return Starter(
        pairs=tuple(pairs), neutral=tuple(_sentences("neutral", "train")), mentions=tuple(_sentences("mentions", "test")),
        passages=tuple(_passages()),
    )


def _expand_domain(domain: dict[str, Any]) -> Iterator[StarterPair]:
    templates: dict[str, str] = domain["templates"]
    parts = assign_parts(list(templates), [domain["domain"]] * len(templates), PAIR_SHARES)
    for (name, text), part in zip(templates.items(), parts, strict=True):
        for number, (first, second, traits) in enumerate(_units(domain, name, text)[: UNITS[part]], start=1):
            unit = f"{name}/{number}"
            for side, group, other, trait in (("a", first, second, traits[0]), ("b", second, first, traits[1])):
                yield StarterPair(
                    id=unit + side,
                    domain=domain["domain"],
                    template=name,
                    groups=(group, other),
                    stereotype=_fill(text, domain["words"], group, trait),
                    anti=_fill(text, domain["words"], other, trait),
                    part=part,  # pyright: ignore[reportArgumentType]
                    unit=unit,
                )


def _units(domain: dict[str, Any], name: str, text: str) -> list[tuple[str, str, tuple[str, str]]]:
    """All units of a template: group A, group B, (trait of A, trait of B); contrasts take turns, in an order of the template's own."""
    slots = [match[2] for match in _SLOT.finditer(text)]
    words = [domain["words"][slot] for slot in slots if slot in domain["words"]]
    (form,) = (slot for slot in slots if slot in domain["traits"])
    sides: dict[str, str] = domain.get("sides", {})
    contrasts = [pair for pair in domain["contrasts"] if all(group in word for group in pair for word in words)]
    traits = {side: _shuffled(phrases, f"{name} {side}") for side, phrases in domain["traits"][form].items()}
    units: list[tuple[str, str, tuple[str, str]]] = []
    contrasts = _shuffled(contrasts, name)
    while True:
        before = len(units)
        for first, second in contrasts:
            mine, theirs = traits[sides.get(first, first)], traits[sides.get(second, second)]
            if mine and theirs:
                units.append((first, second, (mine.pop(), theirs.pop())))
        if len(units) == before:
            return units


def _fill(text: str, words: dict[str, dict[str, str]], group: str, trait: str) -> str:
    def word(match: re.Match[str]) -> str:
        value = words[match[2]][group] if match[2] in words else trait
        return f"{indefinite_article(value)} {value}" if match[1] else value

    sentence = _SLOT.sub(word, text)
    return sentence[0].upper() + sentence[1:]


def _shuffled(values: Sequence[Any], salt: str) -> list[Any]:
    """The values in an order fixed by hashes, the same for every version of Python."""
    return sorted(values, key=lambda value: hashlib.sha256(f"{salt} {value}".encode()).digest())


def _sentences(kind: str, part: Part) -> Iterator[StarterText]:
    lines = [line for line in _read(f"{kind}.txt").splitlines() if line and not line.startswith("#")]
    for number, line in enumerate(lines, start=1):
        name = f"{kind}/{number:03d}"
        yield StarterText(id=name, text=line, cluster=name, stratum=kind, groups=(), part=part)


def _passages() -> Iterator[StarterText]:
    rows = [(topic, name, text) for topic, texts in _read_yaml("passages.yaml").items() for name, text in texts.items()]
    parts = assign_parts([name for _, name, _ in rows], [topic for topic, _, _ in rows], SELECT_TEST)
    for (topic, name, text), part in zip(rows, parts, strict=True):
        yield StarterText(id=name, text=text, cluster=name, stratum=topic, groups=(), part=part)  # pyright: ignore[reportArgumentType]


def _read(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _read_yaml(name: str) -> dict[str, Any]:
    return yaml.load(_read(name), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both loaders are safe ones
