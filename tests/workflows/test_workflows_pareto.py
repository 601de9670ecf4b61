"""The search over two dials on made-up models whose bias and cost at every point are known, and on a tiny one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.benchmarks._choices import ACCURACY
from fairforget.edits import EditRecord, LowRank, WeightEdit
from fairforget.errors import UsageError
from fairforget.tables import item_table, preference
from fairforget.workflows.pareto import DialSearch, KeptFigure, _kept_figure, search_dials, search_edits


def world(*, slope: float, cost: float, gain: float, clusters: int = 20):
    """Margins fall by slope · b; log-perplexity rises by cost · b and falls by gain · min(c, 0.5), then rises again."""
    generator = np.random.default_rng(0)
    own, shake = generator.normal(0, 0.3, clusters), generator.normal(0, 1, clusters)
    calls: list[tuple[tuple[float, float], str]] = []

    def measure(dials: tuple[float, float], kind: str) -> pl.DataFrame:
        calls.append((dials, kind))
        bias, capability = dials
        rows = []
        for cluster in range(clusters):
            row = {"benchmark": kind, "protocol": "made", "task": kind, "part": "select", "groups": [], "texts": []}
            row |= {"item": str(cluster), "cluster": str(cluster)}
            if kind == "target":
                margin = 1.0 + own[cluster] - bias * slope + bias * 0.05 * shake[cluster]
                row |= {"role": "bias", "stratum": f"domain {cluster % 2}", "margin": margin, "scores": [margin, 0.0]}
                row["prefers_stereotype"] = preference(margin)
            else:
                loss = 3 + cost * bias - gain * (0.5 - abs(capability - 0.5)) + 0.001 * shake[cluster] * (bias + capability)
                row |= {"role": "ability", "stratum": "text", "nll": 100 * loss, "tokens": 100}
            rows.append(row)
        return item_table(rows)

    return measure, calls


def test_what_the_capability_saves_lets_the_bias_dial_go_further() -> None:
    # alone the bias edit keeps 2 % up to 0.25; with the capability's best (0.5) it is paid for up to 1, where the bias is gone
    measure, calls = world(slope=1.0, cost=np.log(1.02) / 0.3, gain=0.2, clusters=40)
    found = search_dials(measure, "margin", 2.0, DialSearch(), resamples=200)
    assert found.capability == 0.5
    assert found.bias == 1.0
    alone = found.table.filter((pl.col("capability") == 0) & pl.col("within_budget"))
    assert alone["bias"].max() == 0.25
    assert found.table["chosen"].sum() == 1
    chosen = found.table.filter("chosen")
    assert chosen["pareto"].item()
    assert chosen["ratio_high"].item() <= 1.02
    measured = [call for call in calls if call[0] != (0.0, 0.0)]
    assert len(measured) == len(set(measured)) == 2 * (found.table.height - 1)


def test_the_pareto_points_are_those_that_no_point_beats() -> None:
    measure, _ = world(slope=1.0, cost=0.1, gain=0.05)
    table = search_dials(measure, "margin", 2.0, DialSearch(rounds=1), resamples=200).table
    rows = table.select("target", "perplexity_ratio").rows()
    expected = [not any(a <= target and b <= ratio and (a, b) != (target, ratio) for a, b in rows) for target, ratio in rows]
    assert table["pareto"].to_list() == expected
    assert 0 < sum(expected) < len(rows)


def kept_world(loss_per_bias: float):
    """The world above with an ability of 40 items, a share of which is lost in proportion to the bias dial."""
    measure, _ = world(slope=1.0, cost=0.0, gain=0.0, clusters=40)

    def with_task(dials: tuple[float, float], kind: str) -> pl.DataFrame:
        if kind != "made-task":
            return measure(dials, kind)
        lost = round(40 * loss_per_bias * dials[0])
        row = {"benchmark": kind, "protocol": "made", "task": kind, "part": "select", "groups": [], "texts": [], "role": "ability"}
        return item_table([row | {"item": str(n), "cluster": str(n), "stratum": "all", "correct": n >= lost} for n in range(40)])

    return with_task


def test_a_figure_to_be_kept_holds_the_bias_dial_back() -> None:
    figure = KeptFigure("made-task", ACCURACY, 15.0)
    free = search_dials(kept_world(0.2), "margin", 2.0, DialSearch(), resamples=500)
    assert (free.bias, free.tasks.height, free.table["tasks_kept"].null_count()) == (1.0, 0, free.table.height)
    held = search_dials(kept_world(0.2), "margin", 2.0, DialSearch(), keep=[figure], resamples=500)
    assert 0 < held.bias < 1
    rows = held.tasks.filter(pl.col("capability") == 0)
    assert rows["change"].to_list() == pytest.approx([-round(8 * bias) * 2.5 for bias in rows["bias"]])
    assert all(row["kept"] == ((row["low"] if row["change"] else 0) >= -15) for row in rows.iter_rows(named=True))
    assert not held.table.filter(pl.col("bias") == 1.0)["tasks_kept"].any()
    assert "made-task:accuracy kept" in held.reason


def test_a_figure_that_the_model_does_not_have_is_told() -> None:
    words = next(one for one in resolve("perplexity").metrics() if one.name == "word_perplexity")
    measure, _ = world(slope=1.0, cost=0.0, gain=0.0)
    with pytest.raises(UsageError, match="not defined on this model"):
        search_dials(lambda dials, kind: measure(dials, "perplexity" if kind == "text" else kind), "margin", 2.0, DialSearch(),
                     keep=[KeptFigure("text", words, 1.0)], resamples=200)


@pytest.mark.parametrize(("text", "words"), [
    ("arc:accuracy", "write it as"), ("arc=1", "write it as"), ("arc:accuracy=-1", "write it as"),
    ("piqa:accuracy=1", "not among the benchmarks"), ("perplexity:perplexit=1", "did you mean perplexity"),
    ("starter:margin=1", "no direction that is worse"),
])
def test_a_figure_that_cannot_be_kept_is_told(text: str, words: str) -> None:
    benchmarks = {benchmark.name: benchmark for benchmark in map(resolve, ("starter", "perplexity:starter"))}
    with pytest.raises(UsageError, match=words):
        _kept_figure(text, benchmarks)


def test_a_useless_bias_edit_leaves_both_dials_at_zero() -> None:
    measure, _ = world(slope=0.0, cost=0.1, gain=0.2)
    found = search_dials(measure, "margin", 2.0, DialSearch(), resamples=200)
    assert (found.bias, found.capability) == (0.0, 0.0)
    assert "none within" in found.reason


def test_a_reversal_and_a_point_over_the_budget_are_never_chosen() -> None:
    measure, _ = world(slope=3.0, cost=0.0, gain=0.0)
    found = search_dials(measure, "margin", 2.0, DialSearch(), resamples=200)
    assert found.bias == 0.25
    assert found.table.filter(pl.col("bias") == 1.0)["reversed"].all()
    measure, _ = world(slope=1.0, cost=50.0, gain=0.0)
    found = search_dials(measure, "margin", 2.0, DialSearch(), resamples=200)
    assert found.bias == 0.0
    assert "collapsed" in found.table.filter(pl.col("bias") == 1.0)["note"].to_list()[0]


def edit(model, seed: int, size: float) -> WeightEdit:
    generator = torch.Generator().manual_seed(seed)
    name = "model.layers.0.mlp.up_proj.weight"
    delta = LowRank(torch.randn(2, 32, generator=generator) * size, torch.randn(64, 2, generator=generator) * size)
    return WeightEdit({name: delta}, EditRecord.for_model(model, "test", seed=seed))


def test_a_search_writes_the_sum_and_is_read_from_the_store_when_run_again(tmp_path: Path, own_cache, monkeypatch) -> None:
    from fairforget.models import Model

    model = tiny_model("llama")
    bias, capability = edit(model, 1, 0.3), edit(model, 2, 0.1)
    settings = DialSearch(points=2, rounds=1)
    options = {"benchmarks": "starter,perplexity:starter", "budget": "perplexity=900%", "search": settings, "resamples": 200}
    options["keep"] = ["perplexity:perplexity=1e9"]
    found = search_edits(model, bias, capability, out=tmp_path / "one", capability_sign=-1.0, **options)
    assert found.table.height == 3 or found.bias == 0
    tasks = pl.read_parquet(tmp_path / "one" / "tables" / "tasks.parquet")
    assert set(tasks["figure"]) == {"perplexity:perplexity"}
    assert tasks["kept"].all()
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert (record["bias_strength"], record["part"]) == (found.bias, "select")
    assert (tmp_path / "one" / "edit" / "edit.safetensors").exists() == bool(found.bias or found.capability)
    assert not model.edits

    def refuse(*_, **__):
        raise AssertionError("the model was run again")

    monkeypatch.setattr(Model, "hidden", refuse)
    again = search_edits(model, bias, capability, out=tmp_path / "two", capability_sign=-1.0, **options)
    assert again.table.equals(found.table)
    with pytest.raises(UsageError, match="are the same"):
        search_edits(model, bias, bias.at(0.5), out=tmp_path / "three", **options)
    with pytest.raises(UsageError, match="give a budget"):
        search_edits(model, bias, capability, out=tmp_path / "three", **{**options, "budget": "none"})
