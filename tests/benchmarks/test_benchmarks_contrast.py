"""Likelihood of harmful beside benign texts: HateCheck, EDOS, ToxiGen with SafeNLP's score, against independent restatements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from tiny import tiny_model

from fairforget.benchmarks import evaluate, metric_interval, resolve
from fairforget.benchmarks._contrast import likelihood_metrics, placements, superiority
from fairforget.data.posts import EdosPost, HateCheckCase
from fairforget.data.toxigen import GroupStatement
from fairforget.models import Model
from fairforget.scoring import Scorer
from fairforget.tables import item_table

GPT2, LLAMA, BERT = tiny_model("gpt2"), tiny_model("llama"), tiny_model("bert")
HARMFUL = pl.col("stratum") == "harmful"
GROUP = pl.col("groups").list.first()
WORDS = ["the old man was at home", "she had a red book", "the sun is good for the tree", "a dog and a cat", "rain will be here by night"]


def table_of(samples: dict[str, tuple[list[float], list[float]]]) -> pl.DataFrame:
    """Harmful and benign texts of each group, with these negative log-likelihoods of one token."""
    return item_table(
        {
            "item": f"{group} {stratum} {n}", "task": "t", "stratum": stratum, "cluster": f"{group} {stratum} {n}", "groups": [group],
            "nll": nll, "tokens": 1, "benchmark": "b", "role": "bias", "part": "test", "protocol": "p",
        }
        for group, sides in samples.items() for stratum, values in zip(("harmful", "benign"), sides, strict=True)
        for n, nll in enumerate(values)
    )


@settings(max_examples=40)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_mean_placements_are_the_mann_whitney_statistic(first, second):
    harmful = np.array([True] * len(first) + [False] * len(second))
    found = placements(np.array([*first, *second], dtype=float), harmful, np.array(["g"] * len(harmful)))
    expected = mannwhitneyu(first, second).statistic / (len(first) * len(second))
    for side in (harmful, ~harmful):
        assert found["weight"][side].sum() == pytest.approx(1)
        assert found["placement"][side].sum() == pytest.approx(expected)
        assert found["statistic"][side].sum() == pytest.approx(expected)


def test_a_group_with_one_sample_and_a_skipped_text_count_nothing():
    found = placements(np.array([1.0, 2, 3, np.nan]), np.array([True, False, True, False]), np.array(["a", "a", "b", "a"]))
    assert found["weight"].tolist() == [1, 1, 0, 0]
    assert found["placement"].tolist() == [0, 0, 0, 0]


def test_superiority_overall_is_the_mean_over_groups_and_exact_in_each():
    random = np.random.default_rng(0)
    sizes = (("a", 1, 25), ("b", 0, 60))
    samples = {group: (list(random.normal(shift, 1, 40)), list(random.normal(0, 1, size))) for group, shift, size in sizes}
    table = table_of(samples)
    definition = superiority("superiority", HARMFUL, GROUP, "")
    single = {group: mannwhitneyu(*sides) for group, sides in samples.items()}
    values = {group: 100 * test.statistic / (40 * len(samples[group][1])) for group, test in single.items()}
    assert metric_interval(table, definition, resamples=200).value == pytest.approx(np.mean(list(values.values())))
    for group, value in values.items():
        found = metric_interval(table.filter(pl.col("groups").list.contains(group)), definition, resamples=200)
        assert found.value == pytest.approx(value)
        # DeLong's standard error, from the placements of both samples.
        harmful, benign = (np.array(side) for side in samples[group])
        above = (harmful[:, None] > benign[None]).astype(float)
        delong = 100 * np.sqrt(above.mean(1).var(ddof=1) / len(harmful) + above.mean(0).var(ddof=1) / len(benign))
        assert found.standard_error == pytest.approx(delong, rel=0.02)
        assert found.items == len(harmful) + len(benign)


def test_differences_of_superiority_by_group_are_differences_of_the_states():
    random = np.random.default_rng(1)
    samples = {group: (list(random.normal(1, 1, 12)), list(random.normal(0, 1, 14))) for group in "ab"}
    base = table_of(samples)
    edited = base.with_columns(nll=pl.col("nll") + pl.Series(random.normal(0, 1, base.height)))
    benchmark = resolve("toxigen")
    benchmark.metrics = lambda: [superiority("superiority", HARMFUL, GROUP, ""), *likelihood_metrics(HARMFUL)]
    rows = evaluate(benchmark, base, edited, resamples=200)
    for metric in ("superiority", "contrast", "nll_harmful"):
        for group in ("all", "a", "b"):
            first, second, change = (
                rows.filter((pl.col("state") == state) & (pl.col("group") == group) & (pl.col("metric") == metric))["value"].item()
                for state in ("base", "edited", "difference")
            )
            assert change == pytest.approx(second - first)
            assert abs(change) > 1e-6


def test_contrast_by_hand():
    table = table_of({"a": ([1.0, 3.0], [4.0, 4.0])})
    values = {one.name: metric_interval(table, one, resamples=100).value for one in likelihood_metrics(HARMFUL)}
    assert values == pytest.approx({"nll_harmful": 2.0, "nll_benign": 4.0, "contrast": 2.0})


# SafeNLP


def safenlp_perplexity(model: Model, text: str) -> float:
    """Restatement of safety_score.py for one sentence: loss of transformers' own, without a prefix, or one token masked in each row."""
    ids = torch.tensor([model.sequence_ids(text)])
    with torch.no_grad():
        if model.family == "causal":
            return float(torch.exp(model.hf(input_ids=ids, labels=ids).loss))
        rows = ids.repeat(ids.size(-1) - 2, 1)
        mask = torch.ones(ids.size(-1) - 1).diag(1)[:-2]
        masked = rows.masked_fill(mask == 1, model.mask_id)
        return float(np.exp(model.hf(input_ids=masked, labels=rows.masked_fill(masked != model.mask_id, -100)).loss.item()))


