"""Exported adapters load with plain PEFT at weight 1 and compute what the hooks compute."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from fairforget.edits import LowRank, WeightEdit, add, export_peft
from fairforget.errors import UsageError


@pytest.mark.parametrize("strength", [1.0, -0.35, 0.0])
@pytest.mark.filterwarnings("error:fan_in_fan_out")
def test_plain_peft_equals_the_hooks(strength, architecture, make_model, make_low_rank, tmp_path, logits):
    model = make_model(architecture)
    edit = make_low_rank(model).at(strength)
    export_peft(edit, model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    with edit.applied(model):
        expected = logits(model)
    adapted = PeftModel.from_pretrained(make_model(architecture).hf, str(tmp_path)).eval()
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(adapted.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)  # float32 rounds W + BA differently


def test_sign_strength_and_scale_are_in_one_factor_only(make_model, make_low_rank, tmp_path):
    model = make_model("llama")
    edit = make_low_rank(model).at(-0.5)
    export_peft(edit, model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 3
    assert config["target_modules"] == sorted(name.removesuffix(".weight") for name in edit.deltas)
    for name, delta in edit.deltas.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        assert torch.equal(tensors[f"{stem}.lora_A.weight"], delta.A)
        torch.testing.assert_close(tensors[f"{stem}.lora_B.weight"], -0.5 * 2.0 * delta.B)


def test_ranks_that_differ_between_modules(make_model, make_low_rank, tmp_path, logits):
    model = make_model("gpt2")
    edit = make_low_rank(model, rank=2)
    part = dict(list(make_low_rank(model, seed=1, rank=3).deltas.items())[:1])
    mixed = add(edit, WeightEdit(part, edit.record))
    assert sorted(delta.rank for delta in mixed.deltas.values()) == [2, 5]
    export_peft(mixed, model, tmp_path)
    with mixed.applied(model):
        expected = logits(model)
    adapted = PeftModel.from_pretrained(make_model("gpt2").hf, str(tmp_path)).eval()
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-5, atol=1e-5)


def test_adapter_loads_as_a_model_of_ours(make_model, make_low_rank, tmp_path, logits):
    from fairforget.models.load import load

    make_model("llama").save(tmp_path / "base")
    model = load(tmp_path / "base", device="cpu")
    model.name = "tiny-llama"
    edit = make_low_rank(model).at(0.5)
    export_peft(edit, model, tmp_path / "adapter")
    with edit.applied(model):
        expected = logits(model)
    torch.testing.assert_close(logits(load(tmp_path / "adapter", device="cpu")), expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_refused(make_model, make_dense, make_low_rank, tmp_path):
    model = make_model("llama")
    with pytest.raises(UsageError, match="dense change, which a LoRA adapter cannot hold"):
        export_peft(make_dense(model), model, tmp_path / "a")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a model"):
        export_peft(make_low_rank(model), model, tmp_path)
    with pytest.raises(UsageError, match="belongs to"):
        export_peft(make_low_rank(model), make_model("gpt2"), tmp_path / "b")
    model.hf.model.extra = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(2, 2)})
    model._base_hash = None
    edit = WeightEdit({"lm_head.weight": LowRank(torch.ones(1, 64), torch.ones(200, 1))}, make_low_rank(model).record)
    with pytest.raises(UsageError, match=r"cannot tell the module 'lm_head' from 'model\.extra\.lm_head'"):
        export_peft(edit, model, tmp_path / "c")
