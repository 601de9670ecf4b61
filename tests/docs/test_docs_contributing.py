"""The two examples of CONTRIBUTING.md work as the page says: a file in the room, and nothing else."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import registry, resolve
from fairforget.benchmarks._evaluate import evaluate
from fairforget.errors import UsageError
from fairforget.methods import method_registry
from fairforget.scoring import Scorer

PAGE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(room: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the page's file of a room to a folder that counts as part of the room; return its component name."""
    match = re.search(rf"`src/fairforget/{room}/(\w+)\.py`:\n\n```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert match is not None
    (folder / f"{match[1]}.py").write_text(match[2], encoding="utf-8")
    package = importlib.import_module(f"fairforget.{room}")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"fairforget.{room}.{match[1]}", raising=False)
    return match[1].replace("_", "-")


def test_the_method_is_found_and_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = example("methods", tmp_path, monkeypatch)
    assert name in method_registry().names()
    method = method_registry().get(name)(share=0.05)
    model = tiny_model("llama")
    before = {key: tensor.clone() for key, tensor in model.hf.state_dict().items()}
    edit = method.fit(model, ["a tree by the river"], seed=1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.hf.state_dict().items())
    with edit.applied(model):
        weight = model.hf.get_submodule("model.layers.0.self_attn.q_proj").weight
        change = weight - before["model.layers.0.self_attn.q_proj.weight"]
        assert change.norm().item() == pytest.approx(0.05 * before["model.layers.0.self_attn.q_proj.weight"].norm().item(), rel=1e-4)
    assert method.fit(model, ["x"], seed=1).content_hash == edit.content_hash != method.fit(model, ["x"], seed=2).content_hash
    with pytest.raises(UsageError, match="share"):
        method_registry().get(name)(share=2)


def test_the_benchmark_is_found_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = example("benchmarks", tmp_path, monkeypatch)
    assert name in registry.names()
    benchmark, model = resolve(name), tiny_model("llama")
    scorer = Scorer(model, store=False)
    tables = {part: benchmark.measure(scorer, part) for part in ("select", "test", "all")}
    assert tables["select"].height + tables["test"].height == tables["all"].height
    assert not set(tables["select"]["cluster"]) & set(tables["test"]["cluster"])
    metrics = evaluate(benchmark, tables["all"], resamples=200)
    overall = metrics.filter((pl.col("group") == "all") & (pl.col("metric") == "accuracy"))
    assert overall["value"].item() == pytest.approx(100 * tables["all"]["correct"].mean())
    assert set(metrics["group"]) == {"all", "singular", "plural"}
    with pytest.raises(UsageError, match="causal"):
        benchmark.check(tiny_model("bert"))
