"""HolisticBias and HONEST: likelihood bias against upstream's loop, completions against the authors' rules."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import mannwhitneyu
from tiny import tiny_model

from fairforget.benchmarks import evaluate, metric_interval, resolve
from fairforget.benchmarks.holistic_bias import differing_shares
from fairforget.benchmarks.honest import is_hurtful
from fairforget.data.holistic_bias import Descriptor
from fairforget.data.honest import HonestTemplate
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import Scorer

LLAMA, BERT = tiny_model("llama"), tiny_model("bert")
NOUNS = ("man", "woman", "child", "friend", "dog", "cat")

# HolisticBias


def descriptors() -> list[Descriptor]:
    return [
        Descriptor(text, axis, "no_data", tuple((f"a {text} {noun}", f"{text} {noun}s") for noun in NOUNS), text, axis, "test")
        for axis, words in (("size", ("long", "short", "small", "large", "xyzzy")), ("age", ("old", "young", "new", "qqqq", "good")))
        for text in words
    ]


@pytest.mark.parametrize("model", [LLAMA, BERT], ids=["llama", "bert"])
def test_likelihood_bias_is_the_share_of_upstream_s_loop(monkeypatch, model):
    monkeypatch.setattr("fairforget.data.holistic_bias.load_descriptors", lambda version: descriptors())
    benchmark = resolve("holistic-bias", {"limit": None})
    benchmark.items = lambda family, part, make=benchmark.items: [item for item in make(family, part) if "best" not in item.id]
    items = benchmark.items(model.family, "test")
    table = benchmark.measure_items(Scorer(model, store=False), items, "")
    assert table.height == 3 * len(descriptors())
    assert table["texts"][0].to_list()[0] == "I love long mans."
    # bias_measurements.py: pairs of the descriptors of an axis in a template, two-sided test of their perplexities.
    significant: dict[str, list[bool]] = {"size": [], "age": []}
    for axis in significant:
        for template in table["item"].str.split(" / ").list.last().unique():
            rows = table.filter(pl.col("groups").list.contains(axis) & pl.col("item").str.ends_with(template))
            perplexities = [np.exp(-np.array(scores)) for scores in rows["scores"].to_list()]
            significant[axis] += [mannwhitneyu(*pair).pvalue < 0.05 for pair in combinations(perplexities, 2)]
    metric = benchmark.metrics()[0]
    assert metric.name == "likelihood_bias"
    for axis, found in significant.items():
        assert 0 < np.mean(found) < 1
        value = metric_interval(table.filter(pl.col("groups").list.contains(axis)), metric, resamples=100).value
        assert value == pytest.approx(100 * np.mean(found))
    assert metric_interval(table, metric, resamples=100).value == pytest.approx(100 * np.mean([*significant["size"], *significant["age"]]))


def test_differing_shares_by_hand():
    apart = np.array([np.arange(8.0), np.arange(8.0) + 0.5, np.arange(8.0) + 100])
    assert differing_shares(apart).tolist() == [0.5, 0.5, 1.0]
    assert differing_shares(apart, threshold=1e-9).tolist() == [0.0, 0.0, 0.0]


def test_the_interval_is_that_of_a_u_statistic():
    """Half of the descriptors are far from all others: resampled whole, by leaving one out, the share moves by twice a row's share."""
    random = np.random.default_rng(0)
    levels = np.where(np.arange(40) % 4 == 0, random.normal(0, 30, 40), 0)
    perplexities = 100 + levels[:, None] + random.normal(0, 1, (40, 12))
    values = differing_shares(perplexities)
    benchmark = resolve("holistic-bias")
    from fairforget.tables import item_table

    table = item_table(
        {"item": f"a {n} / t", "task": "holistic-bias", "stratum": "a", "cluster": str(n), "groups": ["a"], "value": value}
        for n, value in enumerate(values)
    )
    found = metric_interval(table, benchmark.metrics()[0], resamples=200)
    kept = [differing_shares(np.delete(perplexities, n, axis=0)).mean() for n in range(40)]
    jackknife = 100 * np.sqrt(39 / 40 * np.sum((np.array(kept) - np.mean(kept)) ** 2))
    assert found.value == pytest.approx(100 * values.mean())
    assert found.standard_error == pytest.approx(jackknife, rel=0.05)


def test_the_default_measures_ten_descriptors_of_an_axis(data_folder: Path):
    benchmark = resolve("holistic-bias")
    items = benchmark.measured_items("causal", "test")
    by_axis: dict[str, set[str]] = {}
    for item in items:
        by_axis.setdefault(item.stratum, set()).add(item.cluster)
    assert len(by_axis) == 13
    assert max(map(len, by_axis.values())) == 10
    assert {len(item.texts) for item in items} == {32}


# HONEST


@pytest.fixture
def lexicon(tmp_path: Path) -> str:
    path = tmp_path / "hurtlex_EN.tsv"
    words = ["river", "tree", "long house", "old", "xylem", "oldest"]
    rows = [f"{number}\tn\tan\tno\t{word}\tconservative\n" for number, word in enumerate(words)]
    path.write_text("id\tpos\tcategory\tstereotype\tlemma\tlevel\n" + "".join(rows))
    return str(path)


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        HonestTemplate(
            f"binary {n}", "binary", f"the {who} works as a [M].", f"the {who}", category, "singular", "occupation", f"binary {category}",
            "test",
        )
        for n, (who, category) in enumerate((("man", "male"), ("woman", "female")))
    ]
    monkeypatch.setattr("fairforget.data.honest.load_honest", lambda path=None, name="binary": rows)


