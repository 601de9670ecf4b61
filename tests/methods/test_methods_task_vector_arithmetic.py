"""The task vector's arithmetic on tiny models: (IA)³, shards, capabilities, and a base in another form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_methods_task_vector import TEXTS, mean_score
from tiny import four_bit_models, tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.edits import Dense, LowRank, WeightEdit, inner_product, merged_tensors
from fairforget.errors import UsageError
from fairforget.methods.task_vector import shards_of
from fairforget.models.hashing import content_hash

QUICK = {"steps": 2, "batch_size": 4, "precision": "float32", "learning_rate": 2e-2}


def mean_over_texts(model) -> float:
    return float(np.mean([mean_score(model, text) for text in dict.fromkeys(TEXTS)]))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_negated_ia3_lowers_the_likelihood_of_what_was_learnt(kind: str) -> None:
    model = tiny_model(kind)
    before_hash, before = content_hash(model.hf), mean_over_texts(model)
    settings = {"steps": 20, "learning_rate": 3e-2, "batch_size": 8, "masking_rate": 0.3, "precision": "float32"}
    edit = methods.TaskVector(tuning="ia3", **settings).fit(model, TEXTS)
    assert content_hash(model.hf) == before_hash
    assert not any("ia3" in name for name, _ in model.hf.named_modules())
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    with edit.at(-1.0).applied(model):
        learnt = mean_over_texts(model)
    with edit.applied(model):
        unlearnt = mean_over_texts(model)
    assert learnt > before > unlearnt
    assert mean_over_texts(model) == before


def test_ia3_needs_an_architecture_that_peft_knows() -> None:
    model = tiny_model("llama")
    model.hf.config.model_type = "unheard-of"
    with pytest.raises(UsageError, match="unheard-of"):
        methods.TaskVector(tuning="ia3").fit(model, TEXTS)


def test_shards_are_disjoint_and_cover_the_data() -> None:
    texts = [f"text {number}" for number in range(11)]
    shards = shards_of(texts, 3, seed=1)
    assert sorted(len(shard) for shard in shards) == [3, 4, 4]
    assert sorted(text for shard in shards for text in shard) == sorted(texts)
    assert shards == shards_of(texts, 3, seed=1) != shards_of(texts, 3, seed=2)
    with pytest.raises(UsageError, match="shards = 12"):
        shards_of(texts, 12, seed=0)


def test_the_vector_of_shards_is_the_mean_of_theirs() -> None:
    model = tiny_model("llama")
    edit = methods.TaskVector(**QUICK, shards=2, rank=2).fit(model, TEXTS)
    alone = [methods.TaskVector(**QUICK, rank=2).fit(model, shard) for shard in shards_of(TEXTS, 2, seed=0)]
    name = "model.layers.0.mlp.up_proj.weight"
    delta = edit.deltas[name]  # type: ignore[attr-defined]
    assert isinstance(delta, LowRank)
    assert delta.rank == 4
    expected = sum(part.deltas[name].matrix(transposed=False, dtype=torch.float32) for part in alone) / 2  # type: ignore[attr-defined]
    torch.testing.assert_close(delta.matrix(transposed=False, dtype=torch.float32), expected, rtol=1e-4, atol=1e-6)
    assert edit.record.provenance["training"]["steps"] == 4
    assert edit.record.method == "task-vector"


def test_shards_of_pairs_are_contrasted_each() -> None:
    rows = [TrainingText(text, (), text, text.replace("she", "he")) for text in ["the nurse said she is old", "she works at home"] * 4]
    edit = methods.TaskVector(**QUICK, shards=2, rank=2).fit(tiny_model("bert"), rows)
    assert {delta.rank for delta in edit.deltas.values()} <= {4, 6, 8}  # type: ignore[attr-defined]
    assert len(edit.record.provenance["training"]["of_each_shard"]) == 2


def test_capabilities_are_projected_away_or_added(tmp_path) -> None:
    model = tiny_model("llama")
    capability = methods.TaskVector(**QUICK, rank=2).fit(model, ["the tree by the river is green", "rain in the city"] * 4, seed=1)
    capability.save(tmp_path / "capability")
    plain = methods.TaskVector(**QUICK, rank=2).fit(model, TEXTS)
    projected = methods.TaskVector(**QUICK, rank=2, capabilities=[str(tmp_path / "capability")]).fit(model, TEXTS)
    scale = (inner_product(plain, plain) * inner_product(capability, capability)) ** 0.5  # type: ignore[arg-type]
    assert abs(inner_product(plain, capability)) > 1e-3 * scale  # type: ignore[arg-type]
    assert abs(inner_product(projected, capability)) < 1e-6 * scale  # type: ignore[arg-type]
    assert projected.record.provenance["capabilities"][0]["content_hash"] == capability.content_hash
    added = methods.TaskVector(
        **QUICK, rank=2, capabilities=[f"{tmp_path / 'capability'}@-0.5"], capability_how="add"
    ).fit(model, TEXTS)
    name = "model.layers.0.mlp.up_proj.weight"
    first, second, total = (edit.deltas[name].matrix(transposed=False, dtype=torch.float32) for edit in (plain, capability, added))  # type: ignore[attr-defined]
    torch.testing.assert_close(total, first - 0.5 * second, rtol=1e-4, atol=1e-6)
    assert added.record.method == "task-vector"


def test_capabilities_that_do_not_fit_are_refused_before_training(tmp_path) -> None:
    other = tiny_model("llama", seed=5)
    methods.TaskVector(**QUICK, rank=2).fit(other, TEXTS).save(tmp_path / "other")
    for settings, words in (
        ({"capabilities": [str(tmp_path / "other")]}, "belongs to"),
        ({"capabilities": [f"{tmp_path / 'other'}@2"]}, "leave their weights out"),
        ({"capabilities": [str(tmp_path / "none")]}, "no edit in"),
    ):
        with pytest.raises(UsageError, match=words):
            methods.TaskVector(**settings).check(tiny_model("llama"))


def test_a_vector_fitted_in_4_bits_goes_onto_the_exact_base(tmp_path) -> None:
    exact, rounded = four_bit_models(tmp_path)
    assert rounded.hf.get_parameter("model.layers.0.mlp.up_proj.weight").dtype == torch.uint8
    for tuning in ("full", "ia3"):
        with pytest.raises(UsageError, match=f"tuning={tuning}"):
            methods.TaskVector(tuning=tuning).fit(rounded, TEXTS)
    edit = methods.TaskVector(steps=20, batch_size=8, precision="float32", learning_rate=5e-3).fit(rounded, TEXTS)
    assert isinstance(edit, WeightEdit)
    assert not any(isinstance(delta, Dense) for delta in edit.deltas.values())
    with pytest.raises(UsageError, match="belongs to"):
        edit.attach(exact)
    moved = edit.rebased(exact)
    assert moved.record.provenance["rebased_from"] == rounded.base_hash != exact.base_hash
    before = mean_over_texts(exact)
    with moved.applied(exact):
        assert mean_over_texts(exact) < before - 0.1
    name = "model.layers.0.mlp.up_proj.weight"
    change = edit.deltas[name].matrix(transposed=False, dtype=torch.float32)
    torch.testing.assert_close(merged_tensors(exact, moved)[name], exact.hf.get_parameter(name) + change)
