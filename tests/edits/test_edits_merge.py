"""Merged folders load with plain transformers and equal the hooks; undoing gives the base back, checked by its hash."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit, merged, merged_tensors, undo
from fairforget.edits.base import Edit
from fairforget.errors import FairforgetError, UsageError
from fairforget.models.load import load


@pytest.fixture
def saved(make_model, tmp_path):
    """A base model in a folder, loaded from there."""

    def save(architecture: str, dtype: torch.dtype = torch.float32):
        make_model(architecture, dtype=dtype).save(tmp_path / "base")
        model = load(tmp_path / "base", device="cpu", dtype=str(dtype).removeprefix("torch."))
        model.name = f"tiny-{architecture}"
        return model

    return save


@pytest.mark.parametrize("kind", ["make_low_rank", "make_dense"])
def test_merged_folder_equals_the_attached_edit(kind, architecture, saved, request, tmp_path, logits, bits):
    model = saved(architecture)
    edit, weights = request.getfixturevalue(kind)(model).at(0.6), bits(model)
    folder = merged(model, edit, tmp_path / "edited")
    assert bits(model) == weights
    auto = AutoModelForMaskedLM if architecture == "bert" else AutoModelForCausalLM
    plain, info = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with edit.applied(model):
        torch.testing.assert_close(logits(plain.eval()), logits(model), rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder)("word1 word2")["input_ids"] == model.tokenizer("word1 word2")["input_ids"]
    assert not list(folder.glob("*.bin"))
    record = json.loads((folder / "fairforget.json").read_text())
    assert record["base"]["hash"] == model.base_hash
    assert record["edits"][0]["strength"] == 0.6
    again = load(folder, device="cpu")
    assert again.prefix_id == model.prefix_id
    assert again.base_hash != model.base_hash


def test_merging_at_strength_zero_is_the_base_to_the_last_bit(saved, make_dense, tmp_path):
    model = saved("gpt2")
    merged(model, make_dense(model).at(0.0), tmp_path / "edited")
    assert (tmp_path / "edited" / "model.safetensors").read_bytes() == (tmp_path / "base" / "model.safetensors").read_bytes()


def test_bfloat16_weights_are_rounded_once(saved, make_low_rank, make_dense, tmp_path):
    model = saved("gpt2", dtype=torch.bfloat16)
    low_rank, dense = make_low_rank(model).at(0.3), make_dense(model).at(-0.2)
    merged(model, [low_rank, dense], tmp_path / "edited")
    name = "transformer.h.0.attn.c_attn.weight"
    base = model.hf.get_parameter(name).detach()
    delta = low_rank.deltas[name]
    product = (delta.B.double() @ delta.A.double()).T * 2.0 * 0.3
    exact = base.double() + product - 0.2 * dense.deltas[name].delta.double()
    found = load_file(tmp_path / "edited" / "model.safetensors")[name]
    assert found.dtype == torch.bfloat16
    # float32 noise may move a value across a rounding boundary now and then, two roundings move a quarter of them
    assert (found != exact.bfloat16()).float().mean() < 0.001
    twice = (base + product.bfloat16()) - (0.2 * dense.deltas[name].delta).bfloat16()
    assert (twice != exact.bfloat16()).float().mean() > 0.1


def test_merging_several_edits_equals_attaching_them(saved, make_dense, tmp_path):
    model = saved("gpt2")
    edits = [make_dense(model, seed=1), make_dense(model, seed=2).at(0.5)]
    tensors = merged_tensors(model, edits)
    with edits[0].applied(model), edits[1].applied(model):
        for name, tensor in tensors.items():
            assert torch.equal(model.hf.get_parameter(name), tensor)


def test_undo_gives_the_base_back(saved, make_low_rank, tmp_path, logits):
    model = saved("gpt2")
    folder = merged(model, make_low_rank(model), tmp_path / "edited")
    undo(folder, tmp_path / "undone")
    original, undone = load_file(tmp_path / "base" / "model.safetensors"), load_file(tmp_path / "undone" / "model.safetensors")
    assert original.keys() == undone.keys()
    assert all(torch.equal(original[name], undone[name]) for name in original)
    undo(folder, folder)
    again = load(folder, device="cpu")
    assert again.base_hash == model.base_hash
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(UsageError, match="names no base model"):
        undo(folder, tmp_path / "again")


def test_undo_refuses_a_base_that_changed(saved, make_low_rank, tmp_path):
    model = saved("llama")
    folder = merged(model, make_low_rank(model), tmp_path / "edited")
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.hf.model.norm.weight[0] += 1
    model.hf.save_pretrained(tmp_path / "base")
    with pytest.raises(FairforgetError, match="no longer the one that was edited"):
        undo(folder, folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_folders_that_hold_something_else_are_refused(saved, make_low_rank, tmp_path):
    model = saved("llama")
    edit = make_low_rank(model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for folder in (tmp_path / "base", tmp_path):
        with pytest.raises(UsageError, match="holds the base model itself"):
            merged(model, edit, folder)
    with pytest.raises(UsageError, match="something else than a model"):
        merged(model, edit, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert (tmp_path / "base" / "config.json").exists()


def test_failed_save_leaves_nothing_behind(saved, make_low_rank, tmp_path, monkeypatch):
    model = saved("llama")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", fail)
    with pytest.raises(FairforgetError, match="no space left"):
        merged(model, make_low_rank(model), tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_what_cannot_be_merged_is_refused(make_model, make_low_rank):
    model = make_model("llama")
    edit = make_low_rank(model)
    with edit.applied(model), pytest.raises(UsageError, match="detach them before merging"):
        merged_tensors(model, edit)

    class Runtime(Edit):
        kind = "runtime"
        content_hash = "0" * 64

        def save(self, folder): ...
        def _install(self, model): ...
        def _remove(self, model): ...

    with pytest.raises(UsageError, match="kind 'runtime'"):
        merged_tensors(model, Runtime(edit.record))


def test_mixed_edit_of_one_tied_and_one_linear_weight(saved, tmp_path, logits):
    model = saved("bert")
    record = EditRecord.for_model(model, "test")
    edit = WeightEdit(
        {
            "cls.predictions.decoder.weight": Dense(torch.full((200, 64), 0.02)),
            "bert.encoder.layer.0.output.dense.weight": LowRank(torch.randn(2, 96), torch.randn(64, 2)),
        },
        record,
    )
    folder = merged(model, edit, tmp_path / "edited")
    with edit.applied(model):
        torch.testing.assert_close(logits(AutoModelForMaskedLM.from_pretrained(folder).eval()), logits(model), rtol=1e-5, atol=1e-5)
