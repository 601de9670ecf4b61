"""The verb `chain`: a dry run, a whole run told in the terminal, and wrong inputs with their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chain_tasks import write_task
from tiny import tiny_model

from fairforget.cli import main


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    tiny_model("gpt2").save(folder / "model")
    values = {
        "model": str(folder / "model"),
        "tasks": {"a": write_task(folder, "a", lambda _: 0), "b": write_task(folder, "b", lambda _: 1)},
        "tuning": {"tuning": "full", "learning_rate": 3e-3, "batch_size": 20, "precision": "float32", "steps": 4},
        "paths": [["a", "b"], ["b", "a"]],
        "resamples": 200,
    }
    path = folder / "chain.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_dry_run_lists_the_states_and_a_run_tells_what_was_forgotten(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert main(["chain", str(recipe), "--out", str(out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "4 states" in printed and printed.count("to do") == 4 and not out.exists()
    assert main(["chain", str(recipe), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "chain.html" in printed and "nats an item" in printed
    # all of a is lost, so there is no interval; b was right after both, by the one answer that the model gives to everything
    assert "1 of 2 next stages forgot shares of what was taught before that are beyond chance; 1 seed." in printed
    assert main(["chain", str(recipe), "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("finished") == 4
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(json.loads(recipe.read_text(encoding="utf-8")) | {"resamples": 300}), encoding="utf-8")
    assert main(["chain", str(other), "--out", str(out)]) == 2
    assert "another" in capsys.readouterr().err
    assert main(["chain", str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "words"), [
    ({"paths": [["a", "c"]]}, "there is no task 'c'"), ({"probe": {"vector": 3}}, "'vector'"), ({"seeds": []}, "at least one value"),
    ({"tuning": {"learning_rat": 1.0}}, "learning_rat"),
])
def test_a_wrong_recipe_gets_a_sentence(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, words: str):
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(json.loads(recipe.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert main(["chain", str(path), "--out", str(tmp_path / "out")]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
