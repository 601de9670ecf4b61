"""Tracing as a workflow: tables on disk, intervals over clusters, and the verb on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tiny import tiny_model

from fairforget.cli.running import guarded
from fairforget.cli.trace import print_summary
from fairforget.data.training import training_source
from fairforget.errors import UsageError
from fairforget.workflows.trace import summary_with_intervals, trace


def test_the_share_by_hand_and_its_interval() -> None:
    rows = [  # effects 1, 2, 0, 1, -1, 1 of totals 2, 2, 1, 2, 1, 2: 4 of 10
        ("a", 2.0, 0.0, 1.0), ("b", -2.0, 0.0, -2.0), ("c", 1.0, 0.0, 0.0), ("d", 3.0, 1.0, 2.0), ("e", 0.0, 1.0, 2.0),
        ("f", 0.0, 2.0, 1.0),
    ]
    table = pl.DataFrame([
        {"pair": number, "cluster": cluster, "kind": "span", "part": "mlp", "layer": 3, "role": "site", "clean": clean,
         "corrupted": corrupted, "restored": restored}
        for number, (cluster, clean, corrupted, restored) in enumerate(rows)
    ])
    (row,) = summary_with_intervals(table).iter_rows(named=True)
    assert (row["part"], row["layer"], row["role"], row["associations"]) == ("mlp", 3, "site", 6)
    assert row["share"] == pytest.approx(0.4)
    assert row["effect"] == pytest.approx(4 / 6)
    assert row["low"] < 0.4 < row["high"]
    (few,) = summary_with_intervals(table.head(2)).iter_rows(named=True)
    assert few["low"] is None
    assert "too few clusters" in few["note"]


def test_tables_are_written_and_the_strongest_places_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("llama")
    result = trace(model, training_source("starter"), pairs=8, parts=["mlp", "hidden"], samples=1, out=tmp_path)
    assert set(result.traces.columns) >= {"pair", "cluster", "clean", "corrupted", "restored"}
    assert result.summary.height == 2 * 2 * 4  # parts, layers, roles
    assert pl.read_parquet(tmp_path / "trace.parquet").equals(result.traces)
    record = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert record["state"] == model.state_id
    assert record["tracing"]["parts"] == ["hidden", "mlp"]
    print_summary(result.summary)
    printed = capsys.readouterr().out
    assert "hidden: where" in printed
    assert "mlp: where" in printed


def test_what_cannot_be_traced_is_refused() -> None:
    model, data = tiny_model("llama"), training_source("starter")
    with pytest.raises(UsageError, match="did you mean hidden"):
        trace(model, data, parts=["hiden"])
    with pytest.raises(UsageError, match="noise above 0"):
        trace(model, data, noise=0)
    with pytest.raises(UsageError, match="give none"):
        trace(model, [row for row in data.texts if not row.counterpart])


def test_a_wrong_source_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from fairforget.cli.application import application

    assert guarded(lambda: application(["trace", "smollm2-135m", "--train", "startr"])) == 2
    assert "did you mean starter" in capsys.readouterr().err
