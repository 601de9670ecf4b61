"""``fairforget edit``: streaming where the model is sharded, combining, and the search over two dials."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model

from fairforget.cli.application import application
from fairforget.edits import EditRecord, LowRank, WeightEdit, is_sharded
from fairforget.edits import streamed as streamed_module
from fairforget.errors import UsageError
from fairforget.models import load


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sharded base and two edits of it, in the working folder."""
    model = tiny_model("gpt2")
    model.save(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    model.hf.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    base = load(tmp_path / "base", device="cpu")
    for seed, name in enumerate(("bias", "capability")):
        generator = torch.Generator().manual_seed(seed)
        delta = LowRank(torch.randn(2, 32, generator=generator) * 0.2, torch.randn(96, 2, generator=generator) * 0.2)
        WeightEdit({"transformer.h.0.attn.c_attn.weight": delta}, EditRecord.for_model(base, "test")).save(tmp_path / name)
    assert is_sharded(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    assert application(["edit", *arguments]) in (None, 0)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_sharded_model_is_streamed_and_gives_what_the_whole_one_gives(folder: Path) -> None:
    for verb, parts in (("apply", ["bias", "base"]), ("merge", ["bias@0.5", "capability@-1", "base"])):
        run(verb, *parts, "--out", f"{verb}-streamed")
        run(verb, *parts, "--no-stream", "--out", f"{verb}-whole")
        assert is_sharded(folder / f"{verb}-streamed")
        assert not is_sharded(folder / f"{verb}-whole")
        assert same(folder / f"{verb}-streamed", folder / f"{verb}-whole")
    run("undo", "bias", "apply-streamed", "--out", "back")
    assert is_sharded(folder / "back")
    assert same(folder / "back", folder / "base")
    run("undo", "merge-streamed", "--no-stream", "--out", "back-whole")
    assert same(folder / "back-whole", folder / "base")


def test_streaming_is_refused_where_it_cannot_be(folder: Path) -> None:
    for arguments, words in (
        (("apply", "bias", "base", "--stream", "--load-in-4bit"), "--stream and --load-in-4bit"),
        (("apply", "bias", "owner/name", "--stream"), "a local model folder"),
        (("apply", "bias", "base", "--dtype", "bfloat16"), "--rebase"),
    ):
        with pytest.raises(UsageError, match=words):
            run(*arguments, "--out", "out")
        assert not (folder / "out").exists()
    run("apply", "bias", "base", "--dtype", "bfloat16", "--rebase", "--out", "out")
    run("apply", "bias", "base", "--dtype", "bfloat16", "--rebase", "--no-stream", "--out", "out-whole")
    assert same(folder / "out", folder / "out-whole")
    assert {tensor.dtype for tensor in tensors(folder / "out").values()} == {torch.bfloat16}


def test_edits_are_combined_in_each_way_without_loading_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_module.ShardedModel, "shard", None)
    for how in ("add", "average", "project", "ties", "dare"):
        run("combine", "bias", "capability", "--how", how, "--out", how)
    ways = ("add", "average", "project", "ties", "dare")
    kinds = [type(next(iter(WeightEdit.load(folder / how).deltas.values()))).__name__ for how in ways]
    assert kinds == ["LowRank", "LowRank", "LowRank", "Dense", "Dense"]
    with pytest.raises(UsageError, match="way to combine"):
        run("combine", "bias", "capability", "--how", "tiles", "--out", "x")


def test_a_search_prints_its_table_and_writes_the_edit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "search", "bias", "capability@-1", "base", "--budget", "perplexity=900%", "--points", "2", "--rounds", "1", "--resamples", "200",
        "--out", "found",
    )
    text = capsys.readouterr().out
    for word in ("distance", "perplexity ratio", "pareto", "chosen", "found/tables/pareto.parquet"):
        assert word in text, word
