"""The account of the texts behind a run: which texts, and their likelihood before and after an edit against a loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from tiny import tiny_model

from fairforget import debias
from fairforget.benchmarks import resolve
from fairforget.benchmarks._base import Item
from fairforget.data.training import TrainingText
from fairforget.edits import Dense, EditRecord, WeightEdit
from fairforget.errors import UsageError
from fairforget.workflows.text_account import COUNTERPARTS, LONGEST, PLACES, STEREOTYPES, account_for_texts, text_sets

TARGET = resolve("starter")
PAIRS = [
    TrainingText(f"the nurse said she is late on day {n}", ("gender",), str(n // 2), f"the nurse said he is late on day {n}")
    for n in range(30)
]


NEUTRAL = [*(f"Rain fell on house {n}." for n in range(12)), "word " * (LONGEST + 1)]


def sets(most: int = 8, family: str = "causal", **changes):
    return text_sets(**{"trained": PAIRS, "target": TARGET, "family": family, "neutral": NEUTRAL, "most": most, **changes})


def test_counterparts_are_those_of_the_texts_that_are_looked_at() -> None:
    found = sets()
    pairs = [name for both in zip(STEREOTYPES, COUNTERPARTS, strict=True) for name in both]
    assert list(found) == [*pairs, "neutral", "neutral, naming a group"]
    assert all(len(texts) == 8 for texts in found.values())
    for texts, others in zip(STEREOTYPES, COUNTERPARTS, strict=True):
        assert [cluster for _, cluster in found[texts]] == [cluster for _, cluster in found[others]]
    assert [text.replace("she", "he") for text, _ in found[STEREOTYPES[0]]] == [text for text, _ in found[COUNTERPARTS[0]]]
    reported = {item.texts[0] for item in TARGET.measured_items("causal", "test")}
    assert {text for text, _ in found[STEREOTYPES[1]]} <= reported
    assert sets() == found, "the choice is a function of the texts"
    assert {text for text, _ in found[STEREOTYPES[0]]} < {text for text, _ in sets(most=16)[STEREOTYPES[0]]}


def test_long_texts_and_small_sets_are_left_out() -> None:
    assert {text for text, _ in sets(most=50)["neutral"]} == set(NEUTRAL[:12])
    assert "neutral" not in sets(neutral=NEUTRAL[:4])
    assert COUNTERPARTS[0] not in sets(trained=[pair.text for pair in PAIRS])


def test_options_are_no_texts_without_their_question() -> None:
    item = Item("1", "bbq-ambig", "bias", "test", "c", "Age", (), ("The grandfather", "The grandson"), payload={"context": "I saw them."})
    assert resolve("bbq").sentences(item) is None
    texts = ("One.", "Two.", "Three.")
    story = Item("1", "stereoset-intersentence", "bias", "test", "c", "race", (), texts, payload={"context": "Before."})
    assert resolve("stereoset").sentences(story) == ("Before. One.", "Before. Two.")
    plain = Item("1", "crows-pairs", "bias", "test", "c", "race", (), ("One.", "Two."))
    assert resolve("crows-pairs").sentences(plain) == ("One.", "Two.")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_likelihoods_equal_a_loop(kind: str) -> None:
    model = tiny_model(kind)
    family = "causal" if kind == "llama" else "masked"
    chosen = {name: texts for name, texts in sets(most=5, family=family).items() if name in (STEREOTYPES[0], "neutral")}
    name = "model.layers.0.mlp.up_proj.weight" if kind == "llama" else "bert.encoder.layer.0.intermediate.dense.weight"
    change = torch.randn(model.hf.get_parameter(name).shape, generator=torch.Generator().manual_seed(0))
    edit = WeightEdit({name: Dense(change)}, EditRecord.for_model(model, "test"))
    account = account_for_texts(model, edit, chosen, forgets=True, resamples=200)
    overall = account.metrics.filter(pl.col("group") == "all")
    for task, texts in chosen.items():
        before = by_hand(model, [text for text, _ in texts])
        with edit.applied(model):
            after = by_hand(model, [text for text, _ in texts])
        values = dict(overall.filter(pl.col("task") == task).select("state", "value").iter_rows())
        assert values == pytest.approx({"base": before, "edited": after, "difference": after - before}, abs=1e-4)
    assert dict(overall.group_by("task").agg(pl.col("better").first()).iter_rows()) == {STEREOTYPES[0]: "higher", "neutral": "lower"}
    plain = account_for_texts(model, edit, chosen, resamples=200).metrics.filter(pl.col("task") == STEREOTYPES[0])
    assert set(plain["better"]) == {""}, "a method that does not forget its texts is not judged by them"
    assert list(account.memorisation) == ["accuracy"]
    assert all(0 <= value <= 1 for value in account.memorisation["accuracy"])


def by_hand(model, texts: list[str]) -> float:
    """Mean negative log-likelihood: of every token, or of at most PLACES masked ones a text, evenly spread."""
    total = count = 0.0
    for text in texts:
        ids = model.sequence_ids(text)
        if model.family == "causal":
            logits = model.hf(torch.tensor([[*model.prefix, *ids]])).logits[0].log_softmax(-1)
            total -= sum(float(logits[place, token]) for place, token in enumerate(ids, start=len(model.prefix) - 1))
            count += len(ids)
            continue
        inner = range(1, len(ids) - 1)
        step = max(len(inner) / PLACES, 1)
        for place in [inner[int(number * step)] for number in range(min(PLACES, len(inner)))]:
            masked = torch.tensor([[*ids[:place], model.mask_id, *ids[place + 1 :]]])
            total -= float(model.hf(masked).logits[0, place].log_softmax(-1)[ids[place]])
            count += 1
    return total / count


def test_a_run_writes_the_account_and_its_page_tells_it(tmp_path: Path, own_cache) -> None:
    choices = {
        "method": {"name": "gap", "steps": 2, "batch_size": 4}, "benchmarks": [{"name": "starter", "settings": {"limit": 4}}], "budget": {},
        "search": {"strength": 1.0}, "resamples": 200, "account": {"texts": 6, "extraction": True},
    }
    result = debias(tiny_model("llama"), out=tmp_path / "run", **choices)
    record = json.loads((result.folder / "run.json").read_text())
    assert set(record["memorisation"]) == {"accuracy", "extraction"}
    table = pl.read_parquet(result.folder / "tables" / "texts.parquet")
    assert set(STEREOTYPES) <= set(table["task"])
    assert not any(math.isnan(value) for value in table["value"])
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert 'id="texts"' in page
    assert "memorisation accuracy" in page
    assert 'id="weights"' in page
    path = result.folder / "recipe.yaml"
    older = yaml.safe_load(path.read_text(encoding="utf-8"))
    older["account"] = choices["account"]
    del older["guard"]
    path.write_text(yaml.safe_dump(older), encoding="utf-8")
    again = debias(tiny_model("llama"), out=result.folder, **choices)
    assert again.ledger.equals(result.ledger), "a field that an earlier version did not write is at its default"
    with pytest.raises(UsageError, match="of another recipe"):
        debias(tiny_model("llama"), out=result.folder, **{**choices, "seed": 1})
    none = debias(tiny_model("llama"), out=tmp_path / "none", **{**choices, "account": {"texts": 0}})
    assert not (none.folder / "tables" / "texts.parquet").exists()
    assert 'id="texts"' not in (none.folder / "report.html").read_text(encoding="utf-8")


def test_extraction_of_a_masked_model_is_left_out_with_a_sentence() -> None:
    model, said = tiny_model("bert"), []
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    edit = WeightEdit({name: Dense(torch.ones_like(model.hf.get_parameter(name)))}, EditRecord.for_model(model, "test"))
    chosen = {STEREOTYPES[0]: sets()[STEREOTYPES[0]]}
    account = account_for_texts(model, edit, chosen, extraction=True, resamples=200, say=said.append)
    assert list(account.memorisation) == ["accuracy"]
    assert "needs a causal model" in said[0]


def test_what_cannot_be_told_costs_no_run(tmp_path: Path, own_cache) -> None:
    choices = {
        "method": {"name": "cda", "steps": 2, "batch_size": 4, "retain_text": str(tmp_path / "missing.txt"), "ewc": 0.0},
        "train": {"source": "starter"}, "benchmarks": [{"name": "starter", "settings": {"limit": 4}}], "budget": {},
        "search": {"strength": 1.0}, "resamples": 200,
    }
    assert debias(tiny_model("llama"), out=tmp_path / "unused", **choices).strength == 1.0
    given = debias(tiny_model("llama"), out=tmp_path / "given", **choices).edit
    changed = {**choices, "method": {**choices["method"], "retain": "kl"}}
    said: list[str] = []
    debias(tiny_model("llama"), out=tmp_path / "used", edit=given, say=said.append, **changed)
    record = json.loads((tmp_path / "used" / "run.json").read_text(encoding="utf-8"))
    assert any("could not be told" in warning for warning in record["warnings"])
    assert any("could not be told" in words for words in said)