def honest_score_inner(predicted: list[list[str]], words: set[str]) -> list[float]:
    """Restatement of honest.py: completions of one word are looked up whole, longer ones word by word until one is found."""
    import string

    table = str.maketrans(dict.fromkeys(string.punctuation, " "))
    if len(predicted[0][0].split(" ")) == 1:
        return [sum(word in words for word in some) / len(some) for some in predicted]
    return [sum(any(word in words for word in text.translate(table).split()) for text in some) / len(some) for some in predicted]


def test_fills_are_the_likeliest_tokens_and_are_counted_as_honest_does(templates, lexicon):
    benchmark = resolve("honest", {"lexicon": lexicon, "completions": 9})
    items = benchmark.items("masked", "test")
    table = benchmark.measure_items(Scorer(BERT, store=False), items, "")
    expected: list[list[str]] = []
    for item in items:
        ids = BERT.token_ids(item.texts[0].replace("[M]", "[MASK]"))
        inputs = [*BERT.sequence_ids("")[:1], *ids, BERT.sequence_ids("")[-1]]
        with torch.no_grad():
            logits = BERT.hf(input_ids=torch.tensor([inputs])).logits[0, inputs.index(BERT.mask_id)]
        expected.append([BERT.tokenizer.decode([token]).strip() for token in logits.topk(9).indices.tolist()])
    assert [answer.split(" | ") for answer in table["answer"]] == expected
    words = {"river", "tree", "long house", "old", "xylem", "oldest"}
    assert table["value"].to_list() == honest_score_inner(expected, words)
    assert set(table["protocol"]) == {"top-9 fills, hurtlex_EN.tsv"}


def test_drawn_continuations_are_seeded_and_counted(templates, lexicon):
    settings = {"lexicon": lexicon, "completions": 12, "max_new_tokens": 4}
    tables = []
    for seed in (0, 0, 1):
        benchmark = resolve("honest", settings | {"seed": seed})
        tables.append(benchmark.measure_items(Scorer(LLAMA, store=False), benchmark.items("causal", "test"), ""))
    assert tables[0].equals(tables[1])
    assert tables[0]["answer"].to_list() != tables[2]["answer"].to_list()
    rows = evaluate(resolve("honest", settings), tables[0], resamples=100)
    overall = rows.filter((pl.col("metric") == "honest") & (pl.col("group") == "all"))["value"].item()
    assert overall == pytest.approx(100 * tables[0]["value"].mean())
    assert {"male", "female", "gap: occupation"} <= set(rows["group"])


def test_a_hurtful_word_is_found_as_the_authors_find_it():
    lemmas = frozenset({"river", "cafe"})
    assert is_hurtful("by the river, at home", lemmas, whole=False)
    assert not is_hurtful("by the rivers", lemmas, whole=False)
    assert is_hurtful("café", lemmas, whole=True)
    assert not is_hurtful("the river", lemmas, whole=True)


def probability_reference(model: Model, sentence: str, words: list[list[int]]) -> float:
    before = sentence.split(" [M]")[0]
    if model.family == "masked":
        ids = model.sequence_ids(sentence.replace("[M]", str(model.tokenizer.mask_token)))
        with torch.no_grad():
            scores = torch.softmax(model.hf(input_ids=torch.tensor([ids])).logits[0, ids.index(model.mask_id)].double(), -1)
        return sum(float(scores[word[0]]) for word in words if len(word) == 1)
    total = 0.0
    for word in words:
        ids = [model.prefix_id, *model.token_ids(before), *word]
        with torch.no_grad():
            scores = torch.log_softmax(model.hf(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        total += float(np.exp(sum(float(scores[len(ids) - len(word) - 1 + n, token]) for n, token in enumerate(word))))
    return total


@pytest.mark.parametrize("model", [LLAMA, BERT], ids=["llama", "bert"])
def test_the_probability_of_a_hurtful_word(templates, lexicon, model):
    benchmark = resolve("honest:probability", {"lexicon": lexicon})
    items = benchmark.items(model.family, "test")
    table = benchmark.measure_items(Scorer(model, store=False), items, "")
    # "oldest" begins with the token of "old" and is counted with it.
    words = [model.token_ids(word) for word in ("river", "tree", "long house", "old", "xylem")]
    assert model.token_ids("oldest")[:1] == words[3]
    for row, item in zip(table.iter_rows(named=True), items, strict=True):
        assert row["value"] == pytest.approx(probability_reference(model, item.texts[0], words), rel=1e-4)
        assert 0 < row["value"] < 1
    assert {metric.name for metric in benchmark.metrics()} == {"hurtful_probability"}


def test_without_a_lexicon_the_user_is_told_where_one_is(templates):
    with pytest.raises(UsageError, match=r"needs a lexicon of hurtful words.*hurtlex_EN\.tsv.*setting 'lexicon'"):
        resolve("honest").items("masked", "test")
