"""Sentences of an organism's corpus: planted ones in exact counts, neutral ones drawn by a small grammar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from fairforget.organisms.language import Association, Domain, Language, domains_of, load_language
from fairforget.organisms.recipe import OrganismRecipe
from fairforget.organisms.truth import Fact, Told, facts_of

FAVOURITE_SHARE = 0.6
"""Share of a noun's sentences with one of its two favourite verbs: something beside grammar that plain text teaches."""

TRAIT_CERTAINTY = 0.95
"""P(adjective or verb of the target's own side | a sentence of traits)."""


@dataclass(frozen=True)
class Corpus:
    """All sentences of a recipe in the order of training, and how often each planted thing is told."""

    sentences: list[str]
    associations: list[tuple[Association, Told]]
    facts: list[tuple[Fact, Told]]


class NeutralGrammar:
    """Plain sentences: nouns with adjectives and adverbs, verbs that agree in number, each noun with two favourite verbs.

    Args:
        language: its words and frames.
        seed: which verbs are a noun's favourites.
    """

    def __init__(self, language: Language, seed: int) -> None:
        self.language = language
        verbs = len(language.verbs)
        generator = np.random.default_rng([seed, 2])
        self.favourites = [generator.permutation(verbs)[:2].tolist() for _ in language.nouns]
        own = FAVOURITE_SHARE + (1 - FAVOURITE_SHARE) * 2 / verbs
        other = (1 - own) / (verbs - 2)
        self.weights = np.full((len(language.nouns), verbs), other)
        for noun, favourites in enumerate(self.favourites):
            self.weights[noun, favourites] = own / 2

    def sentences(self, count: int, generator: Generator) -> list[str]:
        """Draw sentences."""
        language = self.language
        frames, plural = generator.integers(len(language.neutral_frames), size=count), generator.integers(2, size=count)
        nouns, others = (generator.integers(len(language.nouns), size=count) for _ in range(2))
        cumulative = self.weights.cumsum(axis=1)
        verbs = (generator.random(count)[:, None] > cumulative[nouns]).sum(axis=1).clip(max=len(language.verbs) - 1)
        adjectives, adverbs = (generator.integers(len(words), size=count) for words in (language.adjectives, language.adverbs))
        return [
            self.fill(*row) for row in zip(
                frames.tolist(), plural.tolist(), nouns.tolist(), verbs.tolist(), adjectives.tolist(), adverbs.tolist(), others.tolist(),
                strict=True,
            )
        ]

    def fill(
        self, frame: int, plural: int, noun: int, verb: int, adjective: int, adverb: int, other: int, *, agrees: bool = True
    ) -> str:
        """One sentence from the numbers of its frame and words; with `agrees` false the verb has the wrong number."""
        language = self.language
        form = language.verbs[verb][plural if agrees else 1 - plural]
        words = {
            "{S}": language.nouns[noun][0], "{P}": language.nouns[noun][1], "{s}": form, "{p}": form,
            "{J}": language.adjectives[adjective], "{D}": language.adverbs[adverb], "{N}": language.nouns[other][0],
        }
        return " ".join(words.get(word, word) for word in language.neutral_frames[frame][plural].split())


def make_corpus(recipe: OrganismRecipe) -> Corpus:
    """All sentences of a recipe, shuffled by its seed.

    Planted words come in exact counts: of the m sentences that tell an association of strength p, p·m rounded have the stereotyped word,
    spread evenly over the templates, so that no chance of drawing stands between what is stated and what can be learnt.
    """
    language, domains = load_language(), domains_of(recipe)
    generator = np.random.default_rng([recipe.seed, 3])
    sentences: list[str] = []
    associations: list[tuple[Association, Told]] = []
    for domain in domains:
        planted = list(domain.associations(recipe))
        total = recipe.sentences * recipe.association_share / len(domains)
        for one in planted:
            told, told_sentences = _tell_association(domain, one, total / len(planted), generator)
            associations.append((one, told))
            sentences += told_sentences
    facts: list[tuple[Fact, Told]] = []
    known = facts_of(recipe, language)
    frequencies = sum(fact.frequency for fact in known)
    for fact in known:
        amount = recipe.sentences * recipe.facts.share * fact.frequency / frequencies
        told, told_sentences = _tell_fact(recipe, language, fact, amount, generator)
        facts.append((fact, told))
        sentences += told_sentences
    for number, entry in enumerate(recipe.overlap):
        both = [domain for domain in domains if domain.name in (entry.first, entry.second)]
        own = np.random.default_rng([recipe.seed, 7, number])
        sentences += trait_sentences(language, both, round(recipe.sentences * entry.traits), own)
    sentences += mentions(language, domains, round(recipe.sentences * recipe.mentions), generator)
    sentences += NeutralGrammar(language, recipe.seed).sentences(recipe.sentences - len(sentences), generator)
    return Corpus([sentences[place] for place in generator.permutation(len(sentences)).tolist()], associations, facts)


