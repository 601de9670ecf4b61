"""Projections of hidden states: the algebra, the dial, files, layers, and the merge where it is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from fairforget.edits import EditRecord, ProjectionEdit, WeightEdit, combine, export_peft, load_edit, merged, merged_tensors
from fairforget.edits.projection import projected
from fairforget.errors import DataError, UsageError
from fairforget.models import Model
from fairforget.models.hashing import content_hash

KINDS = ["llama", "gpt2", "bert", "roberta"]


def orthonormal(width: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn((width, count), generator=torch.Generator().manual_seed(seed)))[0]


def projection(model: Model, count: int = 3, layer: int | str = "final", seed: int = 0) -> ProjectionEdit:
    return ProjectionEdit(orthonormal(32, count, seed), EditRecord.for_model(model, "test"), layer=layer)


@torch.no_grad()
def logits(network) -> torch.Tensor:
    ids = torch.arange(6, 30).view(2, 12)
    return network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@torch.no_grad()
def states(model: Model) -> torch.Tensor:
    ids = torch.arange(6, 30).view(2, 12)
    return model.hidden(ids, torch.ones_like(ids))


def test_a_known_projection() -> None:
    basis = torch.tensor([[0.6], [0.8]])
    states = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert torch.allclose(projected(states, basis), torch.tensor([[0.64, -0.48], [0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(projected(states, basis, 0.5), torch.tensor([[0.82, -0.24], [1.5, 2.0]]), atol=1e-6)


@given(seed=st.integers(0, 1000), count=st.integers(1, 7), strength=st.floats(-2, 2))
@settings(max_examples=25)
def test_what_is_left_has_no_part_in_the_subspace(seed: int, count: int, strength: float) -> None:
    basis = torch.linalg.qr(orthonormal(8, count, seed).double())[0]
    states = torch.randn((5, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    once = projected(states, basis)
    assert torch.allclose(once @ basis, torch.zeros(5, count, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(projected(once, basis), once, atol=1e-9)
    assert torch.allclose(projected(states, basis, strength) @ basis, (1 - strength) * (states @ basis), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_states_scores_and_whole_forwards_are_projected_alike_and_come_back_to_the_last_bit(kind: str) -> None:
    model = tiny_model(kind)
    digest, before, plain = content_hash(model.hf), logits(model.hf), states(model)
    edit = projection(model)
    with edit.at(0.6).applied(model):
        found, edited = states(model), logits(model.hf)
        assert torch.allclose(found, projected(plain, edit.basis, 0.6), atol=1e-5)
        # The head alone must not project a second time what was projected when it was made.
        assert torch.allclose(model.head(found.reshape(-1, 32)).detach(), edited.reshape(-1, edited.shape[-1]), atol=1e-4)
        assert model.state_id.endswith(f"{edit.content_hash[:16]}@0.6")
    assert (edited - before).abs().max() > 1e-2
    with edit.at(0).applied(model):
        assert torch.equal(logits(model.hf), before)
        assert model.state_id != model.base_hash
    assert torch.equal(logits(model.hf), before)
    assert content_hash(model.hf) == digest


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_projected_where_it_stands(kind: str) -> None:
    model = tiny_model(kind)
    before = logits(model.hf)
    seen: list[torch.Tensor] = []
    body = next(module for module in model.hf.modules() if isinstance(module, torch.nn.ModuleList))
    edit = projection(model, layer=0)
    with edit.applied(model):
        handle = body[1].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        assert (logits(model.hf) - before).abs().max() > 1e-3
        handle.remove()
    assert (seen[0] @ edit.basis).abs().max() < 1e-4
    assert torch.equal(logits(model.hf), before)
    with pytest.raises(UsageError, match="there is no layer 2"):
        projection(model, layer=2).attach(model)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_saved_edit_is_the_same_edit(kind: str, tmp_path) -> None:
    model = tiny_model(kind)
    edit = projection(model, layer=1).at(0.25)
    edit.save(tmp_path)
    found = load_edit(tmp_path)
    assert isinstance(found, ProjectionEdit)
    assert (found.content_hash, found.strength, found.layer, found.record) == (edit.content_hash, 0.25, 1, edit.record)
    assert projection(model, layer="final").content_hash != edit.content_hash
    with pytest.raises(DataError, match="of kind 'projection', not 'weight'"):
        WeightEdit.load(tmp_path)
    text = (tmp_path / "edit.safetensors").read_bytes().replace(b'\\"layer\\": 1', b'\\"layer\\": 0')
    (tmp_path / "edit.safetensors").write_bytes(text)
    with pytest.raises(DataError, match="changed after it was written"):
        load_edit(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
def test_merged_weights_compute_what_the_hook_computes(kind: str, tmp_path) -> None:
    model = tiny_model(kind)
    edit = projection(model).at(0.7)
    assert edit.why_not_weights(model) == ""
    weights = edit.as_weights(model)
    assert weights.strength == 0.7
    assert [delta.rank for delta in weights.deltas.values()] == [3]
    folder = merged(model, edit, tmp_path / "model")
    auto = AutoModelForCausalLM if kind == "llama" else AutoModelForMaskedLM
    with edit.applied(model):
        assert torch.allclose(logits(auto.from_pretrained(folder).eval()), logits(model.hf), atol=1e-4)
    assert (logits(auto.from_pretrained(folder).eval()) - logits(model.hf)).abs().max() > 1e-2
    kept = merged_tensors(model, edit.at(0))
    assert all(torch.equal(tensor, model.hf.get_parameter(name)) for name, tensor in kept.items())


def test_what_is_not_exact_is_refused(tmp_path) -> None:
    tied = tiny_model("gpt2")
    with pytest.raises(UsageError, match="is the input embedding too"):
        merged(tied, projection(tied), tmp_path / "model")
    model = tiny_model("bert")
    with pytest.raises(UsageError, match="it works on layer 1"):
        projection(model, layer=1).as_weights(model)
    with pytest.raises(UsageError, match="merged alone"):
        merged_tensors(model, [projection(model), projection(model, seed=1)])
    with pytest.raises(UsageError, match="no adapter can hold it"):
        export_peft(projection(model), model, tmp_path / "adapter")
    with pytest.raises(UsageError, match="cannot be added to others"):
        combine([(projection(model), 1.0)])


def test_a_head_that_uses_its_states_twice_is_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    forward = model.hf.lm_head.forward
    # A head that adds something of the states past its one linear module: the merge would miss it.
    monkeypatch.setattr(model.hf.lm_head, "forward", lambda x: forward(x) + x[..., :1].square())
    assert "is not all of what the head" in projection(model).why_not_weights(model)


def test_wrong_bases_and_wrong_models_are_refused() -> None:
    model = tiny_model("llama")
    record = EditRecord.for_model(model, "test")
    with pytest.raises(UsageError, match="orthonormal"):
        ProjectionEdit(torch.ones(32, 2), record)
    with pytest.raises(UsageError, match="1 or more directions"):
        ProjectionEdit(torch.ones(32, 0), record)
    with pytest.raises(UsageError, match="of width 16"):
        ProjectionEdit(orthonormal(16, 2), record).attach(model)
    with pytest.raises(UsageError, match="belongs to tiny-llama"):
        projection(model).attach(tiny_model("llama", seed=1))
    edit = projection(model)
    edit.attach(model)
    with pytest.raises(UsageError, match="already on"):
        edit.at(0.5).attach(model)


def test_two_projections_and_any_order_of_taking_off() -> None:
    model = tiny_model("llama")
    before, plain = logits(model.hf), states(model)
    first, second = projection(model, seed=1), projection(model, seed=2)
    first.attach(model)
    second.attach(model)
    assert torch.allclose(states(model), projected(projected(plain, first.basis), second.basis), atol=1e-5)
    first.detach(model)
    assert torch.allclose(states(model), projected(plain, second.basis), atol=1e-5)
    second.detach(model)
    assert torch.equal(logits(model.hf), before)


def test_narrow_types_are_projected_in_float32() -> None:
    model = Model(
        tiny_model("llama").hf.to(torch.bfloat16), tiny_tokenizer("causal"), family="causal", name="narrow", source="narrow", prefix_id=5
    )
    plain = states(model)
    edit = projection(model)
    with edit.applied(model), torch.autocast("cpu", torch.bfloat16):
        found = states(model)
    assert found.dtype == torch.bfloat16
    assert np.array_equal(found.float().numpy(), projected(plain, edit.basis).float().numpy())
