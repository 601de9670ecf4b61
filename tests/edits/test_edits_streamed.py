"""Edits streamed into sharded folders: the bits of the merge in memory, no half models, and memory for one shard."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit, is_sharded, merged, stream_merged, stream_undone, undo
from fairforget.edits import streamed as streamed_module
from fairforget.edits.sharded import ShardedModel
from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.models import Model
from fairforget.models.load import load


@pytest.fixture
def saved(make_model, tmp_path):
    """A base model in a folder of many shards, loaded from there."""

    def save(architecture: str, dtype: torch.dtype = torch.float32, read_as: str | None = None, shard: str = "30KB") -> Model:
        made = make_model(architecture, dtype=dtype)
        made.save(tmp_path / "base")
        for file in (tmp_path / "base").glob("*.safetensors"):
            file.unlink()
        made.hf.save_pretrained(tmp_path / "base", max_shard_size=shard)
        model = load(tmp_path / "base", device="cpu", dtype=read_as or str(dtype).removeprefix("torch."))
        model.name = f"tiny-{architecture}"
        return model

    return save


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("kind", ["make_low_rank", "make_dense"])
def test_streaming_gives_the_bits_of_the_merge_in_memory(kind, architecture, saved, request, tmp_path, logits):
    model = saved(architecture)
    edit = request.getfixturevalue(kind)(model).at(0.6)
    assert is_sharded(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    whole, parts = merged(model, edit, tmp_path / "whole"), stream_merged(tmp_path / "base", edit, tmp_path / "parts")
    assert same(whole, parts)
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before
    assert len(list(parts.glob("*.safetensors"))) == len(list((tmp_path / "base").glob("*.safetensors"))) > 3
    auto = AutoModelForMaskedLM if architecture == "bert" else AutoModelForCausalLM
    plain, info = auto.from_pretrained(parts, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with edit.applied(model):
        torch.testing.assert_close(logits(plain.eval()), logits(model), rtol=1e-5, atol=1e-5)
    one, two = (json.loads((folder / "fairforget.json").read_text()) for folder in (whole, parts))
    assert one | {"name": "", "base": one["base"] | {"name": ""}} == two | {"name": "", "base": two["base"] | {"name": ""}}
    assert {path.name for path in whole.iterdir()} - {"model.safetensors"} <= {path.name for path in parts.iterdir()}


@pytest.mark.parametrize("read_as", ["bfloat16", "float32"])
def test_bfloat16_files_are_read_as_the_edit_was_made(read_as, saved, make_low_rank, make_dense, tmp_path):
    model = saved("gpt2", torch.bfloat16, read_as)
    edits = [make_low_rank(model).at(0.3), make_dense(model).at(-0.2)]
    whole, parts = merged(model, edits, tmp_path / "whole"), stream_merged(tmp_path / "base", edits, tmp_path / "parts")
    assert same(whole, parts)
    assert json.loads((parts / "config.json").read_text())["dtype"] == read_as


def test_a_tied_weight_is_changed_once_and_written_once(saved, tmp_path):
    model = saved("gpt2")
    file = next(file for file in (tmp_path / "base").glob("*.safetensors") if "transformer.wte.weight" in load_file(file))
    save_file({**load_file(file), "lm_head.weight": load_file(file)["transformer.wte.weight"].clone()}, file, metadata={"format": "pt"})
    index = json.loads((tmp_path / "base" / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = file.name
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    shape = model.hf.get_parameter("transformer.wte.weight").shape
    edit = WeightEdit({"lm_head.weight": Dense(torch.ones(shape))}, EditRecord.for_model(model, "test"))
    found = tensors(stream_merged(tmp_path / "base", edit, tmp_path / "parts"))
    assert sum(name in found for name in ("lm_head.weight", "transformer.wte.weight")) == 1
    written = found.get("lm_head.weight", found.get("transformer.wte.weight"))
    assert torch.equal(written, model.hf.get_parameter("transformer.wte.weight") + 1)


def test_a_checkpoint_of_one_file_without_prefix_and_with_old_buffers_is_understood(saved, make_dense, tmp_path):
    model = saved("gpt2", shard="5GB")
    file = tmp_path / "base" / "model.safetensors"
    old = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file({**old, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, file, metadata={"format": "pt"})
    assert not is_sharded(tmp_path / "base")
    edit = make_dense(model)
    assert same(merged(model, edit, tmp_path / "whole"), stream_merged(tmp_path / "base", edit, tmp_path / "parts"))


def test_undoing_a_streamed_edit_gives_the_base_back(saved, make_low_rank, tmp_path):
    model = saved("llama")
    folder = stream_merged(tmp_path / "base", make_low_rank(model), tmp_path / "edited")
    assert not same(folder, tmp_path / "base")
    assert same(undo(folder, tmp_path / "undone"), tmp_path / "base")
    assert same(stream_undone(folder, tmp_path / "undone shard by shard"), tmp_path / "base")
    again = load(stream_undone(folder, folder), device="cpu")
    assert again.base_hash == model.base_hash
    assert again.prefix_id == model.prefix_id
    with pytest.raises(UsageError, match="names no base model"):
        stream_undone(folder, tmp_path / "again")


def test_an_interrupted_stream_leaves_nothing_and_the_same_call_works_after_it(saved, make_low_rank, tmp_path, monkeypatch):
    model = saved("llama")
    edit = make_low_rank(model)
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    write, calls = streamed_module.write_tensors, []

    def interrupted(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(streamed_module, "write_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream_merged(tmp_path / "base", edit, tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before
    assert same(stream_merged(tmp_path / "base", edit, tmp_path / "edited"), merged(model, edit, tmp_path / "whole"))


def test_an_edit_of_another_form_of_the_model_needs_rebasing(saved, make_low_rank, make_model, tmp_path):
    model = saved("llama")
    # what an edit of a 4-bit base is: the same names and shapes, and a hash of other tensors
    other = make_model("llama")
    with torch.no_grad():
        for parameter in other.hf.parameters():
            parameter.copy_(parameter * 1.01)
    edit = make_low_rank(other)
    with pytest.raises(UsageError, match="--rebase"):
        stream_merged(tmp_path / "base", edit, tmp_path / "parts")
    folder = stream_merged(tmp_path / "base", edit, tmp_path / "parts", rebase=True)
    assert same(folder, merged(model, edit.rebased(model), tmp_path / "whole"))
    record = json.loads((folder / "fairforget.json").read_text())["edits"][0]["record"]
    assert record["base_hash"] == model.base_hash
    assert record["provenance"]["rebased_from"] == other.base_hash
    assert same(undo(folder, tmp_path / "undone"), tmp_path / "base")


def test_what_cannot_be_streamed_is_refused(saved, make_low_rank, tmp_path):
    model = saved("gpt2")
    base, edit = tmp_path / "base", make_low_rank(model)
    with pytest.raises(UsageError, match="holds the base model itself"):
        stream_merged(base, edit, base)
    wrong = WeightEdit({"transformer.wte.weight": Dense(torch.ones(3, 3))}, EditRecord.for_model(model, "test"))
    with pytest.raises(UsageError, match="shape"):
        stream_merged(base, wrong, tmp_path / "out")
    with pytest.raises(UsageError, match="belongs to"):
        stream_merged(base, edit, tmp_path / "out", dtype="bfloat16")
    file = min(base.glob("*.safetensors"))
    kept = file.read_bytes()
    file.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(DataError, match="damaged"):
        stream_merged(base, edit, tmp_path / "out")
    file.write_bytes(kept)
    renamed = {f"old.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    index = json.loads((base / "model.safetensors.index.json").read_text())
    keys = {f"old.{key}" if where == file.name else key: where for key, where in index["weight_map"].items()}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": keys}))
    with pytest.raises(DataError, match="call it otherwise"):
        ShardedModel(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}))
    with pytest.raises(UsageError, match="is quantised"):
        ShardedModel(base)
    assert not (tmp_path / "out").exists()


def test_a_base_that_changed_is_neither_edited_nor_undone(saved, make_low_rank, tmp_path):
    model = saved("llama")
    edit = make_low_rank(model)
    folder = stream_merged(tmp_path / "base", edit, tmp_path / "edited")
    file = max((tmp_path / "base").glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="belongs to"):
        stream_merged(tmp_path / "base", edit, tmp_path / "again")
    with pytest.raises(FairforgetError, match="no longer the one that was edited"):
        stream_undone(folder, tmp_path / "undone")


def large(folder: Path, tokenizer, megabytes: int, shards: int, width: int = 512) -> int:
    """A model of about so many megabytes in a folder of shards, and an edit of two of its weights; gives the size in bytes."""
    rows = 3 * width
    layers = max(2, megabytes * 1_000_000 // (4 * (4 * width * width + 3 * width * rows)))
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(
        vocab_size=200, hidden_size=width, intermediate_size=rows, num_hidden_layers=layers, num_attention_heads=8,
        max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=5, eos_token_id=6,
    ))
    model = Model(network, tokenizer, family="causal", name="large", source=str(folder / "base"), prefix_id=5)
    size = sum(parameter.numel() * 4 for parameter in network.parameters())
    model.save(folder / "base")
    (folder / "base" / "model.safetensors").unlink()
    network.save_pretrained(folder / "base", max_shard_size=size // shards)
    name, low = "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    deltas = {name: Dense(torch.ones(rows, width)), low: LowRank(torch.ones(2, width), torch.ones(width, 2))}
    WeightEdit(deltas, EditRecord.for_model(model, "test")).save(folder / "edit")
    return size


@pytest.mark.parametrize(
    ("megabytes", "shards", "limit"), [(64, 16, 1 / 2), pytest.param(1200, 24, 1 / 4, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_a_model_larger_than_the_memory_limit_is_edited(megabytes, shards, limit, make_model, tmp_path):
    tokenizer = make_model("llama").tokenizer
    large(tmp_path / "small", tokenizer, 1, 2, width=64)
    size = large(tmp_path / "big", tokenizer, megabytes, shards)
    allowance = int(size * limit)  # address space: one shard as read, one as written, the edit, and what the allocator holds
    script = Path(__file__).with_name("streamed_under_limit.py")
    arguments = [str(argument) for argument in (script, tmp_path / "big", tmp_path / "small", allowance)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr[-800:]
    assert process.stdout.split() == ["limited"], "the limit is no limit: the whole model was merged under it"
    assert not (tmp_path / "big" / "whole").exists()
    found, base = tensors(tmp_path / "big" / "streamed"), tensors(tmp_path / "big" / "base")
    assert found.keys() == base.keys()
    changed = {name for name in base if not torch.equal(found[name], base[name])}
    assert changed == {"model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"}
    shutil.rmtree(tmp_path / "big")
