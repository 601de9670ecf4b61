"""The guard ends a training for the two reasons it knows, and only for these."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import Benchmark, resolve
from fairforget.models import Model
from fairforget.workflows.audit import measure
from fairforget.workflows.guard import SelectGuard
from fairforget.workflows.recipe import Guard


@pytest.fixture
def measured(own_cache: Path) -> tuple[Model, Benchmark, pl.DataFrame, Benchmark, pl.DataFrame]:
    del own_cache
    model = tiny_model("llama")
    target, cost = resolve("starter"), resolve("perplexity:starter")
    tables = measure(model, [target, cost], "select", "base")
    return model, target, tables[0].with_columns(margin=pl.col("margin").abs() + 1.0), cost, tables[1]


@contextlib.contextmanager
def shifted(model: Model, scale: float) -> Generator[None]:
    """The model with its head scaled: at 0 every word is as likely as any other."""
    head = model.hf.get_output_embeddings()
    assert head is not None
    with torch.no_grad():
        kept = head.weight.clone()
        head.weight.mul_(scale)
        yield
        head.weight.copy_(kept)


def test_perplexity_over_budget_ends_it(measured: tuple[Model, Benchmark, pl.DataFrame, Benchmark, pl.DataFrame]) -> None:
    model, target, biased, cost, base = measured
    guard = SelectGuard(Guard(reversal=False), (target, biased), "margin", (cost, base), 2.0)
    assert guard.watches
    assert guard.look(model, 5) is None
    with shifted(model, 3.0):
        assert "over the budget" in (guard.look(model, 10) or "")
    generous = SelectGuard(Guard(reversal=False), (target, biased), "margin", (cost, base), 1e6)
    with shifted(model, 3.0):
        assert generous.look(model, 10) is None


def test_a_bias_that_crossed_neutral_ends_it(measured: tuple[Model, Benchmark, pl.DataFrame, Benchmark, pl.DataFrame]) -> None:
    model, target, biased, cost, base = measured
    now = measure(model, [target], "select", "now", store=False)[0]
    sign = 1.0 if now["margin"].mean() > 0 else -1.0  # type: ignore[operator]
    opposite = biased.with_columns(margin=-sign * pl.col("margin"))
    guard = SelectGuard(Guard(perplexity=False), (target, opposite), "margin", (cost, base), 2.0)
    assert guard.look(model, 5) == "the bias on select has crossed neutral"
    same = SelectGuard(Guard(perplexity=False), (target, opposite.with_columns(margin=-pl.col("margin"))), "margin", None, None)
    assert same.look(model, 5) is None


def test_a_base_near_neutral_is_not_watched_for_reversal(measured: tuple[Model, Benchmark, pl.DataFrame, Benchmark, pl.DataFrame]) -> None:
    _, target, biased, cost, base = measured
    signs = pl.Series([1.0 if row % 2 else -1.0 for row in range(biased.height)])
    neutral = biased.with_columns(margin=pl.col("margin") * signs)
    assert not SelectGuard(Guard(), (target, neutral), "margin", None, None).watches
    assert SelectGuard(Guard(), (target, neutral), "margin", (cost, base), 2.0).watches
    assert not SelectGuard(Guard(looks=0), (target, biased), "margin", (cost, base), 2.0).watches
