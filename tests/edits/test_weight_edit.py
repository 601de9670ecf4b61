"""Putting edits on and off: exact at strength 0 and after detaching, linear between, each tied tensor changed once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit, merged_tensors
from fairforget.edits.deltas import edited_tensor
from fairforget.edits.weight_edit import _LowRankHook
from fairforget.errors import UsageError

STRENGTHS = st.floats(-3, 3, allow_nan=False)


def test_known_answer_of_a_task_vector():
    base, tuned = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.0])
    negated = Dense(-(tuned - base))
    torch.testing.assert_close(edited_tensor(base, [(negated, 0.6)]), torch.tensor([0.7, 2.6]))
    torch.testing.assert_close(edited_tensor(base, [(negated, 1.0)]), torch.tensor([0.5, 3.0]), rtol=0, atol=0)
    assert edited_tensor(base, [(negated, 0.0)]).numpy().tobytes() == base.numpy().tobytes()


def test_known_answer_of_a_negated_lora_and_why_both_factors_must_not_be():
    base = torch.eye(2)
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]])
    change = LowRank(a, b, scale=2.0).matrix(transposed=False, dtype=torch.float32)
    torch.testing.assert_close(change, torch.tensor([[2.0, 4.0], [0.0, 0.0]]))
    right = edited_tensor(base, [(LowRank(a, -b, scale=2.0), 0.5)])
    torch.testing.assert_close(right, torch.tensor([[0.0, -2.0], [0.0, 1.0]]))
    wrong = edited_tensor(base, [(LowRank(-0.5 * a, -0.5 * b, scale=2.0), 1.0)])
    torch.testing.assert_close(wrong, torch.tensor([[1.5, 1.0], [0.0, 1.0]]))
    hook = _LowRankHook(LowRank(a, -b, scale=2.0), 0.5)
    x = torch.randn(5, 2)
    torch.testing.assert_close(hook(nn.Identity(), (x,), {}, x @ base.T), x @ right.T)


@given(strength=STRENGTHS, conv=st.booleans(), rank=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_hook_and_merged_weight_agree_on_one_module_and_are_linear_in_strength(strength, conv, rank):
    torch.manual_seed(rank)
    module = Conv1D(5, 7).double() if conv else nn.Linear(7, 5).double()
    delta = LowRank(torch.randn(rank, 7).double(), torch.randn(5, rank).double(), scale=0.7)
    x = torch.randn(3, 7).double()
    plain = module(x)
    hooked = _LowRankHook(delta, strength)(module, (x,), {}, plain)
    whole = _LowRankHook(delta, 1.0)(module, (x,), {}, plain)
    torch.testing.assert_close(hooked - plain, strength * (whole - plain), rtol=1e-9, atol=1e-9)
    merged = edited_tensor(module.weight.detach(), [(delta, strength)], transposed=conv)
    assert merged.shape == module.weight.shape
    with torch.no_grad():
        module.weight.copy_(merged)
    torch.testing.assert_close(module(x), hooked, rtol=1e-9, atol=1e-9)


@given(strength=STRENGTHS)
@settings(max_examples=30, deadline=None)
def test_dense_change_is_linear_in_strength(strength):
    base, delta = torch.randn(4, 3), Dense(torch.randn(4, 3))
    torch.testing.assert_close(edited_tensor(base, [(delta, strength)]) - base, strength * delta.delta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["make_low_rank", "make_dense"])
def test_strength_zero_and_detaching_are_the_base_to_the_last_bit(kind, model, request, logits, bits):
    edit = request.getfixturevalue(kind)(model)
    before, weights, state = logits(model), bits(model), model.state_id
    with edit.at(0.0).applied(model):
        assert torch.equal(logits(model), before)
        assert bits(model) == weights
    with edit.at(0.7).applied(model):
        assert (logits(model) - before).abs().max() > 0.01
        assert model.state_id == f"{model.base_hash}+{edit.content_hash[:16]}@0.7"
    assert torch.equal(logits(model), before)
    assert bits(model) == weights
    assert model.state_id == state


def test_low_rank_edit_leaves_the_weights_alone(model, make_low_rank, bits):
    weights = bits(model)
    with make_low_rank(model).applied(model):
        assert bits(model) == weights


def test_edit_and_its_negation_cancel(model, make_low_rank, make_dense, logits):
    before = logits(model)
    for edit in (make_low_rank(model), make_dense(model)):
        opposite = WeightEdit(
            {
                name: Dense(-delta.delta) if isinstance(delta, Dense) else LowRank(delta.A, -delta.B, delta.scale)
                for name, delta in edit.deltas.items()
            },
            edit.record,
        )
        with edit.applied(model), opposite.applied(model):
            torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)


def test_tied_embedding_is_changed_once(make_model, make_dense):
    for kind, head in (("gpt2", "lm_head"), ("bert", "cls.predictions.decoder")):
        model = make_model(kind)
        edit = make_dense(model)
        name = next(iter(edit.deltas))
        base = model.hf.get_parameter(name).detach().clone()
        with edit.at(0.5).applied(model):
            changed = model.hf.get_parameter(name)
            assert model.hf.get_submodule(head).weight is changed
            torch.testing.assert_close(changed.detach() - base, 0.5 * edit.deltas[name].delta, rtol=1e-5, atol=1e-6)


def test_change_named_by_an_alias_of_a_tied_weight_is_the_same_change(make_model, logits):
    model = make_model("gpt2")
    record = EditRecord.for_model(model, "test")
    delta = Dense(torch.full_like(model.hf.lm_head.weight, 0.01))
    with WeightEdit({"transformer.wte.weight": delta}, record).applied(model):
        by_first_name = logits(model)
    with WeightEdit({"lm_head.weight": delta}, record).applied(model):
        assert torch.equal(logits(model), by_first_name)
    with pytest.raises(UsageError, match="one tied tensor"):
        WeightEdit({"transformer.wte.weight": delta, "lm_head.weight": delta}, record).attach(model)


def test_buffers_are_untouched(make_model, make_dense):
    model = make_model("bert")
    buffers = {name: buffer.clone() for name, buffer in model.hf.named_buffers()}
    assert any(not buffer.is_floating_point() for buffer in buffers.values())
    with make_dense(model).applied(model):
        assert all(torch.equal(buffers[name], buffer) for name, buffer in model.hf.named_buffers())


@pytest.mark.parametrize("first_off", [0, 1])
def test_dense_edits_of_one_parameter_come_off_in_any_order(first_off, make_model, make_dense, bits):
    model = make_model("gpt2", dtype=torch.bfloat16)
    weights = bits(model)
    edits = [make_dense(model, seed=1), make_dense(model, seed=2).at(0.3)]
    alone = edits[1 - first_off]
    with alone.applied(model):
        expected = bits(model)
    for edit in edits:
        edit.attach(model)
    assert bits(model) != expected
    edits[first_off].detach(model)
    assert bits(model) == expected
    alone.detach(model)
    assert bits(model) == weights


def test_at_is_absolute_shares_tensors_and_keeps_the_content_hash(model, make_low_rank):
    edit = make_low_rank(model)
    other = edit.at(0.5).at(0.25)
    assert (edit.strength, other.strength) == (1.0, 0.25)
    assert other.content_hash == edit.content_hash
    assert all(other.deltas[name] is delta for name, delta in edit.deltas.items())
    assert edit.at(-0.0).state_fragment() == edit.at(0.0).state_fragment()
    assert make_low_rank(model, seed=1).content_hash != edit.content_hash
    with pytest.raises(UsageError, match="finite"):
        edit.at(float("nan"))


def test_content_hash_knows_scale_and_sign(model, make_low_rank):
    edit = make_low_rank(model)
    doubled = WeightEdit({name: LowRank(d.A, d.B, d.scale * 2) for name, d in edit.deltas.items()}, edit.record)
    negated = WeightEdit({name: LowRank(d.A, -d.B, d.scale) for name, d in edit.deltas.items()}, edit.record)
    assert len({edit.content_hash, doubled.content_hash, negated.content_hash}) == 3


def test_attaching_twice_at_whatever_strength_is_refused(model, make_low_rank, logits):
    edit = make_low_rank(model)
    edit.at(0.2).attach(model)
    once = logits(model)
    with pytest.raises(UsageError, match=r"already on tiny-\w+ at strength 0.2"):
        edit.at(0.4).attach(model)
    assert torch.equal(logits(model), once)
    edit.detach(model)
    assert model.edits == []
    with pytest.raises(UsageError, match="not on"):
        edit.detach(model)


def test_edit_comes_off_when_the_block_fails(model, make_dense, bits):
    weights = bits(model)
    with pytest.raises(KeyboardInterrupt), make_dense(model).applied(model):
        raise KeyboardInterrupt
    assert bits(model) == weights
    assert model.edits == []


def test_failure_while_attaching_leaves_the_base(make_model, make_dense, bits, monkeypatch):
    model = make_model("gpt2")
    edit, weights = make_dense(model), bits(model)
    written = []

    def fail_at_the_second(*arguments, **keywords):
        written.append(1)
        if len(written) == 2:
            raise MemoryError
        return edited_tensor(*arguments, **keywords)

    monkeypatch.setattr("fairforget.edits.held.edited_tensor", fail_at_the_second)
    with pytest.raises(MemoryError):
        edit.attach(model)
    assert bits(model) == weights
    assert model.edits == []


def test_another_base_is_refused(make_model, make_low_rank):
    model, other = make_model("llama"), make_model("llama")
    with torch.no_grad():
        other.hf.model.norm.weight[0] += 1e-6
    edit = make_low_rank(model)
    with pytest.raises(UsageError, match=r"belongs to tiny-llama .* load it from somewhere"):
        edit.attach(other)
    with pytest.raises(UsageError, match="in bfloat16 and the edit was made in float32"):
        edit.attach(make_model("llama", dtype=torch.bfloat16))
    rebased = edit.rebased(other)
    with rebased.applied(other):
        assert other.edits == [rebased]
    assert rebased.record.provenance["rebased_from"] == model.base_hash


def test_changes_that_do_not_fit_are_refused(make_model, bits):
    model = make_model("gpt2")
    record, weights = EditRecord.for_model(model, "test"), bits(model)
    a, b = torch.ones(1, 64), torch.ones(192, 1)
    matrix = "transformer.h.0.attn.c_attn.weight"
    for name, delta, sentence in [
        ("transformer.h.0.attn.c_atn.weight", LowRank(a, b), "did you mean transformer.h.0.attn.c_attn.weight"),
        (matrix, LowRank(torch.ones(1, 192), torch.ones(64, 1)), "192 inputs and 64 outputs, the module has 64 and 192"),
        (matrix, Dense(torch.ones(192, 64)), r"shape \(192, 64\), the parameter has \(64, 192\)"),
        ("transformer.h.0.ln_1.weight", LowRank(a, b), "of type LayerNorm"),
        ("lm_head.weight", LowRank(torch.ones(1, 64), torch.ones(200, 1)), "is tied to another"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            WeightEdit({name: delta}, record).attach(model)
    with pytest.raises(UsageError, match="at least one"):
        WeightEdit({}, record)
    with pytest.raises(UsageError, match="factors"):
        LowRank(torch.ones(2, 3), torch.ones(3, 1))
    with pytest.raises(UsageError, match="floating"):
        Dense(torch.ones(2, dtype=torch.int64))
    assert bits(model) == weights


def test_quantised_weight_takes_a_low_rank_change_but_no_dense_one(make_model, logits):
    """A packed uint8 weight with its own forward, as 4-bit linear modules have it."""

    class Packed(nn.Linear):
        def __init__(self, plain: nn.Linear):
            super().__init__(plain.in_features, plain.out_features, bias=False)
            self.real = plain.weight.detach().clone()
            self.weight = nn.Parameter(torch.zeros(plain.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)

        def forward(self, x):
            return x @ self.real.T

    reference = make_model("llama")
    name = "model.layers.0.self_attn.q_proj"
    delta = LowRank(torch.randn(2, 64), torch.randn(64, 2))
    with WeightEdit({f"{name}.weight": delta}, EditRecord.for_model(reference, "test")).applied(reference):
        expected = logits(reference)
    model = make_model("llama")
    model.hf.model.layers[0].self_attn.q_proj = Packed(model.hf.get_submodule(name))
    record = EditRecord.for_model(model, "test")
    edit = WeightEdit({f"{name}.weight": delta}, record)
    with edit.applied(model):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="quantised"):
        merged_tensors(model, edit)
    with pytest.raises(UsageError, match="quantised"):
        WeightEdit({f"{name}.weight": Dense(torch.zeros(64, 64))}, record).attach(model)


def test_small_change_survives_bfloat16_weights():
    """The sum is rounded once: a change below half a step of the output still shows where the steps are finer."""
    x = torch.ones(1, 1, dtype=torch.bfloat16)
    output = torch.tensor([[1.0]], dtype=torch.bfloat16)
    hook = _LowRankHook(LowRank(torch.tensor([[1.00390625]]), torch.tensor([[0.00390625]])), 1.0)
    exact = torch.tensor(1.0 + 1.00390625 * 0.00390625).bfloat16()
    assert hook(nn.Identity(), (x,), {}, output).item() == exact.item() == 1.0078125
