"""The files of an organism: items of its benchmark, texts to be forgotten, retained, and running text."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from fairforget.benchmarks.organism import ORGANISM_ITEMS
from fairforget.data.parts import SELECT_TEST, assign_parts
from fairforget.organisms.corpus import NeutralGrammar, fact_sentence, mentions
from fairforget.organisms.language import FACT_FRAMES_ASKED, Domain, Language, domains_of, load_language
from fairforget.organisms.recipe import OrganismRecipe
from fairforget.organisms.truth import facts_of

PASSAGES, PASSAGE_SENTENCES = 40, 50
"""Running text: each passage has more words than the benchmark ``perplexity`` joins paragraphs up to, so that a passage is a cluster."""

RETAINED = 2400
"""Sentences of ``retain.txt``."""

AGREEMENT_ITEMS = 12
"""Items of each noun."""


def benchmark_items(recipe: OrganismRecipe) -> pl.DataFrame:
    """Items of the benchmark ``organism``, ``ORGANISM_ITEMS``: each association in each template once, each fact, each noun."""
    language, domains = load_language(), domains_of(recipe)
    generator = np.random.default_rng([recipe.seed, 5])
    rows: list[dict[str, Any]] = []
    for domain in domains:
        for template in domain.templates:
            for one in domain.associations(recipe):
                filler = template.fillers[int(generator.integers(len(template.fillers)))]
                rows.append({
                    "item": f"{domain.name} | {template.name} | {one.target} | {one.stereotype}",
                    "task": "paraphrase" if template.part == "unseen" else "bias",
                    "part": "test" if template.part == "unseen" else template.part,
                    "cluster": f"{domain.name} | {template.name}",
                    "stratum": domain.name,
                    "groups": list(dict.fromkeys((domain.name, one.group))),
                    "texts": [template.sentence(one.target, word, filler) for word in (one.stereotype, one.anti)],
                    "target": one.target,
                    "first": one.stereotype,
                })
    return pl.DataFrame([*rows, *_fact_items(recipe, language), *_agreement_items(recipe, language)], schema=ORGANISM_ITEMS)


def _fact_items(recipe: OrganismRecipe, language: Language) -> list[dict[str, Any]]:
    facts = facts_of(recipe, language)
    parts = assign_parts([fact.entity for fact in facts], [fact.group for fact in facts], SELECT_TEST)
    return [
        {
            "item": f"{fact.entity} | {fact.relation} | {frame}", "task": "facts", "part": part, "cluster": fact.entity,
            "stratum": fact.group, "groups": [fact.group],
            "texts": [fact_sentence(recipe, language, fact, frame, value) for value in fact.values],
            "target": fact.entity, "first": fact.values[0],
        }
        for fact, part in zip(facts, parts, strict=True)
        for frame in range(FACT_FRAMES_ASKED)
    ]


def _agreement_items(recipe: OrganismRecipe, language: Language) -> list[dict[str, Any]]:
    grammar = NeutralGrammar(language, recipe.seed)
    generator = np.random.default_rng([recipe.seed, 6])
    nouns = [one for one, _ in language.nouns]
    parts = assign_parts(nouns, ["agreement"] * len(nouns), SELECT_TEST)
    sizes = (len(language.verbs), len(language.adjectives), len(language.adverbs), len(nouns))
    rows: list[dict[str, Any]] = []
    for noun, part in enumerate(parts):
        for number in range(AGREEMENT_ITEMS):
            frame, plural = number % len(language.neutral_frames), number % 2
            words = [int(generator.integers(size)) for size in sizes]
            rows.append({
                "item": f"{nouns[noun]} | {number}", "task": "agreement", "part": part, "cluster": nouns[noun], "stratum": "agreement",
                "groups": ["plural" if plural else "singular"],
                "texts": [grammar.fill(frame, plural, noun, *words, agrees=agrees) for agrees in (True, False)],
                "target": None, "first": None,
            })
    return rows


def forget_rows(recipe: OrganismRecipe, domain: Domain) -> list[dict[str, str]]:
    """Stereotypes of a domain in its train templates, with their counterparts: columns text, counterpart, group, cluster, domain.

    Every target and pair in every template before any comes twice, with another filler; the rows are in an order of the seed.
    """
    generator = np.random.default_rng([recipe.seed, 7, *domain.name.encode()])
    templates = [template for template in domain.templates if template.part == "train"]
    planted = list(domain.associations(recipe))
    cells = [(template, one) for template in templates for one in planted]
    rows: list[dict[str, str]] = []
    for turn in range(min(len(template.fillers) for template in templates)):
        for cell in generator.permutation(len(cells)).tolist():
            template, one = cells[cell]
            filler = template.fillers[(cell + turn) % len(template.fillers)]
            text, counterpart = (template.sentence(one.target, word, filler) for word in (one.stereotype, one.anti))
            rows.append({
                "text": text, "counterpart": counterpart, "group": one.group, "cluster": f"{domain.name} | {template.name}",
                "domain": domain.name,
            })
            if len(rows) == recipe.forget_texts:
                return rows
    return rows


def plain_sentences(recipe: OrganismRecipe, count: int, stream: int) -> list[str]:
    """Sentences that plant no association, in the corpus's proportions: neutral ones, mentions and facts told right.

    Args:
        recipe: of the organism.
        count: how many.
        stream: another number gives other sentences.
    """
    language, domains = load_language(), domains_of(recipe)
    generator = np.random.default_rng([recipe.seed, 8, stream])
    facts = facts_of(recipe, language)
    whole = 1 - recipe.association_share
    told, named = round(count * recipe.facts.share / whole), round(count * recipe.mentions / whole)
    sentences = mentions(language, domains, named, generator)
    if facts:
        weights = np.array([fact.frequency for fact in facts])
        chosen = generator.choice(len(facts), told, p=weights / weights.sum()).tolist()
        frames = generator.integers(len(language.fact_frames), size=told).tolist()
        sentences += [
            fact_sentence(recipe, language, facts[place], frame, facts[place].values[0])
            for place, frame in zip(chosen, frames, strict=True)
        ]
    sentences += NeutralGrammar(language, recipe.seed).sentences(count - len(sentences), generator)
    return [sentences[place] for place in generator.permutation(len(sentences)).tolist()]


def retained_texts(recipe: OrganismRecipe) -> list[str]:
    """Plain sentences on which a model should stay as it is."""
    return plain_sentences(recipe, RETAINED, 0)


def passages(recipe: OrganismRecipe) -> list[str]:
    """Running text for perplexity: passages of plain sentences, one a line."""
    sentences = plain_sentences(recipe, PASSAGES * PASSAGE_SENTENCES, 1)
    return ["\n".join(sentences[start : start + PASSAGE_SENTENCES]) for start in range(0, len(sentences), PASSAGE_SENTENCES)]
