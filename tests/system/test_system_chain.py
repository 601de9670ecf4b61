"""kill -9 of a chain at any stage: the same command goes on and ends in the same ledger and tables."""

import json
import shutil
import signal
import time

import polars as pl
from chain_tasks import write_task

MOMENTS = ("auditing base", "training on", "auditing seed 0: a", "a > b", "learning a again", "Intervals")


def prepared(models, folder):
    folder.mkdir(exist_ok=True)
    shutil.copytree(models / "llama", folder / "llama")
    values = {
        "model": "./llama",
        "tasks": {"a": write_task(folder, "a", lambda _: 0), "b": write_task(folder, "b", lambda _: 1)},
        "tuning": {"tuning": "full", "learning_rate": 3e-3, "batch_size": 20, "precision": "float32", "steps": 12},
        "paths": [["a", "b"]], "strengths": [0.5], "benchmarks": [{"name": "starter", "settings": {"limit": 12}}], "curvature": True,
        "probe": {"vectors": 3, "probes": 0}, "probe_rows": 6, "relearn": {"task": "a", "steps": [2]}, "resamples": 200,
    }
    (folder / "chain.yaml").write_text(json.dumps(values).replace(f"{folder}/", ""), encoding="utf-8")
    return {"FAIRFORGET_CACHE": str(folder / "cache")}


def test_killed_at_any_stage_it_ends_in_the_same_ledger(commands, models, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ("chain", "chain.yaml", "--out", "out")
    command = commands.run(*arguments, cwd=whole, environment=prepared(models, whole))
    assert command.code == 0, command.stderr
    environment = prepared(models, broken)
    for moment in MOMENTS:
        command = commands.start(*arguments, cwd=broken, environment=environment)
        if not command.wait_for(moment):  # a step that was over sooner than this line was seen
            continue
        time.sleep(0.2)
        command.signal(signal.SIGKILL)
        assert command.wait() in (-signal.SIGKILL, 0)
    last = commands.run(*arguments, cwd=broken, environment=environment)
    assert last.code == 0, last.stderr
    for name in ("ledger", "forgetting", "strengths", "curvature", "relearning", "changes"):
        ours, theirs = (pl.read_parquet(folder / "out" / "tables" / f"{name}.parquet") for folder in (whole, broken))
        assert ours.equals(theirs), name
    assert (whole / "out" / "tables" / "verdict.json").read_bytes() == (broken / "out" / "tables" / "verdict.json").read_bytes()
