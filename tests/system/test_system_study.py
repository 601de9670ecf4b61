"""kill -9 of a study at any moment: the same command goes on and ends in the same table."""

import shutil
import signal
import time
from pathlib import Path

import polars as pl
import pytest

STUDY = """
base:
  model: ./llama
  method: {name: task-vector, batch_size: 4, learning_rate: 0.3, targets: all-linear, contrast: false}
  budget: {perplexity: 900%}
  search: {bisections: 1, points: 3}
  resamples: 200
axes:
  length:
    - {name: short, method: {steps: 4}}
    - {name: long, method: {steps: 12}}
"""


def prepared(models, folder):
    folder.mkdir(exist_ok=True)
    shutil.copytree(models / "llama", folder / "llama")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return {"FAIRFORGET_CACHE": str(folder / "cache")}


@pytest.fixture(scope="module")
def undisturbed(commands, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    command = commands.run("study", "study.yaml", "--out", "out", cwd=folder, environment=prepared(models, folder))
    assert command.code == 0, command.stderr
    return folder / "out"


def same_tables(first, second):
    for name in ("study", "frontier"):
        ours, theirs = (pl.read_parquet(folder / "tables" / f"{name}.parquet") for folder in (first, second))
        assert ours.drop("seconds", strict=False).equals(theirs.drop("seconds", strict=False)), name
    assert (first / "tables" / "verdict.json").read_bytes() == (second / "tables" / "verdict.json").read_bytes()


def test_killed_in_the_middle_it_ends_in_the_same_table(commands, models, undisturbed, tmp_path):
    environment = prepared(models, tmp_path)
    arguments = ("study", "study.yaml", "--out", "out")
    for moment in ("measuring the bases", "running cells", "[1/2]"):
        command = commands.start(*arguments, cwd=tmp_path, environment=environment)
        assert command.wait_for(moment), command.stderr
        time.sleep(0.3)
        command.signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    last = commands.run(*arguments, cwd=tmp_path, environment=environment)
    assert last.code == 0, last.stderr
    assert "2 cells: 1 finished, 1 to do" in last.stderr
    same_tables(undisturbed, tmp_path / "out")
    dry = commands.run(*arguments, "--dry-run", cwd=tmp_path, environment=environment)
    assert dry.stdout.count("finished") == 2


def children(parent):
    """Processes that a process began, by Linux's own account."""
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_workers_end_with_the_process_that_began_them(commands, models, undisturbed, tmp_path):
    environment = prepared(models, tmp_path)
    arguments = ("study", "study.yaml", "--out", "out", "--processes", "2")
    command = commands.start(*arguments, cwd=tmp_path, environment=environment)
    assert command.wait_for("running cells"), command.stderr
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "logs").glob("short*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = children(command.pid)
    assert len(workers) >= 2
    command.signal(signal.SIGKILL)
    command.wait()
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    last = commands.run(*arguments, cwd=tmp_path, environment=environment)
    assert last.code == 0, last.stderr
    same_tables(undisturbed, tmp_path / "out")
