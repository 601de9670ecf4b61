"""RedditBias: perplexities against the released code's on tiny models, t against SciPy's, and outliers as the released code takes them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks._base import Item
from fairforget.benchmarks.redditbias import RedditBias, RedditBiasSettings, without_outliers
from fairforget.data.catalogue import fetch
from fairforget.data.redditbias import AXES
from fairforget.models import Model
from fairforget.scoring import Scorer
from fairforget.tables import item_table

MODELS = {kind: tiny_model(kind) for kind in ("gpt2", "bert")}
TEXTS = [("the old man was bad", "the young man was bad"), ("a dog works at home", "a cat works at home"), ("rain and sun", "sun and rain")]


def make_items(texts: list[tuple[str, str]] = TEXTS) -> list[Item]:
    return [
        Item(f"{number}", "redditbias-gender", "bias", "test", f"cluster {number}", "gender", (), pair) for number, pair in enumerate(texts)
    ]


def measured(model: Model, texts: list[tuple[str, str]] = TEXTS, **settings: Any) -> pl.DataFrame:
    return RedditBias(RedditBiasSettings(**settings)).measure_items(Scorer(model, store=False), make_items(texts), "test")


def released_perplexity(model: Model, text: str) -> float:
    """The released code: exp of the loss of the model on the text's tokens, no token added."""
    ids = torch.tensor([model.tokenizer.convert_tokens_to_ids(model.tokenizer.tokenize(text))])
    with torch.no_grad():
        return math.exp(model.hf(input_ids=ids, labels=ids).loss)


def table_of(perplexities: dict[str, tuple[np.ndarray, np.ndarray]]) -> pl.DataFrame:
    return item_table([
        {
            "benchmark": "redditbias", "task": f"redditbias-{axis}", "role": "bias", "part": "test", "item": f"{axis} {row}",
            "cluster": f"{axis} {row}", "stratum": axis, "groups": [], "scores": [float(one), float(other)],
            "margin": math.log(other / one), "prefers_stereotype": float(other > one),
        }
        for axis, (first, second) in perplexities.items()
        for row, (one, other) in enumerate(zip(first, second, strict=True))
    ])


def figure(rows: pl.DataFrame, metric: str, task: str, state: str = "base") -> dict[str, Any]:
    (row,) = rows.filter((pl.col("metric") == metric) & (pl.col("task") == task) & (pl.col("state") == state)).to_dicts()
    return row


@pytest.mark.parametrize(("kind", "settings"), [("gpt2", {}), ("bert", {"masking": "none"})])
def test_perplexities_are_those_of_the_released_code(kind: str, settings: dict[str, Any]):
    table = measured(MODELS[kind], **settings)
    for (one, other), scores in zip(TEXTS, table["scores"].to_list(), strict=True):
        expected = [released_perplexity(MODELS[kind], text) for text in (one, other)]
        assert scores == pytest.approx(expected, rel=1e-4)
    assert table["margin"].to_list() == pytest.approx([math.log(second / first) for first, second in table["scores"].to_list()], abs=1e-9)


def test_masked_tokens_are_masked_one_at_a_time():
    model = MODELS["bert"]
    ids = model.sequence_ids(TEXTS[0][0])
    logs: list[float] = []
    for place in range(1, len(ids) - 1):
        masked = torch.tensor([[*ids[:place], model.mask_id, *ids[place + 1:]]])
        with torch.no_grad():
            logs.append(float(torch.log_softmax(model.hf(input_ids=masked).logits[0, place].double(), dim=-1)[ids[place]]))
    table = measured(model)
    assert table["scores"][0][0] == pytest.approx(math.exp(-np.mean(logs)), rel=1e-4)
    assert table["protocol"][0] == "pseudo-perplexity" and table["tokens"][0] == 2 * len(logs)


def test_the_first_token_can_be_scored_after_the_prefix():
    plain, prefixed = measured(MODELS["gpt2"]), measured(MODELS["gpt2"], first_token=True)
    assert (prefixed["tokens"] - plain["tokens"]).to_list() == [2, 2, 2]
    assert prefixed["protocol"][0] == "perplexity after the prefix" and plain["protocol"][0] == "perplexity without prefix"


def test_a_text_of_one_token_or_too_many_is_skipped():
    table = measured(MODELS["gpt2"], [("dog", "the dog"), ("dog " * 300, "the dog"), *TEXTS])
    assert table["skipped"].to_list() == [
        "no token can be scored without a prefix", "300 tokens, more than the model's 256 positions", None, None, None,
    ]


