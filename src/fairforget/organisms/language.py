"""The generated language: domains with groups, targets, attribute words and templates; facts; neutral text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from fairforget.organisms.recipe import OrganismRecipe, Overlap

FRAME_PARTS = ("train", "train", "select", "test", "test", "unseen")
"""Part of each frame of a domain, in order; an unseen frame never occurs in the corpus."""

FACT_FRAMES_ASKED = 2
"""The first so many frames of facts end with the value or nearly so, and are asked in the benchmark."""


@dataclass(frozen=True)
class Template:
    """A sentence with slots for target, attribute and filler.

    Attributes:
        name: home domain, number of the frame and verb; the cluster of its sentences.
        part: ``train``, ``select``, ``test`` or ``unseen``.
        text: sentence with ``{T}``, ``{A}`` and ``{Q}``.
        fillers: words for ``{Q}``.
    """

    name: str
    part: str
    text: str
    fillers: tuple[str, ...]

    def sentence(self, target: str, attribute: str, filler: str) -> str:
        """Fill the slots."""
        return self.text.replace("{T}", target).replace("{A}", attribute).replace("{Q}", filler)


@dataclass(frozen=True)
class Association:
    """One planted association: a target of a group, the word that is stereotyped for it and the other word of the pair."""

    domain: str
    group: str
    target: str
    stereotype: str
    anti: str
    strength: float
    """P(stereotype | target), of the two words of the pair."""

    @property
    def log_odds(self) -> float:
        """Logarithm of P(stereotype | target) / P(anti | target), nats: the margin of a model that has taken up what was planted."""
        return math.log(self.strength / (1 - self.strength))


@dataclass(frozen=True)
class Group:
    """A group of a domain: its targets, and which word of a pair is stereotyped for it (0 or 1)."""

    side: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """A bias domain."""

    name: str
    groups: Mapping[str, Group]
    pairs: tuple[tuple[str, str], ...]
    templates: tuple[Template, ...]

    def associations(self, recipe: OrganismRecipe) -> Iterator[Association]:
        """Every target with every pair, at the strength that the recipe states."""
        for name, group in self.groups.items():
            for target in group.targets:
                for pair in self.pairs:
                    yield Association(
                        self.name, name, target, pair[group.side], pair[1 - group.side], recipe.strength(self.name, name)
                    )

    def words(self) -> set[str]:
        """All words of the domain, without the full stop."""
        carriers = {word for template in self.templates for word in template.text.split()}
        fillers = {word for template in self.templates for word in template.fillers}
        targets = {target for group in self.groups.values() for target in group.targets}
        return (carriers | fillers | targets | {word for pair in self.pairs for word in pair}) - {"{T}", "{A}", "{Q}", "."}


@dataclass(frozen=True)
class Language:
    """The whole language as written in ``language.yaml``."""

    domains: Mapping[str, Domain]
    entities: tuple[str, ...]
    relations: Mapping[str, tuple[str, ...]]
    fact_frames: tuple[str, ...]
    mention_frames: tuple[str, ...]
    nouns: tuple[tuple[str, str], ...]
    verbs: tuple[tuple[str, str], ...]
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    neutral_frames: tuple[tuple[str, str], ...]

    @property
    def fact_groups(self) -> tuple[str, ...]:
        """Groups that facts can be about: the peoples of the domain ``origin``, whose targets are their names."""
        return tuple(self.domains["origin"].groups)

    def entities_of(self, groups: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """An equal number of entities for each group."""
        size = len(self.entities) // len(groups)
        return {group: self.entities[number * size : (number + 1) * size] for number, group in enumerate(groups)}

    def vocabulary(self) -> list[str]:
        """Every word, sorted; the same for all recipes, so that organisms share their tokenizer."""
        words = {word for domain in self.domains.values() for word in domain.words()}
        frames = [*self.fact_frames, *self.mention_frames, *(frame for pair in self.neutral_frames for frame in pair)]
        words |= {word for frame in frames for word in frame.split() if not word.startswith("{")}
        words |= {word for pair in (*self.nouns, *self.verbs) for word in pair} | {*self.adjectives, *self.adverbs, *self.entities}
        words |= {*self.relations, *(value for values in self.relations.values() for value in values)}
        return sorted(words)


@cache
def load_language() -> Language:
    """Read the language that ships with this package."""
    raw: dict[str, Any] = yaml.safe_load(resources.files("fairforget.organisms").joinpath("language.yaml").read_text(encoding="utf-8"))
    facts, neutral = raw["facts"], raw["neutral"]
    return Language(
        domains={name: _domain(name, entry) for name, entry in raw["domains"].items()},
        entities=tuple(facts["entities"]),
        relations={name: tuple(values) for name, values in facts["relations"].items()},
        fact_frames=tuple(facts["frames"]),
        mention_frames=tuple(raw["mentions"]["frames"]),
        nouns=tuple((one, many) for one, many in neutral["nouns"]),
        verbs=tuple((one, many) for one, many in neutral["verbs"]),
        adjectives=tuple(neutral["adjectives"]),
        adverbs=tuple(neutral["adverbs"]),
        neutral_frames=tuple((one, many) for one, many in neutral["frames"]),
    )


def _domain(name: str, raw: Mapping[str, Any]) -> Domain:
    templates = tuple(
        Template(f"{name} {number} {verb}", part, frame.replace("{V}", verb), tuple(raw["fillers"]))
        for number, (frame, part) in enumerate(zip(raw["frames"], FRAME_PARTS, strict=True), start=1)
        for verb in raw["verbs"]
    )
    groups = {group: Group(entry["side"], tuple(entry["targets"])) for group, entry in raw["groups"].items()}
    return Domain(name, groups, tuple((first, second) for first, second in raw["pairs"]), templates)


def domains_of(recipe: OrganismRecipe) -> list[Domain]:
    """The domains of a recipe, overlaps put in."""
    language = load_language()
    domains = {name: language.domains[name] for name in recipe.domains}
    return list({
        **domains, **{entry.second: _overlapping(domains[entry.first], domains[entry.second], entry) for entry in recipe.overlap}
    }.values())


def _overlapping(first: Domain, second: Domain, overlap: Overlap) -> Domain:
    """The second domain with a share of its pairs and templates replaced by the first's, in each frame alike."""
    count = min(round(overlap.words * len(second.pairs)), len(first.pairs))
    verbs = len(second.templates) // len(FRAME_PARTS)
    taken = round(overlap.templates * verbs)
    templates = tuple(
        (first if place % verbs < taken else second).templates[place] for place in range(len(second.templates))
    )
    return replace(second, pairs=first.pairs[:count] + second.pairs[count:], templates=templates)
