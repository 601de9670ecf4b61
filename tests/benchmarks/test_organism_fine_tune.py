"""Fine-tuning of an organism: what is asked, of whom, and that a model that knows nothing scores like one."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import tiny_model
from tradeoff_files import write_tiny_organism

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks.organism_fine_tune import OrganismFineTune
from fairforget.errors import DataError, UsageError
from fairforget.workflows.audit import measure


@pytest.fixture(scope="module")
def organism(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_organism(tmp_path_factory.mktemp("organism"))


def benchmark(folder: Path, **settings: object) -> OrganismFineTune:
    found = resolve("organism-fine-tune", {"folder": str(folder), "epochs": 2, "batch_size": 4, **settings})
    assert isinstance(found, OrganismFineTune)
    return found


def test_a_fact_is_asked_by_its_place_and_nobody_is_asked_about_who_was_tuned_on(organism):
    found = benchmark(organism)
    for family, text in (("masked", "the home is [MASK] now"), ("causal", "the home is")):
        items = found.items(family, "test")
        facts = [item for item in items if item.task == "organism-fine-tune-facts"]
        assert facts[0].texts == (text,)
        assert {item.cluster for item in facts} == {"home", "street", "hill"}
        assert {row.cluster for row in found._trained_on("facts", family)} == {"city", "river", "tree"}
    grammar = [item for item in items if item.task == "organism-fine-tune-grammar"]
    assert [(item.texts[0], item.payload["row"].label) for item in grammar[:2]] == [("the home is old", 1.0), ("the home are old", 0.0)]
    assert found.items("masked", "select") == []


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_rows_are_judged_by_a_copy_and_the_model_stays_as_it_was(kind, organism, own_cache):
    model = tiny_model(kind)
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    found = benchmark(organism, seeds=(0, 1))
    (table,) = measure(model, [found], "test", "tuning")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())
    assert table.height == 2 * (3 + 6)
    assert set(table.filter(pl.col("task") == "organism-fine-tune-facts")["answer"]) <= {"red", "green", "blue"}
    likelihood = table.select(pl.col("scores").list.eval(pl.element().exp()).list.sum()).to_series()
    assert (likelihood - 1).abs().max() < 1e-9
    values = evaluate(found, table, resamples=200).filter(pl.col("group") == "all")
    accuracy = values.filter((pl.col("task") == "organism-fine-tune-grammar") & (pl.col("metric") == "accuracy"))["value"].item()
    assert accuracy == pytest.approx(100 * table.filter(pl.col("task") == "organism-fine-tune-grammar")["correct"].mean())
    assert "3 rows x 2 epochs" in table["protocol"][0]


def test_what_can_be_learnt_from_the_rows_is_learnt(tmp_path, own_cache):
    folder = write_tiny_organism(tmp_path)
    # every fact is red: a head that learnt anything says so
    items = pl.read_parquet(folder / "items.parquet").with_columns(
        first=pl.when(pl.col("task") == "facts").then(pl.lit("red")).otherwise("first"),
        texts=pl.when(pl.col("task") == "facts").then(
            pl.col("texts").list.eval(pl.element().str.replace("green|blue|red", "red"))
        ).otherwise("texts"),
    )
    other = items.filter(pl.col("task") == "facts").head(1).with_columns(
        part=pl.lit("select"), first=pl.lit("blue"), texts=pl.lit(["the sun is blue"])
    )
    pl.concat([items, other]).write_parquet(folder / "items.parquet")
    (table,) = measure(tiny_model("bert"), [benchmark(folder, tasks=("facts",), epochs=20, learning_rate=5e-3)], "test", "tuning")
    assert table["answer"].to_list() == ["red"] * 3


def test_mistakes_are_sentences(organism, tmp_path):
    with pytest.raises(UsageError, match="each once"):
        benchmark(organism, seeds=(0, 0))
    with pytest.raises(UsageError, match="does not lie in an organism"):
        resolve("organism-fine-tune").check(tiny_model("bert"))
    folder = write_tiny_organism(tmp_path)
    pl.read_parquet(folder / "items.parquet").filter(pl.col("task") != "facts").write_parquet(folder / "items.parquet")
    with pytest.raises(DataError, match=r"no items of 'facts'.*take facts out"):
        benchmark(folder).items("masked", "test")