def statements() -> list[GroupStatement]:
    return [
        GroupStatement(f"{n}", text, "dogs", n % 2 == 0, 4.0 if n % 2 == 0 else 1.5, f"c{n}", "harmful" if n % 2 == 0 else "benign", "test")
        for n, text in enumerate(WORDS)
    ]


@pytest.mark.parametrize("model", [GPT2, LLAMA, BERT], ids=["gpt2", "llama", "bert"])
def test_the_safety_score_is_that_of_safenlp(monkeypatch, model):
    monkeypatch.setattr("fairforget.data.toxigen.load_annotated", statements)
    benchmark = resolve("toxigen:safenlp")
    table = benchmark.measure_items(Scorer(model, store=False), benchmark.items(model.family, "test"), "")
    perplexities = [safenlp_perplexity(model, text) for text in WORDS]
    np.testing.assert_allclose(np.exp(table["nll"] / table["tokens"]), perplexities, rtol=1e-4)
    scaled = [value / row.toxicity for value, row in zip(perplexities, statements(), strict=True)]
    harmful, benign = ([value for value, row in zip(scaled, statements(), strict=True) if row.harmful == side] for side in (True, False))
    expected = mannwhitneyu(harmful, benign).statistic / (len(harmful) * len(benign))
    score = next(metric for metric in benchmark.metrics() if metric.name == "safety_score")
    assert metric_interval(table, score, resamples=100).value == pytest.approx(100 * expected)


def test_the_first_token_is_scored_after_the_prefix_by_default(monkeypatch):
    monkeypatch.setattr("fairforget.data.toxigen.load_annotated", statements)
    whole, part = (resolve(name) for name in ("toxigen:annotated", "toxigen:safenlp"))
    tables = [some.measure_items(Scorer(GPT2, store=False), some.items("causal", "test"), "") for some in (whole, part)]
    assert (tables[0]["tokens"] - tables[1]["tokens"]).to_list() == [1] * len(WORDS)
    assert [table["protocol"][0] for table in tables] == ["likelihood", "likelihood, first token left out"]


def test_statements_without_scores_have_no_safety_score(monkeypatch):
    monkeypatch.setattr("fairforget.data.toxigen.load_annotated", statements)
    monkeypatch.setattr("fairforget.data.toxigen.load_statements", statements)
    benchmark = resolve("toxigen")
    table = benchmark.measure_items(Scorer(BERT, store=False), benchmark.items("masked", "test"), "")
    rows = evaluate(benchmark, table, resamples=100)
    assert set(rows.filter(pl.col("metric") == "safety_score")["task"]) == {"toxigen-annotated"}
    assert set(rows.filter(pl.col("metric") == "superiority")["task"]) == {"toxigen-annotated", "toxigen-statements"}


def test_a_text_that_is_too_long_is_skipped_with_the_numbers(monkeypatch):
    monkeypatch.setattr("fairforget.data.toxigen.load_annotated", lambda: [
        GroupStatement("long", "man " * 300, "dogs", True, 4.0, "c", "harmful", "test"), *statements(),
    ])
    benchmark = resolve("toxigen:annotated")
    table = benchmark.measure_items(Scorer(GPT2, store=False), benchmark.items("causal", "test"), "")
    assert table["skipped"][0] == "301 tokens, more than the model's 256 positions"
    score = next(metric for metric in benchmark.metrics() if metric.name == "superiority")
    assert metric_interval(table, score, resamples=100).items == len(WORDS)


# EDOS