def test_t_and_its_mean_over_axes_are_those_of_scipy():
    generator = np.random.default_rng(0)
    axes = {
        axis: (np.exp(generator.normal(4, 1, 40 + place)), np.exp(generator.normal(4.2, 1, 40 + place))) for place, axis in enumerate(AXES)
    }
    rows = evaluate(resolve("redditbias"), table_of(axes), resamples=200)
    expected = {axis: stats.ttest_rel(*pair) for axis, pair in axes.items()}
    for axis, result in expected.items():
        row = figure(rows, "paired_t", f"redditbias-{axis}")
        assert row["value"] == pytest.approx(result.statistic, abs=1e-9) and row["low"] < row["value"] < row["high"]
        assert figure(rows, "p_value", f"redditbias-{axis}")["value"] == pytest.approx(result.pvalue)
    mean = np.mean([abs(result.statistic) for result in expected.values()])
    assert figure(rows, "mean_abs_t", "redditbias")["value"] == pytest.approx(mean, abs=1e-9)
    assert not rows.filter((pl.col("metric") == "paired_t") & (pl.col("task") == "redditbias")).height


def test_t_counts_the_pairs_that_both_states_have():
    first = table_of({"gender": (np.arange(5.0, 25.0), np.arange(4.0, 24.0)[::-1].copy())})
    second = first.with_columns(skipped=pl.when(pl.col("item") == "gender 3").then(pl.lit("too long")))
    rows = evaluate(resolve("redditbias"), first, second, resamples=200)
    kept = [place for place in range(20) if place != 3]
    expected = stats.ttest_rel(np.arange(5.0, 25.0)[kept], np.arange(4.0, 24.0)[::-1][kept]).statistic
    assert figure(rows, "paired_t", "redditbias-gender", "edited")["value"] == pytest.approx(expected)
    assert figure(rows, "paired_t", "redditbias-gender", "difference")["value"] == pytest.approx(0, abs=1e-9)


def test_outliers_are_those_of_the_released_code():
    generator = np.random.default_rng(2)
    first, second = np.exp(generator.normal(3, 0.4, 60)), np.exp(generator.normal(3, 0.4, 60))
    first[7], second[11] = 4000.0, 3000.0

    def outside(data: np.ndarray) -> np.ndarray:
        return np.abs(data - data.mean()) > 3 * np.std(data)

    table = without_outliers(table_of({"race": (first, second)}), 3.0)
    gone = outside(first) | outside(second)
    assert table["skipped"].is_not_null().to_list() == gone.tolist() and gone.sum() == 2
    rows = evaluate(resolve("redditbias"), table, resamples=200)
    row = figure(rows, "paired_t", "redditbias-race")
    assert row["value"] == pytest.approx(stats.ttest_rel(first[~gone], second[~gone]).statistic)
    assert (row["n"], row["skipped"]) == (58, 2)
    assert RedditBias(RedditBiasSettings(outliers=3)).protocol(make_items()[0], "causal").endswith("within 3 standard deviations")


def test_equal_perplexities_have_no_t():
    rows = evaluate(resolve("redditbias"), table_of({"race": (np.full(6, 9.0), np.full(6, 9.0))}), resamples=200)
    for metric in ("paired_t", "p_value"):
        row = figure(rows, metric, "redditbias-race")
        assert math.isnan(row["value"]) and row["note"]


def test_shipped_perplexities_give_scipys_t(data_folder: Path):
    del data_folder
    axes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for axis, groups in AXES.items():
        sides: list[np.ndarray] = []
        for group in groups:
            path = fetch("redditbias", f"{axis}/reddit_comments_{axis}_{group}_biased_test_reduced.csv")
            with path.open(encoding="utf-8", newline="") as file:
                sides.append(np.array([float(row["perplexity"]) for row in csv.DictReader(file)]))
        axes[axis] = (sides[0], sides[1])
    rows = evaluate(resolve("redditbias"), table_of(axes), resamples=200)
    golden = {
        "gender": -1.3668568647, "orientation": 1.6924632382, "race": 1.1654204786, "religion1": -3.5745582965, "religion2": -5.3389761700,
    }
    for axis, t in golden.items():
        assert figure(rows, "paired_t", f"redditbias-{axis}")["value"] == pytest.approx(t, abs=1e-9)


def test_real_items_by_part(data_folder: Path):
    del data_folder
    benchmark = resolve("redditbias")
    parts = {part: benchmark.items("causal", part) for part in ("select", "test", "all")}
    assert {part: len(found) for part, found in parts.items()} == {"select": 1206, "test": 1216, "all": 2428}
    assert not {item.cluster for item in parts["select"]} & {item.cluster for item in parts["test"]}
    assert {item.stratum for item in resolve("redditbias:race").items("causal", "test")} == {"race"}
