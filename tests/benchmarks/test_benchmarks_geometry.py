"""Geometry as a benchmark: documents are items, words stand beside them, two states are paired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks.geometry import WORD_TASK
from fairforget.errors import UsageError
from fairforget.forgetting.ledger import build_ledger
from fairforget.geometry import output_matrix
from fairforget.scoring import Scorer

GROUP = "he she him her his man woman".split()
OTHER = "nurse doctor teacher water food house city street book tree river hill sun rain bird dog cat child friend".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve passages of 300 words."""
    path = tmp_path_factory.mktemp("corpus") / "own.txt"
    passages = [" ".join(np.random.default_rng(number).choice([*GROUP, *OTHER], 300)) for number in range(12)]
    path.write_text("\n\n".join(passages), encoding="utf-8")
    return path


def figure(metrics: pl.DataFrame, state: str, metric: str, task: str = "geometry-gender") -> dict[str, float]:
    found = metrics.filter((pl.col("state") == state) & (pl.col("metric") == metric) & (pl.col("task") == task)).to_dicts()
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_two_states_are_measured_and_compared(kind: str, corpus: Path) -> None:
    model = tiny_model(kind)
    benchmark = resolve("geometry", {"corpus": str(corpus), "per_word": 6, "context": 64})
    before = benchmark.measure(Scorer(model, store=False), "all")
    again = benchmark.measure(Scorer(model, store=False), "all")
    assert before.equals(again)
    with torch.no_grad():
        output_matrix(model).mul_(1 + 0.5 * torch.randn_like(output_matrix(model)))
    after = benchmark.measure(Scorer(model, store=False), "all")
    metrics = evaluate(benchmark, before, after, resamples=400)
    for task in ("geometry-gender", "geometry-random", "geometry-matched"):
        base, edited, change = (figure(metrics, state, "unc3", task) for state in ("base", "edited", "difference"))
        assert change["value"] == pytest.approx(edited["value"] - base["value"])
        assert change["low"] < change["value"] < change["high"]
        assert base["clusters"] >= 10
    assert {"unc3", "nc3_mean", "nc1", "nc1_e1", "nc2_etf_error", "gnc2_std", "nc3_error", "nc4", "nc1_w", "gnc2_w_std"} <= set(
        metrics["metric"].to_list()
    )
    assert not metrics.filter(pl.col("task").str.ends_with(WORD_TASK)).height
    assert metrics["note"].str.contains("read (U)NC3 with NC3", literal=True).all()
    words = before.filter(pl.col("task") == f"geometry-gender{WORD_TASK}")
    scored = words.filter(pl.col("skipped").is_null())
    assert sorted(text[0] for text in scored["texts"]) == sorted(GROUP)
    cosines = scored["scores"].list.get(0).to_numpy()
    assert figure(metrics, "base", "unc3")["value"] == pytest.approx(cosines.std(ddof=1))
    assert "of several tokens" in " ".join(words["skipped"].drop_nulls().to_list())
    ledger = build_ledger(before, after)
    assert ledger.select(pl.col("lost", "gained", "margin_shift").is_null().all()).row(0) == (True, True, True)


def test_presets_and_settings_that_do_not_go_together(corpus: Path) -> None:
    released = resolve("geometry:xu2025", {"corpus": str(corpus), "words": ["gender"], "context": 64})
    model = tiny_model("bert")
    table = released.measure(Scorer(model, store=False), "select")
    assert table["protocol"][0].startswith("next pairing, pre_decoder, first_piece")
    assert table.filter(pl.col("task") == "geometry-gender", pl.col("skipped").is_null()).height == 6
    with pytest.raises(UsageError, match="a list first"):
        resolve("geometry", {"words": ["random", "gender"]})
    few = resolve("geometry", {"corpus": str(corpus), "words": ["gender"], "documents": 3, "per_word": 2, "context": 64})
    assert few.measure(Scorer(model, store=False), "all").filter(pl.col("task") == "geometry-gender").height == 3