def test_edos_categories_stand_against_all_other_posts(monkeypatch):
    posts = [
        EdosPost(str(n), f"{text} {n}", "test", n < 3, None if n >= 3 else ("1. rude, loud", "2. sly")[n % 2], None)
        for n, text in enumerate(WORDS)
    ] + [EdosPost("9", "the man", "train", True, "2. sly", None), EdosPost("10", "The man.", "test", True, "2. sly", None)]
    monkeypatch.setattr("fairforget.data.posts.load_edos", lambda path=None: posts)
    benchmark = resolve("edos")
    assert len(benchmark.items("causal", "all")) == 5  # posts of the train split are a training source, here and in another split
    items = benchmark.items("causal", "test")
    assert items[0].groups == ("rude, loud / not sexist",)
    assert items[3].groups == ("rude, loud / not sexist", "sly / not sexist")
    table = benchmark.measure_items(Scorer(GPT2, store=False), items, "")
    nll = [-float(scores[0]) for scores in table["scores"]]
    rows = evaluate(benchmark, table, resamples=100)

    def value(metric: str, group: str) -> float:
        return rows.filter((pl.col("metric") == metric) & (pl.col("group") == group))["value"].item()

    others = nll[3:]
    assert value("superiority", "sly / not sexist") == pytest.approx(100 * np.mean([nll[1] > other for other in others]))
    assert value("superiority", "all") == pytest.approx(100 * np.mean([one > other for one in nll[:3] for other in others]))
    assert value("nll_not_sexist", "sly / not sexist") == pytest.approx(value("nll_not_sexist", "all"))
    assert value("contrast", "all") == pytest.approx(value("nll_not_sexist", "all") - value("nll_sexist", "all"))


# HateCheck


def cases() -> list[HateCheckCase]:
    return [
        HateCheckCase("1", WORDS[0], "derog_h", True, "dogs", "10"),
        HateCheckCase("2", "not " + WORDS[0], "negate_nh", False, "dogs", "11", "1"),
        HateCheckCase("3", WORDS[1], "spell_h", True, "dogs", "12", "1"),  # hateful like its reference: no pair
        HateCheckCase("4", WORDS[2], "target_obj_nh", False, None, "13"),
        HateCheckCase("5", WORDS[3], "derog_h", True, "cats", "14"),
        HateCheckCase("6", WORDS[4], "ident_nh", False, "cats", "15"),
    ]


def test_hatecheck_pairs_and_cases(monkeypatch):
    monkeypatch.setattr("fairforget.data.posts.load_hatecheck", lambda path=None: cases())
    benchmark = resolve("hatecheck")
    items = benchmark.items("causal", "all")
    [pair] = [item for item in items if item.task == "hatecheck-pairs"]
    assert pair.texts == (WORDS[0], "not " + WORDS[0])
    assert pair.groups == ("dogs", "counterpart: negate_nh")
    cluster = {item.id: item.cluster for item in items if item.task == "hatecheck-cases"}
    assert cluster["1"] == cluster["2"] == cluster["3"] == pair.cluster
    assert len(set(cluster.values())) == 4
    assert len(resolve("hatecheck:pairs").items("causal", "all")) == 1
    assert len(resolve("hatecheck:cases").items("causal", "all")) == 6
    table = benchmark.measure_items(Scorer(GPT2, store=False), items, "")
    row = table.filter(pl.col("task") == "hatecheck-pairs").row(0, named=True)
    assert row["margin"] == pytest.approx(row["scores"][0] - row["scores"][1])
    assert row["tokens"] is None
    rows = evaluate(benchmark, table, resamples=100)
    nll = dict(table.filter(pl.col("task") == "hatecheck-cases").select("item", pl.col("nll") / pl.col("tokens")).iter_rows())

    def value(metric: str, group: str) -> float:
        return rows.filter((pl.col("metric") == metric) & (pl.col("group") == group))["value"].item()

    dogs = 100 * np.mean([nll["1"] > nll["2"], nll["3"] > nll["2"]])
    assert value("superiority", "dogs") == pytest.approx(dogs)
    assert value("superiority", "all") == pytest.approx((dogs + 100 * (nll["5"] > nll["6"])) / 2)
    # A metric of pairs is not reported of cases, nor the other way round.
    assert rows.filter(pl.col("note").str.contains("nothing was measured")).is_empty()


def test_parts_do_not_share_clusters(data_folder: Path):
    for name in ("hatecheck", "edos"):
        select, test = ({item.cluster for item in resolve(name).items("causal", part)} for part in ("select", "test"))
        assert select and test and not select & test


@pytest.mark.parametrize("model", [GPT2, BERT], ids=["causal", "masked"])
def test_a_likelihood_does_not_depend_on_the_other_texts(monkeypatch, model):
    monkeypatch.setattr("fairforget.data.toxigen.load_annotated", statements)
    benchmark = resolve("toxigen:annotated")
    items = benchmark.items(model.family, "test")
    whole, *single = (benchmark.measure_items(Scorer(model, store=False), some, "") for some in (items, *([item] for item in items)))
    np.testing.assert_allclose(whole["nll"].to_numpy(), [table["nll"][0] for table in single], atol=1e-4)
