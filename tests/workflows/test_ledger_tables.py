"""What a ledger says of forgetting, as tables and on the page of two audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from html_page import Page

from fairforget.forgetting import biased_forgetting, build_ledger, net_forgetting
from fairforget.report import write_report
from fairforget.tables import item_table, read_table
from fairforget.workflows.compare import write_comparison
from fairforget.workflows.ledger_tables import group_axes

GROUPS = ("red", "blue", "green")


def answers(shares: dict[str, float], *, tokens: int = 4, seed: int = 0) -> pl.DataFrame:
    """Sixty questions a group in twenty clusters each, right with the group's probability."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for group in GROUPS:
        for number in range(60):
            right = float(generator.random() < shares[group])
            rows.append({
                "benchmark": "quiz", "protocol": "accuracy", "task": "quiz", "role": "ability", "part": "test", "item": f"{group} {number}",
                "cluster": f"{group} {number // 3}", "stratum": "", "groups": [group], "texts": ["a", "b"],
                "scores": [-1.0 - right, -2.0 + right], "correct": right, "nll": 3.0 - right, "tokens": tokens, "prefix": "none",
                "prompt_format": "plain",
            })
    return item_table(rows)


@pytest.mark.parametrize("tokens", [4, 5])
def test_two_audits_have_biased_forgetting_by_group(tmp_path: Path, tokens: int):
    before = answers(dict.fromkeys(GROUPS, 0.9))
    after = answers({"red": 0.2, "blue": 0.85, "green": 0.85}, tokens=tokens, seed=1)
    models = ({"name": "m", "base_hash": None, "tokenizer_hash": "t"}, {"name": "n", "base_hash": None, "tokenizer_hash": "t"})
    used = [{"name": "quiz", "protocol": "accuracy", "settings": {}, "datasets": [], "caution": "", "description": "A quiz."}]
    metrics = pl.DataFrame(schema={name: pl.String() for name in ("state", "part", "benchmark", "protocol", "task", "metric", "group")})
    metrics = metrics.with_columns(*(pl.lit(None, pl.Float64).alias(name) for name in ("value", "low", "high", "neutral")),
                                   *(pl.lit(None, pl.String).alias(name) for name in ("unit", "better", "note", "prefix")),
                                   *(pl.lit(None, pl.Int64).alias(name) for name in ("n", "clusters", "ties", "skipped")))
    out = tmp_path / "out"
    write_comparison(out, ("one", "two"), models, used, [], metrics, [(before, after)], 0, resamples=500, states=("s0", "s1"))
    ledger = read_table(out / "tables" / "ledger.parquet")
    assert set(ledger["state_before"]) == {"s0"} and set(ledger["tokenizer_hash"]) == {"t"} and set(ledger["template_hash"]) == {None}
    net = read_table(out / "tables" / "forgetting.parquet").row(0, named=True)
    expected = net_forgetting(build_ledger(before, after, same_model=False), resamples=500).row(0, named=True)
    assert net["forgetting"] == expected["forgetting"] > 0.15
    biased = read_table(out / "tables" / "biased.parquet")
    own = biased_forgetting(build_ledger(before, after, same_model=False), resamples=500)
    points = biased.filter(pl.col("scale") == "points")
    expected_groups = dict(own.table.select("group", "biased").iter_rows())
    assert dict(points.select("group", "biased").iter_rows()) == pytest.approx(expected_groups, nan_ok=True)
    spread = read_table(out / "tables" / "dispersion.parquet")
    assert spread.filter(pl.col("scale") == "points")["p_value"].item() < 0.01
    # nats of two tokenizers cannot be subtracted
    assert set(spread["scale"]) == ({"points", "nll"} if tokens == 4 else {"points"})
    assert (net["per_item"] is None) == (tokens != 4)
    page = Page(write_report(out).read_text(encoding="utf-8"))
    assert not page.unbalanced
    for words in ("Forgetting by group", "Omnibus p", "Against the rest", "Lost / gained"):
        assert words in page.visible


def test_an_axis_needs_two_groups_of_three_clusters():
    rows = [
        {"item": str(number), "cluster": str(number), "groups": groups}
        for number, groups in enumerate([["a", "sex: x"], ["a", "sex: y"], ["a", "sex: x"], ["b"], ["b"], ["b"], ["c"]])
    ]
    assert group_axes(item_table(rows)) == {"group": ["a", "b"]}
