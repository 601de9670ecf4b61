"""An edit carried in the weights: a base of its own for a while, and the old one back to the last bit."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit
from fairforget.edits.carried import carried
from fairforget.errors import UsageError


def some_edit(model, seed: int) -> WeightEdit:
    generator = torch.Generator().manual_seed(seed)
    name, parameter = next((name, p) for name, p in model.hf.named_parameters() if name.endswith("mlp.c_fc.weight"))
    shape = parameter.shape
    low = LowRank(torch.randn(2, shape[0], generator=generator), torch.randn(shape[1], 2, generator=generator), 0.1)
    norm, weight = next((name, p) for name, p in model.hf.named_parameters() if name.endswith("ln_f.weight"))
    record = EditRecord.for_model(model, "test", settings={}, seed=seed)
    return WeightEdit({name: low, norm: Dense(torch.randn(weight.shape, generator=generator))}, record)


def test_states_in_the_block_are_those_of_the_edit_and_nothing_is_left_after():
    model = tiny_model("gpt2")
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    ids = torch.tensor([[5, 8, 9]])
    edit, base = some_edit(model, 0), model.base_hash
    with edit.applied(model):
        expected = model.hf(ids).logits
    with carried(model, edit):
        assert torch.allclose(model.hf(ids).logits, expected, atol=1e-4)
        assert model.base_hash != base and not model.edits
        with carried(model, some_edit(model, 1)):
            assert not torch.allclose(model.hf(ids).logits, expected, atol=1e-2)
        assert torch.allclose(model.hf(ids).logits, expected, atol=1e-4)
    assert model.base_hash == base
    assert all(torch.equal(p, before[name]) for name, p in model.hf.named_parameters())


def test_an_error_in_the_block_puts_the_weights_back():
    model = tiny_model("gpt2")
    base = model.base_hash
    with pytest.raises(RuntimeError, match="inside"), carried(model, some_edit(model, 0)):
        raise RuntimeError("inside")
    model._base_hash = None
    assert model.base_hash == base


def test_an_edit_of_another_base_is_refused():
    first, second = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    with pytest.raises(UsageError), carried(second, some_edit(first, 0)):
        pass
