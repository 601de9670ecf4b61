"""Every method from a recipe file, by the command line, on a tiny causal and a tiny masked model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from tiny import tiny_model

from fairforget.cli import main
from fairforget.edits import load_edit
from fairforget.methods import method_registry

ROWS = [
    ("the nurse said she is late", "the nurse said he is late", "a nurse spoke"),
    ("the doctor said he is old", "the doctor said she is old", "a doctor spoke"),
    ("the teacher has her book at home", "the teacher has his book at home", "a book is at home"),
    ("in the city a man works and he is good", "in the city a woman works and she is good", "a man works"),
    ("the engineer has his house by the river", "the engineer has her house by the river", "a house is there"),
    ("a woman has her dog in the house", "a man has his dog in the house", "a dog is there"),
] * 4
NEUTRAL = ["In the city a nurse works by day.", "By the river an engineer has a house.", "At home the teacher has a good friend.",
           "For the people the doctor works at home."] * 3
WANTED: dict[str, dict[str, Any]] = {
    "mlm-unlearning": {"finder": "lexicon", "lexicon": "words.txt"},
    "auto-debias": {"prompts": "prompts.txt"},
    "inlp": {"words": ["gender"], "iterations": 2},
    "sentence-debias": {"words": ["gender"]},
    "self-debias": {"domains": ["gender"]},
    "pcgu": {"updates": 2, "batch_size": 4},
    "composition": {"terms": [{"method": "gap"}, {"method": "anti", "weight": 0.5}]},
}
"""What a method needs beside steps and a batch size."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("methods")
    tiny_model("llama").save(made / "causal")
    tiny_model("bert").save(made / "masked")
    rows = [
        {"text": f"in the big city by the river {text}", "counterpart": f"in the big city by the river {other}", "partner": partner,
         "prompt": "who is it ?", "group": "gender", "cluster": str(number % 6)}
        for number, (text, other, partner) in enumerate(ROWS)
    ]
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, lines in {"neutral": NEUTRAL, "words": ["nurse", "doctor"], "prompts": ["works as a", "is good at"]}.items():
        (made / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


def recipe(folder: Path, family: str, name: str) -> dict[str, Any]:
    """A recipe of two steps; texts that a method retains or stays neutral on are the module's own."""
    fields = method_registry().get(name).settings_class.model_fields
    small: dict[str, Any] = {"steps": 2, "batch_size": 4, "retain_text": "neutral.txt", "neutral_text": "neutral.txt"}
    settings = {field: value for field, value in small.items() if field in fields} | WANTED.get(name, {})
    settings |= {field: str(folder / value) for field, value in settings.items() if isinstance(value, str) and value.endswith(".txt")}
    roles = ("text", "prompt", "group", "cluster") if name == "answer-tuning" else ("text", "counterpart", "partner", "group", "cluster")
    return {
        "model": str(folder / family), "method": {"name": name, **settings},
        "train": {"source": str(folder / "pairs.jsonl"), "columns": {role: role for role in roles}},
        "benchmarks": [{"name": "starter", "settings": {"limit": 2}}], "budget": {}, "search": {"strength": 0.5}, "resamples": 200,
        "account": {"texts": 0},
    }


CASES = [
    # Every method on one family each time, in turns; on the other one with `make test-all`.
    pytest.param(name, family, marks=() if (place + number) % 2 == 0 else pytest.mark.slow)
    for place, name in enumerate(sorted(method_registry().names())) for number, family in enumerate(("causal", "masked"))
]


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_recipe_of_every_method_runs(name: str, family: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder, family, name)), encoding="utf-8")
    code = main(["debias", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert code == 0, said.err
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["method"]["name"] == name
    edit = load_edit(tmp_path / "run" / "edit")
    assert edit.record.method == name
    assert edit.record.family == family
    ledger = pl.read_parquet(tmp_path / "run" / "tables" / "ledger.parquet")
    assert ledger["benchmark"].unique().to_list() == ["starter"]
