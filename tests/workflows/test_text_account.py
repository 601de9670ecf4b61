"""The account of the texts behind a run: which texts, and their likelihood before and after an edit against a loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget import debias
from fairforget.benchmarks import resolve
from fairforget.data.training import TrainingText
from fairforget.edits import Dense, EditRecord, WeightEdit
from fairforget.workflows import text_account
from fairforget.workflows.text_account import LONGEST, PLACES, account_for_texts, text_sets

TARGET = resolve("starter")
PAIRS = [
    TrainingText(f"the nurse said she is late on day {n}", ("gender",), str(n // 2), f"the nurse said he is late on day {n}")
    for n in range(30)
]


def sets(most: int = 8, family: str = "causal", **changes):
    return text_sets(**{"trained": PAIRS, "target": TARGET, "family": family, "retain": None, "most": most, "seed": 0, **changes})


def test_counterparts_are_those_of_the_texts_that_are_looked_at() -> None:
    found = sets()
    assert list(found) == ["trained on", "counterparts of trained on", "held out", "counterparts of held out", "neutral"]
    assert all(len(texts) == 8 for texts in found.values())
    for texts, others in (("trained on", "counterparts of trained on"), ("held out", "counterparts of held out")):
        assert [cluster for _, cluster in found[texts]] == [cluster for _, cluster in found[others]]
    assert [text.replace("she", "he") for text, _ in found["trained on"]] == [text for text, _ in found["counterparts of trained on"]]
    reported = {item.texts[0] for item in TARGET.measured_items("causal", "test")}
    assert {text for text, _ in found["held out"]} <= reported
    assert sets() == found, "the choice is a function of the texts"
    assert {text for text, _ in found["trained on"]} < {text for text, _ in sets(most=16)["trained on"]}


def test_neutral_text_that_names_a_group_is_told_apart_and_long_texts_are_left_out(tmp_path: Path) -> None:
    lines = [*(f"A woman walked past house {n}." for n in range(6)), *(f"Rain fell on house {n}." for n in range(6))]
    lines.append("word " * (LONGEST + 1))
    (tmp_path / "neutral.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = sets(most=50, retain=str(tmp_path / "neutral.txt"))
    assert {text for text, _ in found["neutral, naming a group"]} == set(lines[:6])
    assert {text for text, _ in found["neutral"]} == set(lines[:12])
    assert "neutral" not in sets(retain="own")
    assert "counterparts of trained on" not in sets(trained=[pair.text for pair in PAIRS])


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_likelihoods_equal_a_loop(kind: str) -> None:
    model = tiny_model(kind)
    family = "causal" if kind == "llama" else "masked"
    chosen = {name: texts for name, texts in sets(most=5, family=family).items() if name in ("trained on", "neutral")}
    name = "model.layers.0.mlp.up_proj.weight" if kind == "llama" else "bert.encoder.layer.0.intermediate.dense.weight"
    change = torch.randn(model.hf.get_parameter(name).shape, generator=torch.Generator().manual_seed(0))
    edit = WeightEdit({name: Dense(change)}, EditRecord.for_model(model, "test"))
    account = account_for_texts(model, edit, chosen, resamples=200)
    overall = account.metrics.filter(pl.col("group") == "all")
    for task, texts in chosen.items():
        before = by_hand(model, [text for text, _ in texts])
        with edit.applied(model):
            after = by_hand(model, [text for text, _ in texts])
        values = dict(overall.filter(pl.col("task") == task).select("state", "value").iter_rows())
        assert values == pytest.approx({"base": before, "edited": after, "difference": after - before}, abs=1e-4)
    assert dict(overall.group_by("task").agg(pl.col("better").first()).iter_rows()) == {"trained on": "higher", "neutral": "lower"}
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
    assert {"trained on", "held out"} <= set(table["task"])
    assert not any(math.isnan(value) for value in table["value"])
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert 'id="texts"' in page
    assert "memorisation accuracy" in page
    assert 'id="weights"' in page
    none = debias(tiny_model("llama"), out=tmp_path / "none", **{**choices, "account": {"texts": 0}})
    assert not (none.folder / "tables" / "texts.parquet").exists()
    assert 'id="texts"' not in (none.folder / "report.html").read_text(encoding="utf-8")


def test_extraction_of_a_masked_model_is_left_out_with_a_sentence() -> None:
    model, said = tiny_model("bert"), []
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    edit = WeightEdit({name: Dense(torch.ones_like(model.hf.get_parameter(name)))}, EditRecord.for_model(model, "test"))
    account = account_for_texts(model, edit, {"trained on": sets()["trained on"]}, extraction=True, resamples=200, say=said.append)
    assert list(account.memorisation) == ["accuracy"]
    assert "needs a causal model" in said[0]
    assert text_account.FORGOTTEN[0] == "trained on"
