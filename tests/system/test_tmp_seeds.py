"""Ctrl-C and kill -9 at any moment: nothing is lost, and the same command goes on and ends in the same tables."""

import random
import shutil
import signal
import time

import polars as pl
import pytest

from fairforget.edits import WeightEdit

SETTINGS = (
    "--set", "method.steps=40", "--set", "method.batch_size=2", "--set", "resamples=500", "--set", "search.bisections=2",
    "--set", "method.learning_rate=0.3", "--set", "method.targets=all-linear", "--budget", "perplexity=900%",
)
STAGES = ("Loading", "1/6", "2/6", "3/6", "4/6", "5/6", "6/6")


@pytest.fixture(scope="module")
def whole(commands, models, tmp_path_factory):
    """Arguments of a run, and the folder where it went through undisturbed, with scores of its own."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(models / "llama", cwd / "llama")
    arguments = ("debias", cwd / "llama", *SETTINGS, "--out")
    command = commands.run(*arguments, "run", cwd=cwd, environment={"FAIRFORGET_CACHE": str(cwd / "cache")})
    assert command.code == 0, command.stderr
    return arguments, cwd / "run"


def same_tables(first, second):
    names = sorted(path.name for path in (first / "tables").glob("*.parquet"))
    assert len(names) >= 7
    assert names == sorted(path.name for path in (second / "tables").glob("*.parquet"))
    for name in names:
        assert pl.read_parquet(first / "tables" / name).equals(pl.read_parquet(second / "tables" / name)), name
    for path in ("model/model.safetensors", "tables/verdict.json", "recipe.yaml"):
        assert (first / path).read_bytes() == (second / path).read_bytes(), path
    # the file of an edit also says how many seconds the training took
    assert WeightEdit.load(first / "edit").state_fragment() == WeightEdit.load(second / "edit").state_fragment()


def nothing_left_over(run):
    assert {path.name for path in run.iterdir()} == {".lock", "edit", "model", "recipe.yaml", "report.html", "run.json", "tables"}
    assert not list(run.parent.rglob(".*.part"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_random_moments_it_ends_in_the_same_tables(commands, whole, tmp_path, seed):
    arguments, undisturbed = whole
    draw = random.Random(seed)
    cache = {"FAIRFORGET_CACHE": str(tmp_path / "cache")}
    stages = sorted([*draw.choices(STAGES, k=4), "2/6", "6/6"], key=STAGES.index)
    kills = 0
    for stage in stages:
        command = commands.start(*arguments, "run", cwd=tmp_path, environment=cache)
        if command.wait_for(stage):
            time.sleep(draw.uniform(0, 0.5))
        command.signal(signal.SIGKILL)
        kills += command.wait() == -signal.SIGKILL
        if stage == "2/6":  # as if the kill had come while a checkpoint was being written
            half = tmp_path / "run" / "work" / "training" / "checkpoint-39"
            half.mkdir(parents=True, exist_ok=True)
            (half / "trainable.safetensors").write_bytes(b"half")
    assert kills >= 4
    last = commands.run(*arguments, "run", cwd=tmp_path, environment=cache)
    assert last.code == 0, last.stderr
    same_tables(undisturbed, tmp_path / "run")
    nothing_left_over(tmp_path / "run")


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(commands, whole, tmp_path):
    arguments, undisturbed = whole
    cache = {"FAIRFORGET_CACHE": str(tmp_path / "cache")}
    for stage in ("1/6", "2/6", "3/6"):
        command = commands.start(*arguments, "run", cwd=tmp_path, environment=cache)
        assert command.wait_for(stage)
        time.sleep(0.1)
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.stderr
        assert "Traceback" not in command.stderr
        assert command.stderr.strip().splitlines()[-1] == "Interrupted. Finished work is kept: the same command goes on where it stopped."
    last = commands.run(*arguments, "run", cwd=tmp_path, environment=cache)
    assert last.code == 0, last.stderr
    same_tables(undisturbed, tmp_path / "run")


def test_a_kill_between_the_record_and_the_page(commands, whole, tmp_path):
    arguments, undisturbed = whole
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "model" / "README.md").unlink()
    (tmp_path / "run" / "work").mkdir()
    (tmp_path / "run" / ".report.html.abc.part").write_text("half")
    command = commands.run(*arguments, "run", cwd=tmp_path)
    assert command.code == 0, command.stderr
    same_tables(undisturbed, tmp_path / "run")
    nothing_left_over(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text() == (undisturbed / "report.html").read_text()
    assert (tmp_path / "run" / "model" / "README.md").read_text() == (undisturbed / "model" / "README.md").read_text()


def test_a_kill_before_anything_was_written(commands, whole, tmp_path):
    arguments, _ = whole
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.abc.part").write_text("half")
    command = commands.start(*arguments, "run", cwd=tmp_path)
    assert command.wait_for("Loading"), command.stderr
    command.signal(signal.SIGKILL)
    command.wait()
    assert not (tmp_path / "run" / ".recipe.yaml.abc.part").exists()
