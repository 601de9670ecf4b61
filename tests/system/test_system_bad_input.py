"""What a user can get wrong: one sentence, the right exit code, no traceback, nothing left behind."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny import tiny_model

from fairforget.files import folder_lock

SETTINGS = ("method.steps=2", "method.batch_size=4", "resamples=200", "search.points=2")
QUICK = ("--budget", "none", *(part for setting in SETTINGS for part in ("--set", setting)))


def refused(command, code, *words):
    """The command ended with this code and one sentence that holds these words."""
    assert command.code == code, command.stderr
    assert "Traceback" not in command.stderr
    sentence = command.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in sentence, sentence
    return sentence


@pytest.mark.parametrize(("arguments", "words"), [
    (("debias", "smolm2-135m"), ("There is no model named 'smolm2-135m'", "did you mean smollm2-135m?")),
    (("debias", "./nowhere"), ("no model folder", "nowhere")),
    (("debias", "--method", "task-vectr"), ("There is no method named", "did you mean task-vector?")),
    (("debias", "--benchmarks", "starter,crow-pairs"), ("There is no benchmark named 'crow-pairs'", "did you mean crows-pairs")),
    (("debias", "--benchmarks", "crows-pairs:meen"), ("no preset 'meen'", "did you mean mean")),
    (("debias", "--target", "stereoset:ss"), ("not among the benchmarks", "add stereoset")),
    (("debias", "--target", "starter:margn"), ("did you mean margin",)),
    (("debias", "--train", "stereoset2"), ("training source", "did you mean stereoset?")),
    (("debias", "--budget", "speed=2%"), ("perplexity=2%",)),
    (("debias", "--set", "method.learning_rat=1"), ("there is no field 'learning_rat'", "did you mean learning_rate")),
    (("debias", "--set", "method.tuning=halves"), ("'tuning' = 'halves'", "must be one of lora, full, ia3", "layers:N")),
    (("debias", "--set", "steps"), ("write it as field=value",)),
    (("debias", "--dtype", "float31"), ("There is no dtype 'float31'", "did you mean float32")),
    (("debias", "--seed", "-1"), ("--seed",)),
    (("debias", "--colour", "red"), ("No such option", "debias --help")),
    (("audit", "--benchmarks", "crow-pairs"), ("did you mean crows-pairs",)),
    (("audit", "--part", "tests"), ("did you mean test",)),
    (("audit", "--strength", "1"), ("--edit",)),
    (("show", "dataset", "crowspairs"), ("There is no dataset named", "did you mean crows-pairs")),
    (("show", "model", "smollm2"), ("did you mean smollm2-135m",)),
    (("data", "get", "edoss"), ("did you mean edos",)),
    (("list", "model"), ("models",)),
    (("compare", "a", "b"), ("holds no finished run",)),
    (("validate", "none.yaml"), ("cannot be read", "No such file")),
    (("nonsense",), ("No such command",)),
    (("cache", "prune", "--older-than", "soon"), ("30d",)),
])
def test_mistakes_in_what_was_typed(commands, tmp_path, arguments, words):
    refused(commands.run(*arguments, cwd=tmp_path), 2, *words)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (".lock", "recipe.yaml")]
    assert not left


RECIPES = {
    "field": (
        "model: ./llama\nmethod:\n  name: task-vector\n  learning_rat: 0.1\n", ("line 4", "'learning_rat'", "did you mean learning_rate"),
    ),
    "type": ("seed: 3\nmethod:\n  name: task-vector\n  rank: many\n", ("line 4", "'rank' = 'many'", "integer")),
    "range": ("method: {name: task-vector, dropout: 2}\n", ("line 1", "'dropout' = 2", "less than 1")),
    "top": ("seed: 0\n\nbenchmark: [starter]\n", ("line 3", "'benchmark'", "did you mean benchmarks")),
    "method": ("seed: 0\nmethod:\n  name: task-vectors\n", ("line 3", "did you mean task-vector")),
    "yaml": ("seed: 0\nmethod: [\n", ("line 3", "not YAML")),
    "list": ("- starter\n", ("must be a mapping",)),
}


@pytest.mark.parametrize("verb", ["validate", "debias"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_wrong_recipe_is_told_with_file_line_and_field(commands, tmp_path, name, verb):
    text, words = RECIPES[name]
    (tmp_path / "run.yaml").write_text(text)
    arguments = ("validate", "run.yaml") if verb == "validate" else ("debias", "--recipe", "run.yaml")
    refused(commands.run(*arguments, cwd=tmp_path), 2, "run.yaml", *words)


@pytest.mark.parametrize(("recipe", "words"), [
    ("studies/starter.yaml", "is a study, not the recipe of one run: `fairforget study"),
    ("studies/tradeoff-masked.yaml", "is a trade-off study"), ("chains/safety-capability.yaml", "is a chain"),
])
def test_the_recipe_of_another_command_is_named(commands, tmp_path, recipe, words):
    path = str(Path(__file__).resolve().parents[2] / "recipes" / recipe)
    refused(commands.run("validate", path, cwd=tmp_path), 2, words)
    refused(commands.run("debias", "--recipe", path, cwd=tmp_path), 2, words)


def test_validate_checks_names_target_and_data_and_tells_all(commands, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "benchmarks:\n  - starter\n  - name: crow-pairs\n  - name: perplexity\n    settings: {context: 1}\n"
        "target: stereoset:ss\ntrain: missing.csv\n"
    )
    command = commands.run("validate", "run.yaml", cwd=tmp_path)
    assert command.code == 2
    lines = command.stderr.strip().splitlines()
    assert len(lines) == 3
    expected = (("line 3", "benchmarks.1", "crows-pairs"), ("line 4", "benchmarks.2", "context"), ("line 7", "train", "missing.csv"))
    for line, words in zip(lines, expected, strict=True):
        assert all(word in line for word in words), line
    (tmp_path / "run.yaml").write_text("benchmarks: [starter]\ntarget: stereoset:ss\n")
    refused(commands.run("validate", "run.yaml", cwd=tmp_path), 2, "line 2", "target", "add stereoset")
    (tmp_path / "run.yaml").write_text("model: ./llama\nbenchmarks: [starter]\n")
    command = commands.run("validate", "run.yaml", cwd=tmp_path)
    assert command.code == 0, command.stderr
    assert "is valid" in command.stdout


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(commands, data_folder, tmp_path, recipe):
    command = commands.run("validate", recipe, cwd=tmp_path)
    assert command.code == 0, command.stderr


def test_a_model_that_is_not_on_this_machine(commands, tmp_path):
    refused(commands.run("audit", "nobody/no-such-model", cwd=tmp_path), 1, "nobody/no-such-model", "hub cannot be reached", "smollm2-135m")


@pytest.mark.parametrize("damage", ["cut", "noise", "config"])
def test_corrupt_weights(commands, models, tmp_path, damage):
    shutil.copytree(models / "llama", tmp_path / "llama")
    weights = tmp_path / "llama" / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "noise":
        weights.write_bytes(b"\xff" * 5000)
    else:
        (tmp_path / "llama" / "config.json").write_text("{")
    refused(commands.run("audit", "./llama", cwd=tmp_path), 1, "llama")


def test_an_encoder_decoder_is_refused(commands, tmp_path):
    (tmp_path / "t5").mkdir()
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    (tmp_path / "t5" / "config.json").write_text(json.dumps(config))
    refused(commands.run("debias", "./t5", cwd=tmp_path), 2, "encoder-decoder")


def test_a_masked_model_without_its_head_is_refused(commands, models, tmp_path):
    from transformers import BertForMaskedLM

    shutil.copytree(models / "bert", tmp_path / "bert")
    BertForMaskedLM.from_pretrained(tmp_path / "bert").bert.save_pretrained(tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    refused(commands.run("audit", "./bert", cwd=tmp_path), 2, "prediction head")


def without_token(folder, name):
    """Take a special token out of a saved tokenizer."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file
        if path.exists():
            values = json.loads(path.read_text())
            values.pop(name, None)
            path.write_text(json.dumps(values))


