"""Edits taken from full fine-tuning and from PEFT LoRAs, with their sign."""

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn

from fairforget.edits import Dense, EditRecord, WeightEdit, copy_parameters, difference, from_lora, restore_parameters
from fairforget.errors import FairforgetError, UsageError

TARGETS = {"llama": ["q_proj", "v_proj", "lm_head"], "gpt2": ["c_attn"], "bert": ["query", "value"]}


def trained_lora(network, architecture, **options):
    """An injected LoRA whose factors are random, as if trained."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[architecture], fan_in_fan_out=architecture == "gpt2", **options)
    peft_model = get_peft_model(network, config).eval()
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return peft_model


@pytest.mark.parametrize("rslora", [False, True])
def test_low_rank_edit_equals_the_lora_it_comes_from(rslora, architecture, make_model, logits):
    model = make_model(architecture)
    record = EditRecord.for_model(model, "test")
    peft_model = trained_lora(make_model(architecture).hf, architecture, use_rslora=rslora)
    edit = from_lora(peft_model, record=record)
    assert {delta.scale for delta in edit.deltas.values()} == {3.0 if rslora else 1.5}
    with edit.applied(model):
        torch.testing.assert_close(logits(model), logits(peft_model), rtol=1e-5, atol=1e-5)


def test_negation_is_in_one_factor_and_undoes_the_merged_lora(architecture, make_model, logits):
    model = make_model(architecture)
    peft_model = trained_lora(make_model(architecture).hf, architecture)
    record = EditRecord.for_model(model, "test")
    plain, negated = from_lora(peft_model, record=record), from_lora(peft_model, record=record, sign=-1)
    for name, delta in plain.deltas.items():
        assert torch.equal(negated.deltas[name].A, delta.A)
        assert torch.equal(negated.deltas[name].B, -delta.B)
        assert negated.deltas[name].scale == delta.scale
    tuned = make_model(architecture)
    tuned.hf = peft_model.merge_and_unload()
    tuned._base_hash = None
    back = negated.rebased(tuned)
    with back.applied(tuned):
        torch.testing.assert_close(logits(tuned), logits(model), rtol=1e-4, atol=1e-4)


def test_lora_injected_in_place_has_the_same_names(make_model):
    model = make_model("llama")
    record = EditRecord.for_model(model, "test")
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), model.hf)
    edit = from_lora(model.hf, record=record)
    assert list(edit.deltas) == [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]


def test_later_training_does_not_change_the_edit(make_model):
    peft_model = trained_lora(make_model("llama").hf, "llama")
    edit = from_lora(peft_model, record=EditRecord.for_model(make_model("llama"), "test"))
    before = WeightEdit(edit.deltas, edit.record).content_hash
    with torch.no_grad():
        for parameter in peft_model.parameters():
            parameter.zero_()
    assert WeightEdit(edit.deltas, edit.record).content_hash == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "LoRA bias"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"modules_to_save": ["norm"]}, "trained beside the LoRA"),
    ],
)
def test_variants_that_are_no_plain_product_are_refused(options, sentence, make_model):
    peft_model = trained_lora(make_model("llama").hf, "llama", **options)
    with pytest.raises(UsageError, match=sentence):
        from_lora(peft_model, record=EditRecord.for_model(make_model("llama"), "test"))


def test_embedding_no_lora_wrong_adapter_and_divergence_are_refused(make_model):
    model = make_model("llama")
    record = EditRecord.for_model(model, "test")
    with pytest.raises(UsageError, match="no LoRA layers"):
        from_lora(model.hf, record=record)
    embedded = get_peft_model(make_model("llama").hf, LoraConfig(target_modules=["embed_tokens"]))
    with pytest.raises(UsageError, match="is an embedding"):
        from_lora(embedded, record=record)
    peft_model = trained_lora(make_model("llama").hf, "llama")
    with pytest.raises(UsageError, match="no LoRA adapter named 'other'"):
        from_lora(peft_model, record=record, adapter="other")
    with pytest.raises(UsageError, match=r"\+1 or -1"):
        from_lora(peft_model, record=record, sign=-0.5)
    with torch.no_grad():
        next(parameter for name, parameter in peft_model.named_parameters() if "lora_B" in name)[0, 0] = float("nan")
    with pytest.raises(FairforgetError, match="not finite"):
        from_lora(peft_model, record=record)


def test_difference_of_a_model_trained_in_place(model, logits, bits):
    record, base, weights = EditRecord.for_model(model, "test"), copy_parameters(model.hf), bits(model)
    before = logits(model)
    optimizer = torch.optim.SGD(model.hf.parameters(), lr=0.5)
    ids = torch.arange(8, 24).view(2, 8)
    model.hf(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    tuned = logits(model)
    assert (tuned - before).abs().max() > 0.01
    edit, negated = (difference(model, base, model.hf, record=record, sign=sign) for sign in (1, -1))
    restore_parameters(model.hf, base)
    assert bits(model) == weights
    with edit.applied(model):
        torch.testing.assert_close(logits(model), tuned, rtol=1e-4, atol=1e-4)
    for name, delta in edit.deltas.items():
        assert torch.equal(negated.deltas[name].delta, -delta.delta)
    with negated.at(0.5).applied(model):
        for name in edit.deltas:
            halfway = base[name] - 0.5 * edit.deltas[name].delta
            torch.testing.assert_close(model.hf.get_parameter(name).detach(), halfway, rtol=1e-5, atol=1e-6)


def test_difference_counts_tied_weights_once_and_leaves_buffers(make_model):
    model, tuned = make_model("bert"), make_model("bert")
    before, after = dict(model.hf.state_dict()), dict(tuned.hf.state_dict())
    assert {"bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"} <= set(before)
    with torch.no_grad():
        tuned.hf.bert.embeddings.word_embeddings.weight += 1
    integers, moved = torch.arange(4), torch.arange(4) + 1
    before["bert.embeddings.position_ids"], after["bert.embeddings.position_ids"] = integers, moved
    edit = difference(model, before, after, record=EditRecord.for_model(model, "test"))
    assert list(edit.deltas) == ["bert.embeddings.word_embeddings.weight"]
    torch.testing.assert_close(edit.deltas["bert.embeddings.word_embeddings.weight"].delta, torch.ones(200, 64), rtol=1e-5, atol=1e-5)


def test_known_answer_of_a_difference(make_model):
    model = make_model("llama")
    model.hf = nn.Linear(2, 1, bias=False)
    record = EditRecord.for_model(make_model("llama"), "test")
    tau = difference(model, {"weight": torch.tensor([[1.0, 2.0]])}, {"weight": torch.tensor([[1.5, 1.0]])}, record=record)
    assert isinstance(tau.deltas["weight"], Dense)
    assert tau.deltas["weight"].delta.tolist() == [[0.5, -1.0]]


def test_differences_that_are_none_are_refused(make_model):
    model = make_model("llama")
    record, base = EditRecord.for_model(model, "test"), copy_parameters(model.hf)
    with pytest.raises(UsageError, match="changed no parameter"):
        difference(model, base, model.hf, record=record)
    with pytest.raises(UsageError, match="cannot resize"):
        difference(model, base, {**base, "lm_head.weight": torch.zeros(201, 64)}, record=record)
    with pytest.raises(UsageError, match=r"did you mean lm_head.weight"):
        difference(model, {"lm_hed.weight": torch.zeros(1)}, {"lm_hed.weight": torch.ones(1)}, record=record)
    with pytest.raises(FairforgetError, match="not finite"):
        difference(model, base, {**base, "model.norm.weight": torch.full((64,), float("inf"))}, record=record)


def test_only_trainable_parameters_are_copied(make_model):
    model = make_model("llama")
    for parameter in model.hf.model.parameters():
        parameter.requires_grad_(False)
    assert list(copy_parameters(model.hf)) == ["lm_head.weight"]
    assert len(copy_parameters(model.hf, trainable_only=False)) == len(list(model.hf.parameters()))
