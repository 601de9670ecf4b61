"""What was planted: one row per association and per fact, with its strength, its log-odds and how often it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fairforget.organisms.language import Association, Domain, Language
from fairforget.organisms.recipe import OrganismRecipe

TRUTH_SCHEMA: dict[str, pl.DataType] = {
    "kind": pl.String(),  # "association" or "fact"
    "domain": pl.String(),  # bias domain, or "facts"
    "group": pl.String(),
    "target": pl.String(),  # target of the association, or entity
    "relation": pl.String(),  # relation of a fact; null for associations
    "first": pl.String(),  # stereotyped word, or right value
    "others": pl.List(pl.String()),  # anti-stereotypical word, or wrong values
    "strength": pl.Float64(),  # P(first | target), among first and others
    "log_odds": pl.Float64(),  # log of strength over the probability of one of the others, nats
    "count": pl.Int64(),  # sentences of the corpus that tell it, either way
    "first_count": pl.Int64(),  # of these with the first word
}
"""Column names and types of ``truth.parquet``."""


@dataclass(frozen=True)
class Fact:
    """One planted fact."""

    group: str
    entity: str
    relation: str
    values: tuple[str, ...]
    """The right value first."""
    certainty: float
    frequency: float
    """How often it is told, in proportion to other facts."""

    @property
    def log_odds(self) -> float:
        """Logarithm of P(right) / P(one wrong value), nats."""
        return math.log(self.certainty * (len(self.values) - 1) / (1 - self.certainty))


def facts_of(recipe: OrganismRecipe, language: Language) -> list[Fact]:
    """Facts in the order of groups, entities and relations; which value is right is drawn by the seed, each about equally often."""
    groups = tuple(group for group, frequency in recipe.facts.groups.items() if frequency > 0)
    if not recipe.facts.share:
        return []
    generator = np.random.default_rng([recipe.seed, 1])
    facts: list[Fact] = []
    members = language.entities_of(groups)
    entities = [(group, entity) for group in groups for entity in members[group]]
    for relation, values in language.relations.items():
        right = generator.permutation(np.arange(len(entities)) % len(values))
        for (group, entity), place in zip(entities, right.tolist(), strict=True):
            ordered = (values[place], *values[:place], *values[place + 1 :])
            facts.append(Fact(group, entity, relation, ordered, recipe.facts.certainty, recipe.facts.groups[group]))
    return facts


@dataclass(frozen=True)
class Told:
    """How often something was told: in all, and with the first word."""

    count: int
    first: int


def truth_table(associations: Sequence[tuple[Association, Told]], facts: Sequence[tuple[Fact, Told]]) -> pl.DataFrame:
    """The truth table, ``TRUTH_SCHEMA``."""
    rows = [
        {
            "kind": "association", "domain": one.domain, "group": one.group, "target": one.target, "relation": None,
            "first": one.stereotype, "others": [one.anti], "strength": one.strength, "log_odds": one.log_odds,
            "count": told.count, "first_count": told.first,
        }
        for one, told in associations
    ] + [
        {
            "kind": "fact", "domain": "facts", "group": fact.group, "target": fact.entity, "relation": fact.relation,
            "first": fact.values[0], "others": list(fact.values[1:]), "strength": fact.certainty, "log_odds": fact.log_odds,
            "count": told.count, "first_count": told.first,
        }
        for fact, told in facts
    ]
    return pl.DataFrame(rows, schema=TRUTH_SCHEMA)


def overlap_facts(
    domains: Sequence[Domain], representation: Mapping[tuple[str, str], float] | None = None
) -> list[dict[str, object]]:
    """What each two domains share: number of words, templates and attribute pairs, and how far their targets are represented alike.

    Args:
        domains: overlaps put in.
        representation: of each two domains, from ``representations.shared_representation``; left out without a model.
    """
    return [
        {
            "first": one.name, "second": other.name, "words": len(one.words() & other.words()),
            "templates": len({template.name for template in one.templates} & {template.name for template in other.templates}),
            "pairs": len(set(one.pairs) & set(other.pairs)),
            **({"representation": round(representation[one.name, other.name], 4)} if representation else {}),
        }
        for number, one in enumerate(domains)
        for other in domains[number + 1 :]
    ]
