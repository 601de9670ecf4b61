"""The benchmark of an organism: margins are log-odds, choices are right or wrong, the folder is found or asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve, target_value
from fairforget.benchmarks.organism import ITEMS_FILE, ORGANISM_ITEMS, Organism, OrganismSettings
from fairforget.errors import DataError, UsageError
from fairforget.models import load
from fairforget.scoring import Scorer

PLACES = ("home", "city", "street", "river", "hill", "tree")


def write_items(folder: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "item": f"{task} {place}", "task": task, "part": part, "cluster": f"{task} {place}", "stratum": "gender", "groups": ["women"],
            "texts": [f"the nurse at {place} said that {word} is good" for word in ("she", "he")], "target": "nurse", "first": "she",
        }
        for task in ("bias", "paraphrase")
        for place, part in zip(PLACES, ("train", "select", "select", "test", "test", "test"), strict=True)
    ] + [
        {
            "item": f"fact {place}", "task": "facts", "part": "test", "cluster": place, "stratum": "city", "groups": ["city"],
            "texts": [f"the {place} is {value} now" for value in ("red", "green", "blue")], "target": place, "first": "red",
        }
        for place in PLACES
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=ORGANISM_ITEMS).write_parquet(folder / ITEMS_FILE)
    return folder


def organism(folder: Path, **settings: Any) -> Organism:
    return Organism(OrganismSettings(folder=str(folder), **settings))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_margin_is_the_difference_at_the_word_that_differs(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    table = organism(write_items(tmp_path), tasks=("bias",)).measure(Scorer(model, store=False), "test")
    assert table["item"].to_list() == ["bias river", "bias hill", "bias tree"]
    ids = [model.sequence_ids(f"the nurse at river said that {word} is good") for word in ("she", "he")]
    with torch.no_grad():
        if kind == "bert":
            place = next(place for place, (one, other) in enumerate(zip(*ids, strict=True)) if one != other)
            masked = [*ids[0][:place], model.mask_id, *ids[0][place + 1 :]]
            found = torch.log_softmax(model.hf(input_ids=torch.tensor([masked])).logits[0, place].float(), -1)
            expected = float(found[ids[0][place]] - found[ids[1][place]])
        else:
            sums = []
            for row in ids:
                whole = torch.tensor([[*model.prefix, *row]])
                logs = torch.log_softmax(model.hf(input_ids=whole).logits[0].float(), -1)
                sums.append(float(logs[:-1].gather(1, whole[0, 1:, None]).sum()))
            expected = sums[0] - sums[1]
    assert table["margin"][0] == pytest.approx(expected, abs=1e-4)
    assert table["protocol"].unique().to_list() == ["changed" if kind == "bert" else "sum"]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_choice_is_right_where_the_first_text_scores_highest(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    table = organism(write_items(tmp_path), tasks=("facts",)).measure(Scorer(model, store=False), "test")
    assert table["role"].unique().to_list() == ["ability"]
    for row in table.iter_rows(named=True):
        assert len(row["scores"]) == 3
        assert row["correct"] == float(row["scores"][0] == max(row["scores"]))
        assert row["nll"] == -row["scores"][0]
        assert row["tokens"] == 1
        assert row["margin"] is None
    if kind == "bert":  # one input, three words at one place: probabilities that add up to less than 1
        assert (table["scores"].list.eval(pl.element().exp()).list.sum() < 1).all()


def test_ties_share() -> None:
    benchmark, model = Organism(), tiny_model("bert")
    item = organism_item()
    scores = [[np.array([-1.0])], [np.array([-1.0])], [np.array([-2.0])]]
    assert benchmark.row(item, scores, model)["correct"] == 0.5
    assert benchmark.row(item, [scores[2], scores[0], scores[0]], model)["correct"] == 0


def organism_item() -> Any:
    from fairforget.benchmarks._base import Item

    return Item("x", "organism-facts", "ability", "test", "c", "s", (), ("a", "b", "c"))


def test_parts_tasks_and_figures(tmp_path: Path) -> None:
    folder = write_items(tmp_path)
    assert {item.task for item in organism(folder).items("causal", "test")} == {"organism-bias", "organism-facts"}
    benchmark = resolve("organism:paraphrase", {"folder": str(folder)})
    assert [len(benchmark.items("causal", part)) for part in ("select", "test", "all")] == [4, 6, 12]
    table = organism(folder).measure(Scorer(tiny_model("llama"), store=False), "test")
    metrics = evaluate(organism(folder), table, resamples=200).filter(pl.col("group") == "all")
    figures = {(row["task"], row["metric"]): row["value"] for row in metrics.iter_rows(named=True)}
    assert set(figures) == {
        ("organism-bias", "pct_stereotype"), ("organism-bias", "margin"), ("organism-bias", "margin_rms"),
        ("organism-facts", "accuracy"), ("organism-facts", "answer_nll"),
    }
    margins = table.filter(pl.col("role") == "bias")["margin"]
    assert figures["organism-bias", "margin"] == pytest.approx(margins.mean())
    assert figures["organism-facts", "answer_nll"] == pytest.approx(table["nll"].filter(table["role"] == "ability").mean())
    assert target_value(table).signed == pytest.approx(margins.mean()), "ability items do not enter the target"


def test_the_organism_that_a_model_lies_in_is_found(tmp_path: Path) -> None:
    folder = write_items(tmp_path / "org")
    tiny_model("bert").save(folder / "model")
    benchmark = resolve("organism:bias")
    with pytest.raises(UsageError, match="needs its folder"):
        benchmark.items("masked", "test")
    benchmark.check(load(folder / "model"))
    assert len(benchmark.items("masked", "test")) == 3


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not lie in an organism's folder"):
        resolve("organism").check(tiny_model("bert"))
    with pytest.raises(DataError, match="holds no organism"):
        organism(tmp_path).items("causal", "test")
    (tmp_path / ITEMS_FILE).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        organism(tmp_path).items("causal", "test")
    with pytest.raises(UsageError, match="is for masked models"):
        organism(tmp_path, protocol="changed").check(tiny_model("llama"))
