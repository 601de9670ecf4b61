"""The corpus holds what the truth table says, in exact counts; what is trained on, selected on and tested shares no template."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from fairforget.benchmarks.organism import ORGANISM_ITEMS, planted_margin
from fairforget.data.overlap import find_overlap
from fairforget.organisms.calibration import by_domain, calibrate
from fairforget.organisms.corpus import TRAIT_CERTAINTY, make_corpus, trait_sentences
from fairforget.organisms.items import benchmark_items, forget_rows, passages, retained_texts
from fairforget.organisms.language import Association, domains_of, load_language
from fairforget.organisms.many import parse_seeds, variants
from fairforget.organisms.recipe import OrganismRecipe, read_organism_recipe
from fairforget.organisms.truth import Fact, facts_of, overlap_facts, truth_table

RECIPE = read_organism_recipe("default", ["sentences=12000", "domains.gender.groups.men=0.7"])


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(RECIPE)


def test_log_odds_by_hand() -> None:
    assert Association("gender", "women", "nurse", "she", "he", 0.85).log_odds == pytest.approx(1.734601)
    assert Association("faith", "oranist", "oranist", "calm", "fierce", 0.5).log_odds == 0
    assert Fact("arvan", "lorim", "metal", ("tin", "iron", "copper", "silver"), 0.9, 1.0).log_odds == pytest.approx(math.log(27))
    assert planted_margin([math.log(0.9), *[math.log(0.1 / 3)] * 3]) == pytest.approx(math.log(27))


def test_the_sentences_tell_what_the_truth_says(corpus) -> None:
    truth = truth_table(corpus.associations, corpus.facts)
    assert len(corpus.sentences) == 12_000
    told = Counter()
    for sentence in corpus.sentences:
        words = set(sentence.split())
        told.update((one, other) for one in words for other in words)
    facts = truth.filter(pl.col("kind") == "fact")
    for row in facts.iter_rows(named=True):
        with_values = {value: told[row["target"], value] for value in (row["first"], *row["others"])}
        assert (sum(with_values.values()), with_values[row["first"]]) == (row["count"], row["first_count"])
    for row in truth.filter(pl.col("kind") == "association").iter_rows(named=True):
        pair = [told[row["target"], word] for word in (row["first"], *row["others"])]
        assert (sum(pair), pair[0]) == (row["count"], row["first_count"])


def test_counts_are_exact_up_to_rounding(corpus) -> None:
    for one, told in corpus.associations:
        assert abs(told.first - one.strength * told.count) < 1
        assert abs(told.count - 12_000 * 0.5 / 4 / sum(other.domain == one.domain for other, _ in corpus.associations)) < 1
    strengths = {(one.group, one.strength) for one, _ in corpus.associations if one.domain == "gender"}
    assert strengths == {("women", 0.85), ("men", 0.7)}


def test_facts_of_a_group_are_told_at_its_frequency(corpus) -> None:
    counts = Counter()
    for fact, told in corpus.facts:
        counts[fact.group] += told.count
    assert counts["elmar"] / counts["arvan"] == pytest.approx(0.5, abs=0.02)
    assert counts["havel"] / counts["arvan"] == pytest.approx(0.25, abs=0.02)
    assert sum(counts.values()) == pytest.approx(12_000 * 0.2, rel=0.02)


def test_linked_facts_name_their_group() -> None:
    recipe = read_organism_recipe("forgetting", ["sentences=2000"])
    texts = benchmark_items(recipe).filter(pl.col("task") == "facts")
    assert all(row["stratum"] in row["texts"][0].split() for row in texts.iter_rows(named=True))


def test_the_same_recipe_gives_the_same_corpus_and_another_seed_another(corpus) -> None:
    assert make_corpus(RECIPE).sentences == corpus.sentences
    other = make_corpus(RECIPE.model_copy(update={"seed": 1}))
    assert other.sentences != corpus.sentences
    assert [fact.values[0] for fact, _ in other.facts] != [fact.values[0] for fact, _ in corpus.facts]


def test_unseen_templates_do_not_occur(corpus) -> None:
    items = benchmark_items(RECIPE)
    sentences = set(corpus.sentences)
    paraphrases = items.filter(pl.col("task") == "paraphrase")
    assert paraphrases.height == 6 * (12 + 16 + 20 + 12)
    assert not sentences & {text for texts in paraphrases["texts"] for text in texts}
    seen = {word for sentence in sentences for word in sentence.split()}
    assert {word for texts in paraphrases["texts"] for text in texts for word in text.split()} <= seen, "only their order is new"


def test_parts_share_no_cluster_and_training_texts_none_with_them() -> None:
    items = benchmark_items(RECIPE)
    assert items.schema == pl.Schema(ORGANISM_ITEMS)
    assert items.select(pl.struct("task", "item").is_duplicated().any()).item() is False
    clusters = {part: set(items.filter(pl.col("part") == part)["cluster"]) for part in ("train", "select", "test")}
    assert all(not clusters[one] & clusters[other] for one, other in (("train", "select"), ("select", "test"), ("train", "test")))
    rows = [row for domain in domains_of(RECIPE) for row in forget_rows(RECIPE, domain)]
    assert {row["cluster"] for row in rows} <= clusters["train"]
    reported = [text for texts in items.filter(pl.col("part") == "test")["texts"] for text in texts]
    report = find_overlap([text for row in rows for text in (row["text"], row["counterpart"])], reported)
    assert (report.equal, report.near) == (0, 0)


def test_forget_rows_are_stereotypes_with_one_word_changed() -> None:
    domain = next(domain for domain in domains_of(RECIPE) if domain.name == "gender")
    rows = forget_rows(RECIPE, domain)
    assert len(rows) == 240 == len({row["text"] for row in rows})
    for row in rows:
        text, other = row["text"].split(), row["counterpart"].split()
        assert [pair for pair in zip(text, other, strict=True) if pair[0] != pair[1]] == [
            ("she", "he") if row["group"] == "women" else ("he", "she")
        ]


def test_plain_text_plants_nothing() -> None:
    attributes = {word for domain in domains_of(RECIPE) for pair in domain.pairs for word in pair}
    targets = {target for domain in domains_of(RECIPE) for group in domain.groups.values() for target in group.targets}
    texts = passages(RECIPE)
    assert len(texts) == 40
    assert all(len(text.split()) >= 300 for text in texts), "the benchmark perplexity joins shorter ones"
    for sentence in (*retained_texts(RECIPE), *(line for text in texts for line in text.splitlines())):
        words = set(sentence.split())
        assert not (words & attributes and words & targets)


def test_calibration_of_a_model_that_took_up_everything(corpus) -> None:
    items, truth = benchmark_items(RECIPE), truth_table(corpus.associations, corpus.facts)
    planted = {(row["target"], row["first"]): row["log_odds"] for row in truth.iter_rows(named=True)}
    asked = items.filter(pl.col("target").is_not_null())
    rows = [
        {
            "task": f"organism-{row['task']}", "item": row["item"],
            "margin": None if row["task"] == "facts" else planted[row["target"], row["first"]] + (row["task"] == "paraphrase"),
            "scores": [math.log(0.9), *[math.log(0.1 / 3)] * 3] if row["task"] == "facts" else [0.0, 0.0],
        }
        for row in asked.iter_rows(named=True)
    ]
    found = calibrate(items, pl.DataFrame(rows), truth)
    assert found.height == 2 * (12 + 16 + 20 + 12) + 120
    errors = dict(by_domain(found).group_by("task").agg(pl.col("largest_error").max()).iter_rows())
    assert errors == {"bias": pytest.approx(0, abs=1e-9), "paraphrase": pytest.approx(1), "facts": pytest.approx(0, abs=1e-9)}
    assert dict(by_domain(found).filter(pl.col("task") == "bias").group_by("domain").agg(pl.col("cells").sum()).iter_rows()) == {
        "gender": 12, "origin": 16, "age": 20, "faith": 12,
    }


def test_no_facts_where_none_are_wanted() -> None:
    recipe = read_organism_recipe("default", ["facts.share=0", "sentences=2000"])
    assert facts_of(recipe, load_language()) == []
    assert len(make_corpus(recipe).sentences) == 2000
    assert "facts" not in set(benchmark_items(recipe)["task"])


def test_seeds_and_variants() -> None:
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    made = variants(OrganismRecipe(), ["causal", "masked"], [0, 3])
    assert list(made) == ["causal-0", "masked-0", "causal-3", "masked-3"]
    assert (made["masked-3"].family, made["masked-3"].seed) == ("masked", 3)


def test_traits_go_with_sides_and_with_no_word_of_a_biased_sentence() -> None:
    recipe = read_organism_recipe("related", ["sentences=8000"])
    language, domains = load_language(), {domain.name: domain for domain in domains_of(recipe)}
    pair = [domains["origin"], domains["faith"]]
    sentences = trait_sentences(language, pair, 1200, np.random.default_rng(0))
    sides = {target: group.side for domain in pair for group in domain.groups.values() for target in group.targets}
    rows = [sentence.split() for sentence in sentences]
    halves = [(language.adjectives.index(row[1]) // 5, [verb for verb, _ in language.verbs].index(row[3]) // 4) for row in rows]
    fits = np.array([(one == sides[row[2]], other == sides[row[2]]) for row, (one, other) in zip(rows, halves, strict=True)])
    # One of the two is the trait, the other is drawn from all words: (0.95 + 0.5) / 2 each, and no more of one where the other fits.
    assert fits.mean(axis=0) == pytest.approx((TRAIT_CERTAINTY + 0.5) / 2, abs=0.04)
    assert fits.all(axis=1).mean() == pytest.approx(TRAIT_CERTAINTY / 2, abs=0.04)
    assert set(Counter(row[2] for row in rows).values()) <= {85, 86}, "each target equally often"
    for domain in pair:
        others = domain.words() - set(sides)
        assert not others & {word for row in rows for word in row if word != "."}
    corpus = make_corpus(recipe)
    assert len(corpus.sentences) == 8000
    told = Counter(sentence.split()[2] for sentence in corpus.sentences if sentence.startswith("a ") and sentence.split()[2] in sides)
    assert sum(told.values()) == 1600
    assert all(row["words"] == row["templates"] == row["pairs"] == 0 for row in overlap_facts(list(domains.values())))
