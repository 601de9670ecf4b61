"""SEAT: vectors and effect sizes against bias-bench's loops on tiny models, and the way of the p values into the metric rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks._base import SetTest
from fairforget.benchmarks._evaluate import METRIC_SCHEMA
from fairforget.benchmarks.seat import Seat, SeatSettings
from fairforget.data.seat import FAMILIES
from fairforget.edits import EditRecord, ProjectionEdit, self_debias
from fairforget.errors import DataError, UsageError
from fairforget.models import Model
from fairforget.scoring import Scorer, representations
from fairforget.stats.association import effect_size, permutation_test

MODELS = {kind: tiny_model(kind) for kind in ("bert", "gpt2")}
WORDS = {
    "targ1": ["dog", "cat", "bird", "river", "tree"], "targ2": ["city", "house", "street", "book", "food"],
    "attr1": ["good", "sun"], "attr2": ["bad", "rain", "short"],
}


def write_tests(folder: Path) -> str:
    """Four made-up tests under the names of the family that is read from a folder."""
    for shift, name in enumerate(FAMILIES["religion"]):
        sets: dict[str, Any] = {}
        for key, words in WORDS.items():
            turned = words[shift:] + words[:shift]
            examples = [form.format(word) for word in turned for form in ("This is a {}.", "The {} is here.")]
            sets[key] = {"category": key, "examples": examples[: 10 - 2 * shift] if key.startswith("targ") else examples}
        (folder / f"{name}.jsonl").write_text(json.dumps(sets))
    return str(folder)


def seat(folder: Path, **settings: Any) -> Seat:
    return Seat(SeatSettings(families=("religion",), religion=write_tests(folder), **settings))


def bias_bench_vector(model: Model, text: str) -> np.ndarray:
    """The mean of the last layer over all tokens of tokenizer(text), of length 1."""
    inputs = model.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        states = model.hf.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0][0].numpy()
    mean = states.mean(axis=0)
    return mean / np.linalg.norm(mean)


def row_of(rows: pl.DataFrame, metric: str, group: str = "all", state: str = "base", task: str = "seat-religion") -> dict[str, Any]:
    wanted = (pl.col("metric") == metric) & (pl.col("group") == group) & (pl.col("state") == state) & (pl.col("task") == task)
    (row,) = rows.filter(wanted).to_dicts()
    return row


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_values_and_figures_are_those_of_bias_bench(kind: str, tmp_path: Path):
    model, benchmark = MODELS[kind], seat(tmp_path)
    table = benchmark.measure(Scorer(model, store=False), "test")
    rows = evaluate(benchmark, table, resamples=200)
    effects: list[float] = []
    for name in FAMILIES["religion"]:
        sets = json.loads((tmp_path / f"{name}.jsonl").read_text())
        vectors = {key: [bias_bench_vector(model, text) for text in entry["examples"]] for key, entry in sets.items()}
        s = {
            side: np.array([np.mean([w @ a for a in vectors["attr1"]]) - np.mean([w @ b for b in vectors["attr2"]]) for w in vectors[key]])
            for side, key in (("X", "targ1"), ("Y", "targ2"))
        }
        mine = table.filter(pl.col("groups").list.first() == name)
        for side, expected in s.items():
            assert mine.filter(pl.col("item").str.starts_with(f"{side}/"))["value"].to_numpy() == pytest.approx(expected, abs=1e-6)
        values = [mine.filter(pl.col("item").str.starts_with(f"{side}/"))["value"].to_numpy() for side in ("X", "Y")]
        effects.append(effect_size(*values))
        assert row_of(rows, "effect_size", name)["value"] == pytest.approx(effects[-1], abs=1e-9)
        assert effects[-1] == pytest.approx(effect_size(s["X"], s["Y"]), abs=1e-3)
        tested = row_of(rows, "p_value", name)
        result = permutation_test(*values)
        assert tested["value"] == result.p and tested["n"] == mine.height
        assert ("drawn 100,000 splits" in tested["note"]) == (not result.exact)
        assert tested["note"].startswith("* p < 0.01") == (result.p < 0.01)
    assert row_of(rows, "mean_abs_effect_size")["value"] == pytest.approx(np.mean(np.abs(effects)), abs=1e-9)
    assert rows.filter((pl.col("metric") == "effect_size") & (pl.col("group") == "all")).is_empty()
    assert rows.schema == pl.Schema(METRIC_SCHEMA)


def test_terms_are_resampled_and_the_interval_holds_the_figure(tmp_path: Path):
    benchmark = seat(tmp_path)
    rows = evaluate(benchmark, benchmark.measure(Scorer(MODELS["bert"], store=False), "test"), resamples=200)
    row = row_of(rows, "effect_size", FAMILIES["religion"][0])
    assert row["clusters"] == 10 and row["low"] < row["value"] < row["high"]


def test_each_distinct_text_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    real = representations.sentence_vectors

    def counted(model: Model, texts: list[str], **options: Any) -> np.ndarray:
        asked.append(texts)
        return real(model, texts, **options)

    monkeypatch.setattr(representations, "sentence_vectors", counted)
    seat(tmp_path).measure(Scorer(MODELS["bert"], store=False), "select")
    assert len(asked) == 1 and len(asked[0]) == len(set(asked[0])) == 2 * sum(map(len, WORDS.values()))


def test_an_edit_changes_the_vectors_and_its_difference_has_an_interval(tmp_path: Path):
    model, benchmark = tiny_model("bert"), seat(tmp_path)
    before = benchmark.measure(Scorer(model, store=False), "test")
    basis = torch.linalg.qr(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))[0]
    edit = ProjectionEdit(basis, EditRecord.for_model(model, "test", settings={}, seed=0))
    with edit.applied(model):
        after = benchmark.measure(Scorer(model, store=False), "test")
    rows = evaluate(benchmark, before, after, resamples=200)
    change = row_of(rows, "mean_abs_effect_size", state="difference")
    levels = [row_of(rows, "mean_abs_effect_size", state=state)["value"] for state in ("base", "edited")]
    assert change["value"] == pytest.approx(levels[1] - levels[0]) and change["value"] != 0
    assert not rows.filter((pl.col("metric") == "p_value") & (pl.col("state") == "difference")).height
    assert rows.filter((pl.col("metric") == "p_value") & (pl.col("state") == "edited")).height == 4


def test_a_causal_model_reads_the_text_alone_unless_told(tmp_path: Path):
    model = MODELS["gpt2"]
    alone, after = (seat(tmp_path, prefix=prefix).measure(Scorer(model, store=False), "test") for prefix in (False, True))
    assert alone["protocol"].unique().to_list() == ["mean of tokens without prefix, last layer"]
    assert after["protocol"].unique().to_list() == ["mean of tokens after the prefix, last layer"]
    assert not np.allclose(alone["value"].to_numpy(), after["value"].to_numpy())


def test_what_does_not_vary_is_nan_with_a_reason(tmp_path: Path):
    benchmark = seat(tmp_path)
    table = benchmark.measure(Scorer(MODELS["bert"], store=False), "test").with_columns(value=pl.lit(0.25))
    rows = evaluate(benchmark, table, resamples=200)
    for metric in ("effect_size", "p_value"):
        row = row_of(rows, metric, FAMILIES["religion"][0])
        assert math.isnan(row["value"]) and row["note"]


def test_a_model_whose_states_show_no_edit_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    benchmark = seat(tmp_path)
    before = benchmark.measure(Scorer(MODELS["bert"], store=False), "test")
    monkeypatch.setattr(self_debias, "active_self_debias", lambda model: object())
    after = benchmark.table(benchmark.items("masked", "test"), [], MODELS["bert"])
    rows = evaluate(benchmark, before, after, resamples=200)
    for state, metric in (("edited", "p_value"), ("edited", "effect_size"), ("difference", "effect_size")):
        row = row_of(rows, metric, FAMILIES["religion"][0], state)
        assert math.isnan(row["value"]) and row["note"] and row["skipped"] == 10 * 2
    assert row_of(rows, "effect_size", FAMILIES["religion"][0])["skipped"] == 0


def test_the_mean_over_all_leaves_out_single_words():
    benchmark = Seat(SeatSettings(families=("gender", "weat")))
    (pooled,) = benchmark.task_metrics("seat")
    (own, _) = benchmark.task_metrics("seat-weat")
    assert (len(pooled.numerators), len(own.numerators)) == (6 * 6, 6 * 15)


def test_settings_are_checked(tmp_path: Path):
    with pytest.raises(UsageError, match="names each family once"):
        Seat(SeatSettings(families=("gender", "gender")))
    with pytest.raises(DataError, match="no stated licence"):
        Seat(SeatSettings(families=("religion",))).items("masked", "test")
    assert resolve("seat").report_only


def test_a_benchmark_without_set_tests_has_none():
    assert resolve("crows-pairs").set_tests("crows-pairs", pl.DataFrame(), 0) == []
    assert SetTest("p_value", 0.5, 3).group == "all"
