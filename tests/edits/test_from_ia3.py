"""A trained (IA)³ as an edit: the hand-worked answer, and the model that PEFT itself computes."""

import pytest
import torch
from peft import IA3Config, get_peft_model

from fairforget.edits import EditRecord, from_ia3, merged_tensors
from fairforget.errors import UsageError


def injected(model, seed: int = 0):
    record = EditRecord.for_model(model, "test")
    wrapped = get_peft_model(model.hf, IA3Config())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "ia3_l" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return wrapped, record


def test_the_hand_worked_answer(make_model):
    model = make_model("llama")
    record = EditRecord.for_model(model, "test")
    wrapped = get_peft_model(model.hf, IA3Config(target_modules=["v_proj"], feedforward_modules=[]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "ia3_l" in name:
                parameter.fill_(1.2)
    edit = from_ia3(wrapped, record=record, sign=-1.0).at(0.5)
    wrapped.unload()
    name = "model.layers.0.self_attn.v_proj.weight"
    torch.testing.assert_close(merged_tensors(model, edit)[name], 0.9 * model.hf.get_parameter(name))


def test_strength_one_is_what_peft_computes(model, logits):
    wrapped, record = injected(model)
    expected = logits(wrapped)
    edit = from_ia3(wrapped, record=record)
    wrapped.unload()
    before = logits(model)
    with edit.applied(model):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_nothing_trained_is_refused(make_model):
    model = make_model("llama")
    record = EditRecord.for_model(model, "test")
    with pytest.raises(UsageError, match="no \\(IA\\)³ layers"):
        from_ia3(model.hf, record=record)
    wrapped = get_peft_model(model.hf, IA3Config())
    with pytest.raises(UsageError, match="changed no"):
        from_ia3(wrapped, record=record)
