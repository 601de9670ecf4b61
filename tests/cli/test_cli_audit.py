"""The verb `audit`: fields of benchmarks by --set, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_model

from fairforget.cli import main
from fairforget.errors import UsageError
from fairforget.workflows.recipe import choices_with_settings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "gpt2"
    tiny_model("gpt2").save(folder)
    return folder


def test_fields_of_benchmarks_are_set(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    options = ["--benchmarks", "starter:mean,perplexity:starter", "--set", "starter.limit=6", "--set", "perplexity:starter.positions=40"]
    assert main(["audit", str(model), *options, "--resamples", "200", "--out", str(out)]) == 0
    capsys.readouterr()
    settings = {entry["name"]: entry["settings"] for entry in json.loads((out / "run.json").read_text(encoding="utf-8"))["benchmarks"]}
    assert (settings["starter"]["limit"], settings["starter"]["protocol"]) == (6, "mean")
    assert settings["perplexity"]["positions"] == 40


@pytest.mark.parametrize(("setting", "words"), [
    ("bbq.category=Age", "'bbq' is not among the benchmarks"), ("limit=3", "write it as benchmark.field=value"),
    ("starter.limits=3", "limits"), ("starter.limit=none", "limit"),
])
def test_a_wrong_setting_gets_a_sentence(model: Path, setting: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["audit", str(model), "--set", setting]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_values_are_read_as_yaml_and_names_may_hold_dots():
    choices = choices_with_settings(["./mine.yaml", "bbq:paper"], ["./mine.yaml.limit=3", "bbq.category=Age", "bbq.share=0.1"])
    assert [(choice.name, choice.settings) for choice in choices] == [
        ("./mine.yaml", {"limit": 3}), ("bbq:paper", {"category": "Age", "share": 0.1}),
    ]
    with pytest.raises(UsageError, match="name it beside the suite"):
        choices_with_settings(["standard"], ["bbq.share=0.1"])
