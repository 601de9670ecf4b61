"""Every benchmark that needs no file of the user's, from the command line, on a tiny causal and a tiny masked model."""

from __future__ import annotations

import polars as pl
import pytest

from fairforget.benchmarks import registry, resolve
from fairforget.tables import read_table

FILES = {"file", "fine-tune", "geometry", "honest", "lm-eval", "organism", "organism-fine-tune"}
"""They need a file, a folder or a name of the user's, or train, and are run by tests of their own."""
ASKED = {
    "bbq": {"category": "Religion", "limit": "2"}, "bec-pro": {"share": "0.05"}, "bold": {"limit": "1", "max_new_tokens": "4"},
    "gsm8k": {"limit": "2", "shots": "0", "max_new_tokens": "8"}, "perplexity": {"max_tokens": "200", "positions": "20"},
    "question-answering": {"tasks": "[arc-resplit]", "limit": "2"}, "real-toxicity-prompts": {"limit": "2", "max_new_tokens": "4"},
    "seat": {"families": "[gender]"}, "triviaqa": {"limit": "2", "shots": "0", "max_new_tokens": "8"},
    "unqover": {"domain": "religion", "limit": "2"}, "winobias-lm": {"share": "0.02"}, "winogender": {"share": "0.05"},
}
"""Settings that keep a benchmark small; ``limit=2`` for all others."""
CASES = [
    (name, family) for name in registry.names() if name not in FILES for family in ("causal", "masked") if family in resolve(name).families
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), CASES, ids=[f"{name}-{family}" for name, family in CASES])
def test_it_runs_from_the_command_line(commands, models, data_folder, tmp_path, name: str, family: str) -> None:
    del data_folder
    settings = [f"{name}.{field}={value}" for field, value in ASKED.get(name, {"limit": "2"}).items()]
    command = commands.run(
        "audit", models / ("gpt2" if family == "causal" else "bert"), "--benchmarks", name, "--resamples", "200", "--out", "run",
        *(part for setting in settings for part in ("--set", setting)), cwd=tmp_path,
    )
    assert command.code == 0, command.stderr
    metrics = read_table(tmp_path / "run" / "tables" / "metrics.parquet")
    items = read_table(tmp_path / "run" / "tables" / "items-base-test.parquet")
    told = items["skipped"].drop_nulls().len() == items.height  # e.g. names that the tiny tokenizer has no single token for
    assert metrics.filter(pl.col("value").is_not_nan()).height > 0 or (told and items.height > 0)
    assert metrics.filter(pl.col("value").is_nan() & (pl.col("note") == "")).is_empty(), "what is undefined says why"
    assert (tmp_path / "run" / "report.html").exists()