def test_a_tokenizer_without_a_mask_token(commands, models, tmp_path):
    shutil.copytree(models / "bert", tmp_path / "bert")
    without_token(tmp_path / "bert", "mask_token")
    refused(commands.run("audit", "./bert", cwd=tmp_path), 2, "no mask token")


def test_a_tokenizer_without_a_pad_token_scores_the_same(commands, models, tmp_path):
    import polars as pl

    shutil.copytree(models / "gpt2", tmp_path / "gpt2")
    without_token(tmp_path / "gpt2", "pad_token")
    cache = {"FAIRFORGET_CACHE": str(tmp_path / "cache")}
    margins = []
    for model in (models / "gpt2", "./gpt2"):
        out = f"out-{len(margins)}"
        command = commands.run("audit", model, "--resamples", "200", "--out", out, cwd=tmp_path, environment=cache)
        assert command.code == 0, command.stderr
        margins.append(pl.read_parquet(tmp_path / out / "tables" / "items-base-test.parquet")["margin"].to_list())
        shutil.rmtree(tmp_path / "cache")  # or the scores of the first would be taken for the second
    assert margins[0] == pytest.approx(margins[1], abs=1e-4)


def test_a_protocol_for_masked_models_on_a_causal_one(commands, models, tmp_path):
    refused(commands.run("audit", models / "llama", "--benchmarks", "crows-pairs:shared-pll", cwd=tmp_path), 2, "masked", "causal")


