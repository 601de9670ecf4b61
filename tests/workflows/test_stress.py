"""Stress after forgetting: round trips with known answers, relearning, other words, and the share that is left."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import four_bit_models, tiny_model

from fairforget.benchmarks import resolve
from fairforget.data.starter import load_starter
from fairforget.edits import Dense, EditRecord, WeightEdit
from fairforget.errors import DataError, UsageError
from fairforget.models.hashing import content_hash
from fairforget.scoring import Scorer
from fairforget.tables import item_table, preference, read_table
from fairforget.training import TextStream
from fairforget.workflows.debias import debias
from fairforget.workflows.recipe import parse_recipe
from fairforget.workflows.stress import stress
from fairforget.workflows.stress_items import FRAMES, framed, reworded
from fairforget.workflows.stress_states import (
    Relearning,
    in_state,
    quantised_edits,
    relearned_edit,
    round_trip_int4,
    round_trip_int8,
)
from fairforget.workflows.stress_table import Measured, fieller, stress_table, stress_words

QUICK = Relearning.model_validate({"learning_rate": 1e-2, "batch_size": 4, "rank": 2})


def test_eight_bits_are_a_grid_of_127_levels_a_side_per_channel() -> None:
    weight = torch.tensor([[1.27, -0.64, 0.004], [0.0, 0.0, 0.0]])
    assert torch.allclose(round_trip_int8(weight), torch.tensor([[1.27, -0.64, 0.0], [0.0, 0.0, 0.0]]))


def test_four_bits_are_seven_levels_a_side_per_block() -> None:
    weight = torch.tensor([[7.0, 1.4, 0.7, -0.34, 0.2]])
    assert torch.allclose(round_trip_int4(weight, block=2), torch.tensor([[7.0, 1.0, 0.7, -0.3, 0.2]]))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6))
def test_a_round_trip_moves_a_weight_by_half_a_step_at_most(values) -> None:
    weight = torch.tensor(values).reshape(2, 3)
    for trip, levels in ((round_trip_int8, 127), (round_trip_int4, 7)):
        step = weight.abs().amax(1, keepdim=True) / levels
        assert ((trip(weight) - weight).abs() <= 0.5 * step * (1 + 1e-5) + 1e-30).all()
        assert torch.allclose(trip(trip(weight)), trip(weight), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("kind", "name"), [
    ("gpt2", "transformer.h.0.mlp.c_fc.weight"), ("llama", "model.layers.0.mlp.up_proj.weight"), ("bert", "bert.embeddings.LayerNorm.bias"),
])
def test_the_edited_weights_are_rounded_and_the_base_comes_back(kind, name) -> None:
    model = tiny_model(kind)
    before = content_hash(model.hf)
    parameters = dict(model.hf.named_parameters())
    change = torch.randn(parameters[name].shape, generator=torch.Generator().manual_seed(0))
    edit = WeightEdit({name: Dense(change)}, EditRecord.for_model(model, "test"), 0.5)
    (rounded,) = quantised_edits(model, edit, "int4")
    linear = next(site for site in ("transformer.h.1.attn.c_attn.weight", "model.layers.1.self_attn.q_proj.weight",
                                    "bert.encoder.layer.1.output.dense.weight") if site in parameters)
    plain = parameters[linear].detach().clone()
    embeddings = model.hf.get_input_embeddings().weight.detach().clone()
    edited = parameters[name].detach() + 0.5 * change
    with rounded.applied(model):
        matrix = plain.T if kind == "gpt2" else plain
        expected = round_trip_int4(matrix).T if kind == "gpt2" else round_trip_int4(matrix)
        assert torch.allclose(parameters[linear], expected, atol=1e-6)
        assert not torch.equal(parameters[linear], plain)
        assert torch.equal(model.hf.get_input_embeddings().weight, embeddings)  # head and embeddings keep their bits
        turned = round_trip_int4(edited.T).T if kind == "gpt2" else round_trip_int4(edited) if edited.ndim == 2 else edited
        assert torch.allclose(parameters[name], turned, atol=1e-5)
    assert content_hash(model.hf) == before


def test_relearning_teaches_the_texts_again_and_is_read_back(tmp_path) -> None:
    model = tiny_model("llama")
    before = content_hash(model.hf)
    texts = [pair.stereotype for pair in load_starter().pairs_of("train")[:8]]
    noise = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    edit = WeightEdit({"model.layers.0.mlp.down_proj.weight": Dense(noise)}, EditRecord.for_model(model, "test"), 0.5)

    def loss() -> float:
        stream = TextStream(model, texts)
        with torch.no_grad():
            rows = [torch.tensor([stream.example(index, 0)["ids"]]) for index in range(len(texts))]
            return float(np.mean([model.hf(input_ids=row, labels=row).loss.item() for row in rows]))

    with in_state(model, [edit]):
        edited = loss()
    learnt = relearned_edit(model, edit, texts, 12, QUICK, seed=0, folder=tmp_path)
    assert not model.edits
    assert content_hash(model.hf) == before
    with in_state(model, [edit, learnt]):
        assert loss() < edited - 0.1
    again = relearned_edit(model, edit, texts, 12, QUICK, seed=0, folder=tmp_path)
    assert again.content_hash == learnt.content_hash
    assert len(list(tmp_path.glob("edit/edit.safetensors"))) == 1


def test_frames_hold_the_text_and_keep_the_cluster() -> None:
    items = resolve("starter").items("causal", "test")
    new = [framed(item) for item in items]
    assert {item.id.rpartition(" ")[2] for item in new} == {str(number + 1) for number in range(len(FRAMES))}
    for old, item in zip(items, new, strict=True):
        assert (item.cluster, item.stratum, item.groups) == (old.cluster, old.stratum, old.groups)
        assert all(text in other and text != other for text, other in zip(old.texts, item.texts, strict=True))
    context = framed(replace(items[0], payload={"context": "One BLANK here."}))
    assert context.payload["context"].count("BLANK") == 1


def test_a_user_may_bring_paraphrases(tmp_path) -> None:
    model, benchmark = tiny_model("llama"), resolve("starter")
    known = benchmark.items("causal", "test")[0]
    file = tmp_path / "words.csv"
    file.write_text(f"item,stereotype,anti\n{known.id},one thing,another thing\n{known.id},one,another\n", encoding="utf-8")
    found, items = reworded(benchmark, model, file)
    assert [item.texts for item in items] == [("one thing", "another thing"), ("one", "another")]
    assert {item.cluster for item in items} == {known.cluster}
    table = found.measure_items(Scorer(model, store=False), items, "test")
    assert table["margin"].is_not_null().all()
    file.write_text("item,stereotype,anti\nnobody,a,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1: the test part of the target has no item 'nobody'"):
        reworded(benchmark, model, file)
    with pytest.raises(UsageError, match="cannot be put into frames"):
        reworded(resolve("perplexity:starter"), model)


def test_a_ratio_has_fiellers_interval() -> None:
    assert fieller(1.0, 2.0, (0.01, 0.04), 0.0, 2.0) == pytest.approx((0.375, 2.56 / 3.84))
    assert all(math.isnan(end) for end in fieller(1.0, 0.3, (0.01, 0.04), 0.0, 2.0))
    assert fieller(2.0, 2.0, (0.04, 0.04), 0.04, 2.0) == pytest.approx((1.0, 1.0))  # the same figure twice


def margins(stress_name, state, level, *, cost=0.0, other=False) -> Measured:
    """A made-up state: its margins lie `level` above neutral, its perplexity is exp(cost) times the base's."""
    draw = np.random.default_rng(0)
    rows, texts = [], []
    for cluster in range(60):
        margin = level + draw.normal(0, 0.1)
        row = {"benchmark": "b", "protocol": "made", "task": "b", "part": "test", "role": "bias", "groups": [], "texts": []}
        row |= {"item": f"{cluster}{' reworded' if other else ''}", "cluster": str(cluster), "stratum": str(cluster % 2)}
        rows.append(row | {"margin": margin, "scores": [margin, 0.0], "prefers_stereotype": preference(margin)})
        words = {"benchmark": "p", "protocol": "made", "task": "p", "part": "test", "role": "ability", "groups": [], "texts": [],
                 "item": str(cluster), "cluster": str(cluster), "stratum": "text"}
        texts.append(words | {"nll": 100 * (3 + cost + draw.normal(0, 0.01)), "tokens": 100})
    return Measured(stress_name, state, item_table(rows), None if other else item_table(texts), other)


