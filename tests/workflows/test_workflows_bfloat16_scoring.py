"""Scoring in bfloat16: close items come out as in float32, the others near it, and neither is taken for the other in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import tiny_model

import fairforget as ff
from fairforget.benchmarks import resolve
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.workflows import audit
from fairforget.workflows.audit import measure


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_close_items_are_scored_again_in_float32(kind: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del own_cache
    model = tiny_model(kind)
    benchmark = resolve("starter")
    some = benchmark.items(model.family, "select")[::8]
    monkeypatch.setattr(benchmark, "items", lambda *_: some)
    whole = measure(model, [benchmark], "select", "float32")[0]
    limit = float(whole["margin"].abs().median())
    monkeypatch.setattr(audit, "CLOSE_NATS", limit)
    model.bfloat16_scoring = True
    mixed = measure(model, [benchmark], "select", "bfloat16")[0]
    pairs = whole.join(mixed, on=["task", "item"], suffix="_mixed")
    assert pairs.height == whole.height
    close = pairs.filter(pl.col("margin_mixed").abs() < limit * 0.9)
    assert close.height > whole.height // 4
    assert (close["margin"] - close["margin_mixed"]).abs().max() == 0.0
    far = pairs.filter(pl.col("margin_mixed").abs() > limit * 1.5)
    errors = (far["margin"] - far["margin_mixed"]).abs()
    assert errors.max() > 0.0  # scored in bfloat16, not taken from the float32 store
    assert errors.median() < 0.2 * limit
    model.bfloat16_scoring = False
    assert measure(model, [benchmark], "select", "float32 again")[0].equals(whole)


def test_what_cannot_be_scored_so_is_refused(tmp_path: Path, saved: Callable[[Model, Path], Path]) -> None:
    folder = saved(tiny_model("llama"), tmp_path / "model")
    assert ff.load(folder, scoring_dtype="bfloat16").bfloat16_scoring
    with pytest.raises(UsageError, match="scoring_dtype"):
        ff.load(folder, scoring_dtype="bfloat16", dtype="bfloat16")
    with pytest.raises(UsageError, match="scoring_dtype"):
        ff.load(folder, scoring_dtype="int8")


@pytest.fixture
def saved() -> Callable[[Model, Path], Path]:
    def save(model: Model, folder: Path) -> Path:
        model.save(folder)
        assert model.hf.dtype == torch.float32
        return folder

    return save