def test_a_masked_method_on_a_causal_model():
    from fairforget.errors import UsageError
    from fairforget.methods._base import Method
    from fairforget.settings import Settings

    class ForMasked(Method):
        name, families, settings_class = "for-masked", frozenset({"masked"}), Settings

        def fit(self, model, data, **options):
            raise AssertionError("never asked")

    with pytest.raises(UsageError, match="works on masked models; tiny-llama is causal"):
        ForMasked().check(tiny_model("llama"))


@pytest.mark.parametrize(("name", "text", "words"), [
    ("empty.csv", "", ("empty.csv",)), ("header.csv", "text\n", ("header.csv",)), ("column.csv", "sentence\na b c\n", ("text", "sentence")),
    ("blank.csv", "text\na b\n\" \"\n", ("row 2", "blank")),
])
def test_empty_and_wrong_training_data(commands, models, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    refused(commands.run("debias", models / "llama", "--train", name, *QUICK, cwd=tmp_path), 1, *words)


def test_training_text_that_is_tested_is_refused(commands, models, tmp_path):
    from fairforget.data.starter import load_starter

    tested = next(pair for pair in load_starter().pairs if pair.part == "test")
    (tmp_path / "own.csv").write_text(f'text\n"{tested.stereotype.upper()}"\nsomething else\n')
    command = commands.run("debias", models / "llama", "--train", "own.csv", *QUICK, cwd=tmp_path)
    refused(command, 2, "texts of the reported part of starter occur", "must not be trained on")


def test_an_output_folder_in_use(commands, models, tmp_path):
    with folder_lock(tmp_path / "out"):
        sentence = refused(commands.run("debias", models / "llama", *QUICK, "--out", "out", cwd=tmp_path), 1, "in use", "--out")
    assert "out" in sentence
    (tmp_path / "file").write_text("x")
    refused(commands.run("debias", models / "llama", *QUICK, "--out", "file", cwd=tmp_path), 2, "is a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    refused(commands.run("debias", models / "llama", *QUICK, "--out", "full", cwd=tmp_path), 2, "holds other files")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "x"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_space_for_the_run_and_it_goes_on_when_there_is(commands, models, tmp_path, small_disk):
    arguments = ("debias", models / "llama", *QUICK, "--out", small_disk / "run")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    refused(commands.run(*arguments, cwd=tmp_path), 1, "no space left")
    ballast.write_bytes(b"x" * 500_000)  # now there is room for tables, none for the page
    refused(commands.run(*arguments, cwd=tmp_path), 1, "no space left")
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    command = commands.run(*arguments, cwd=tmp_path)
    assert command.code == 0, command.stderr
    assert (small_disk / "run" / "report.html").is_file()


def test_no_space_for_scores(commands, models, tmp_path, small_disk):
    cache = {"FAIRFORGET_CACHE": str(small_disk)}
    (small_disk / "ballast").write_bytes(b"x" * 1_000_000)
    refused(commands.run("audit", models / "llama", cwd=tmp_path, environment=cache), 1, "no space left", "cache prune")