def test_the_share_that_is_left_is_that_of_the_reduction() -> None:
    made = [
        margins("none", "base", 1.0), margins("none", "edited", 0.2, cost=0.01), margins("int8", "base", 0.9),
        margins("int8", "edited", 0.4, cost=0.02), margins("paraphrase", "base", 1.2, other=True),
        margins("paraphrase", "edited", 0.8, other=True),
    ]
    table = stress_table(made, "margin", resamples=300)
    rows = {(row["stress"], row["state"]): row for row in table.iter_rows(named=True)}
    int8 = rows["int8", "edited"]
    assert int8["share_left"] == pytest.approx(0.6 / 0.8, abs=0.01)
    assert int8["from_edited"] == pytest.approx(0.2, abs=0.01)
    assert int8["from_stressed_base"] == pytest.approx(-0.5, abs=0.01)
    assert int8["perplexity"] == pytest.approx(math.exp(0.02))
    assert int8["perplexity_from_edited"] == pytest.approx(math.exp(0.01))
    words = rows["paraphrase", "edited"]
    assert words["share_left"] == pytest.approx(0.4 / 0.8, abs=0.02)
    assert words["share_low"] < words["share_left"] < words["share_high"]
    assert words["from_base"] is None
    assert words["perplexity"] is None
    assert not table["reversed"].any()
    assert stress_words(int8, "nats")[0] == "int8"


