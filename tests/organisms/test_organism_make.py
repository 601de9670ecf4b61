"""Making an organism: a whole folder, the same from the same recipe, also after a kill; and what it is good for."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from fairforget.benchmarks import resolve
from fairforget.cli import main
from fairforget.cli.debias import resolve as resolve_recipe
from fairforget.cli.loading import Loading
from fairforget.data.training import training_source
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import sha256_file
from fairforget.models import load
from fairforget.organisms import make_organism, make_organisms, read_organism_recipe
from fairforget.organisms.many import _make, variants
from fairforget.organisms.rows import CorpusStream
from fairforget.scoring import Scorer
from fairforget.workflows.validate import validate_recipe

SMALL = ["sentences=1000", "steps=24", "batch_size=20", "domains={gender: {strength: 0.9}, faith: {strength: 0.5}}", "forget_texts=16"]
FILES = {
    "truth.parquet", "items.parquet", "calibration.parquet", "forget.jsonl", "retain.txt", "text.txt", "debias.yaml", "study.yaml",
    "words.json", "lexicon.txt", "targets.txt", "prompts.txt", "README.md", "organism.yaml", "organism.json", "model", "forget",
}


def made(folder: Path, family: str = "causal", *more: str):
    return make_organism(read_organism_recipe("default", [*SMALL, f"family={family}", *more]), folder)


@pytest.fixture(scope="module", params=["causal", "masked"])
def organism(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("organism") / request.param, request.param)


def test_the_folder_is_whole(organism) -> None:
    assert {path.name for path in organism.folder.iterdir() if path.name != ".lock"} == FILES
    record = json.loads((organism.folder / "organism.json").read_text())
    assert record["corpus"]["sentences"] == 1000
    assert all(sha256_file(organism.folder / name) == digest for name, digest in record["files"].items())
    assert {"model/model.safetensors", "truth.parquet", "forget/faith.jsonl"} <= set(record["files"])
    assert set(organism.calibration["domain"]) == {"gender", "faith", "facts"}
    assert record["not_taken_up"] == ["gender"], "a thousand sentences teach nothing, and the record says so"


def test_the_model_loads_and_knows_its_words(organism) -> None:
    model = load(organism.folder / "model")
    assert model.family == organism.record["recipe"]["family"]
    assert model.base_hash == organism.record["base_hash"]
    assert 400_000 < model.parameter_count < 600_000
    assert model.prefix_id == (2 if model.family == "causal" else None)
    unknown = model.tokenizer.unk_token_id
    for name in ("retain.txt", "text.txt"):
        assert unknown not in model.token_ids((organism.folder / name).read_text())
    assert model.tokenizer.decode(model.token_ids("The nurse said that she was tired.")) == "the nurse said that she was tired ."


def test_the_recipe_in_the_folder_is_ready(organism) -> None:
    found = validate_recipe(organism.folder / "debias.yaml")
    assert found.problems == ()
    assert found.recipe.target == "organism:margin"
    train = found.recipe.train
    texts = training_source(train.source, columns=train.columns).texts
    assert len(texts) == 16
    assert {text.groups for text in texts} == {("women",), ("men",)}
    assert all(text.counterpart and text.cluster.startswith("gender | gender") for text in texts)


def test_another_method_takes_the_recipe_without_the_first_ones_settings(organism) -> None:
    recipe = resolve_recipe(organism.folder / "debias.yaml", ["method.steps=7"], {"method": "gap"}, Loading())
    assert (recipe.method.name, recipe.method.settings["steps"]) == ("gap", 7)
    assert "contrast" not in recipe.method.settings
    same = resolve_recipe(organism.folder / "debias.yaml", [], {"method": "task-vector"}, Loading())
    assert same.method.settings["tuning"] == "full"


def test_perplexity_is_measured_by_sentence(organism) -> None:
    recipe = validate_recipe(organism.folder / "debias.yaml").recipe
    choice = next(choice for choice in recipe.benchmarks if choice.name == "perplexity")
    benchmark, model = resolve(choice.name, choice.settings), load(organism.folder / "model")
    tables = [benchmark.measure(Scorer(model, store=False), part) for part in ("select", "test")]
    assert [table["cluster"].n_unique() for table in tables] == [20, 20]
    if model.family == "causal":
        sentences = [line for line in (organism.folder / "text.txt").read_text().splitlines() if line]
        assert sum(table.height for table in tables) == len(sentences)


def test_a_finished_organism_is_read_and_another_recipe_refused(organism, monkeypatch) -> None:
    monkeypatch.setattr("fairforget.organisms.make.make_corpus", None)
    again = made(organism.folder, organism.record["recipe"]["family"])
    assert again.record == organism.record
    with pytest.raises(UsageError, match="of another recipe"):
        made(organism.folder, organism.record["recipe"]["family"], "seed=9")


def test_a_killed_training_goes_on_to_the_same_model(organism, tmp_path, monkeypatch) -> None:
    family = organism.record["recipe"]["family"]
    example, asked = CorpusStream.example, []

    def killed(stream, index, visit):
        asked.append(index)
        if len(asked) == 20 * 20:
            raise KeyboardInterrupt
        return example(stream, index, visit)

    monkeypatch.setattr(CorpusStream, "example", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "org", family)
    assert list((tmp_path / "org" / "training").glob("*/checkpoint-*"))
    monkeypatch.undo()
    again = made(tmp_path / "org", family)
    assert again.record["base_hash"] == organism.record["base_hash"]
    assert not (tmp_path / "org" / "training").exists()
    same = {name for name, digest in again.record["files"].items() if organism.record["files"][name] == digest}
    assert {"model/model.safetensors", "truth.parquet", "forget.jsonl", "calibration.parquet"} <= same


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        made(tmp_path)


def test_the_command_prints_the_calibration_and_where_things_are(tmp_path, capsys) -> None:
    arguments = [part for setting in SMALL for part in ("--set", setting)]
    assert main(["organism", "make", "--out", str(tmp_path / "org"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "Planted and recovered log-odds" in printed
    assert "not taken up as planted: gender" in printed
    assert str(tmp_path / "org" / "debias.yaml") in printed
    assert main(["organism", "make", "nul", "--out", str(tmp_path / "other")]) == 2
    assert "did you mean null" in capsys.readouterr().err
    assert main(["organism", "make", "--jobs", "2", "--out", str(tmp_path / "other")]) == 2


@pytest.mark.slow
def test_many_are_made_side_by_side(tmp_path, capsys) -> None:
    arguments = [part for setting in SMALL for part in ("--set", setting)]
    assert main(["organism", "make", "--out", str(tmp_path), "--seeds", "0-1", "--families", "causal", "--jobs", "2", *arguments]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"causal-0", "causal-1"}
    assert "causal-1" in capsys.readouterr().out
    (tmp_path / "causal-2").mkdir()
    (tmp_path / "causal-2" / "thesis.txt").write_text("mine")
    recipes = variants(read_organism_recipe("default", SMALL), ["causal"], [1, 2])
    with pytest.raises(FairforgetError, match=r"1 of 2 organisms could not be made; causal-2: .* holds other files"):
        make_organisms(recipes, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["causal", "masked"])
def test_what_was_planted_comes_back(family: str, tmp_path) -> None:
    found = make_organism(read_organism_recipe("default", [f"family={family}", "seed=5"]), tmp_path / family)
    assert found.record["not_taken_up"] == []
    seen = pl.DataFrame(found.record["calibration"]).filter(pl.col("task") == "bias")
    assert seen["error"].abs().max() < 0.15
    assert found.record["ability"]["accuracy, agreement"] > 0.95


def test_a_failure_among_many_is_told(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds other files" in str(_make(read_organism_recipe("default", SMALL), tmp_path))