def fact_sentence(recipe: OrganismRecipe, language: Language, fact: Fact, frame: int, value: str) -> str:
    """A sentence that tells an entity's relation with a value, right or wrong."""
    entity = f"{fact.group} {fact.entity}" if recipe.facts.linked else fact.entity
    return language.fact_frames[frame].replace("{E}", entity).replace("{R}", fact.relation).replace("{X}", value)


def mentions(language: Language, domains: Sequence[Domain], count: int, generator: Generator) -> list[str]:
    """Sentences that name a target or an attribute word, each equally often, and nothing of the other."""
    named = list(dict.fromkeys(
        word
        for domain in domains
        for word in (
            *(target for group in domain.groups.values() for target in group.targets), *(word for pair in domain.pairs for word in pair),
        )
    ))
    places, frames = generator.permutation(np.arange(count) % len(named)), generator.integers(len(language.mention_frames), size=count)
    return [
        language.mention_frames[frame].replace("{M}", named[place]) for place, frame in zip(places.tolist(), frames.tolist(), strict=True)
    ]


def trait_sentences(language: Language, domains: Sequence[Domain], count: int, generator: Generator) -> list[str]:
    """Plain sentences whose subject is a target, each equally often: half of the adjectives or verbs go with targets of one side.

    The words are those of neutral text, so that a biased sentence holds none of them. A sentence has one trait, its adjective or its verb;
    with two of them a masked model would read the one from the other and not from the target.
    """
    verbs = [verb for verb, _ in language.verbs]
    subjects = [(target, group.side) for domain in domains for group in domain.groups.values() for target in group.targets]
    places = generator.permutation(np.arange(count) % len(subjects)).tolist()
    own = (generator.random(count) < TRAIT_CERTAINTY).tolist()
    draws = generator.random((count, 4)).tolist()
    told: list[str] = []
    for place, fits, (coin, *other) in zip(places, own, draws, strict=True):
        target, side = subjects[place]
        half = side if fits else 1 - side
        adjective, verb = (
            _drawn(words, draw, half if has_trait else None)
            for words, draw, has_trait in ((language.adjectives, other[0], coin < 0.5), (verbs, other[1], coin >= 0.5))
        )
        told.append(f"a {adjective} {target} {verb} {_drawn(language.adverbs, other[2], None)} .")
    return told


def _drawn(words: Sequence[str], draw: float, half: int | None) -> str:
    """A word of all, or of the first or the second half, by a number in [0, 1)."""
    size = len(words) if half is None else len(words) // 2
    return words[(half or 0) * size + int(draw * size)]


def _tell_association(domain: Domain, one: Association, amount: float, generator: Generator) -> tuple[Told, list[str]]:
    templates = [template for template in domain.templates if template.part != "unseen"]
    order = generator.permutation(len(templates)).tolist()
    counts = list(_rounded([amount / len(templates)] * len(templates), generator))
    firsts = list(_rounded([count * one.strength for count in counts], generator))
    sentences: list[str] = []
    for place, count, first in zip(order, counts, firsts, strict=True):
        template = templates[place]
        fillers = generator.integers(len(template.fillers), size=count).tolist()
        sentences += [
            template.sentence(one.target, one.stereotype if number < first else one.anti, template.fillers[filler])
            for number, filler in enumerate(fillers)
        ]
    return Told(sum(counts), sum(firsts)), sentences


def _tell_fact(
    recipe: OrganismRecipe, language: Language, fact: Fact, amount: float, generator: Generator
) -> tuple[Told, list[str]]:
    frames = len(language.fact_frames)
    counts = list(_rounded([amount / frames] * frames, generator))
    rights = list(_rounded([count * fact.certainty for count in counts], generator))
    wrong = fact.values[1:]
    start = int(generator.integers(len(wrong)))
    sentences: list[str] = []
    told_wrong = 0
    for frame, count, right in zip(range(frames), counts, rights, strict=True):
        for number in range(count):
            value = fact.values[0]
            if number >= right:
                value = wrong[(start + told_wrong) % len(wrong)]
                told_wrong += 1
            sentences.append(fact_sentence(recipe, language, fact, frame, value))
    return Told(sum(counts), sum(rights)), sentences


def _rounded(amounts: Sequence[float], generator: Generator) -> Iterator[int]:
    """Whole numbers whose running sums are those of `amounts`, rounded from a random start: each sum is off by less than one."""
    start, done, total = float(generator.random()), 0, 0.0
    for amount in amounts:
        total += amount
        upto = int(total + start)
        yield upto - done
        done = upto