def test_without_a_reduction_nothing_can_be_left() -> None:
    made = [margins("none", "base", 0.2), margins("none", "edited", 0.5), margins("int8", "base", 0.2), margins("int8", "edited", 0.4)]
    row = stress_table(made, "margin", resamples=300).row(3, named=True)
    assert row["share_left"] is None
    assert "no reduction" in row["note"]


def test_a_run_is_put_under_stress_once(finished_study) -> None:
    run = finished_study.folder / "runs" / "starter-seed0-strength0.5"
    result = stress(run, relearn_steps=[2], quantise=["int8"], relearning=QUICK)
    assert result.table.select("stress", "state").rows() == [
        (name, state) for name in ("none", "relearn-2", "int8", "paraphrase") for state in ("base", "edited")
    ]
    edited = result.table.row(1, named=True)
    cells = finished_study.result.cells.row(1, named=True)
    assert (edited["target"], edited["from_base"]) == pytest.approx((cells["target_after"], cells["target_change"]))
    assert edited["perplexity"] == pytest.approx(cells["perplexity_ratio"])
    rounded = result.table.filter(pl.col("stress") == "int8").row(0, named=True)
    assert rounded["perplexity"] != 1
    taught = result.table.filter(pl.col("stress") == "relearn-2").row(0, named=True)
    assert taught["perplexity"] != 1
    before = {path: path.stat().st_mtime_ns for path in (run / "stress" / "items").iterdir()}
    assert len(before) == 3 * 2 * 2 + 2
    said: list[str] = []
    again = stress(run, relearn_steps=[2], quantise=["int8"], relearning=QUICK, say=said.append)
    assert again.table.equals(result.table)
    assert before == {path: path.stat().st_mtime_ns for path in (run / "stress" / "items").iterdir()}
    assert said == [f"Loading {finished_study.model}.", "Intervals."]
    assert read_table(run / "stress" / "stress.parquet").equals(result.table)
    faster = QUICK.model_copy(update={"learning_rate": 2e-2})
    stress(run, relearn_steps=[2], quantise=[], paraphrase=False, relearning=faster)
    changed = [path.name for path, written in before.items() if path.stat().st_mtime_ns != written]
    assert sorted(changed) == [f"{state}-relearn-2-{number}.parquet" for state in ("base", "edited") for number in (0, 1)]


@pytest.mark.parametrize(("options", "words"), [
    ({"relearn_steps": [0]}, "1 step or more"),
    ({"quantise": ["int3"]}, "known are int8, int4, nf4"),
    ({"quantise": ["nf4"]}, "needs bitsandbytes"),
])
def test_stresses_that_there_are_not_are_refused(finished_study, options, words, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=words):
        stress(finished_study.folder / "runs" / "starter-seed0-strength0.5", **options)


def test_a_folder_without_a_run_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="holds no finished debiasing run"):
        stress(tmp_path)


def test_four_bits_of_bitsandbytes(tmp_path, own_cache) -> None:
    four_bit_models(tmp_path / "model")
    quick = {"method": {"name": "task-vector", "steps": 4, "batch_size": 4, "learning_rate": 0.1, "contrast": False}, "resamples": 200}
    recipe = parse_recipe({**quick, "model": str(tmp_path / "model"), "search": {"strength": 0.5}, "account": {"texts": 0}})
    debias(recipe=recipe, out=tmp_path / "run", save_model=False)
    found = stress(tmp_path / "run", relearn_steps=[], quantise=["nf4"], paraphrase=False).table
    assert found.select("stress", "state").rows() == [(name, state) for name in ("none", "nf4") for state in ("base", "edited")]
    rounded = found.filter(pl.col("stress") == "nf4")
    assert (rounded["perplexity"].is_finite() & (rounded["perplexity"] != 1)).all()
