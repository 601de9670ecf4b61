"""Transfer of unlearning: the ratio by hand (spec 9.27), and domains of a ledger that did and did not move."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from ledger_rows import row

from fairforget.errors import DataError, UsageError
from fairforget.forgetting import build_ledger, mean_transfer, transfer_ratio, transfer_table
from fairforget.tables import item_table


def test_the_ratio_by_hand_and_its_crossing():
    """b₀ = (6, 10) and b = (3, −5): half of each is gone, and the second changed its direction."""
    found = [transfer_ratio(before, after) for before, after in ((6.0, 3.0), (10.0, -5.0))]
    assert [(one.value, one.crossed) for one in found] == [(0.5, False), (0.5, True)]
    assert transfer_ratio(-4.0, -6.0) == transfer_ratio(4.0, 6.0)
    assert transfer_ratio(4.0, 6.0).value == -0.5
    assert math.isnan(transfer_ratio(0.0, 3.0).value)


def table(shares: dict[str, float], seed: int) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for group, share in shares.items():
        for number in range(200):
            prefers = float(generator.random() < share)
            rows.append(row(
                f"{group} {number}", cluster=f"{group} {number}", groups=(group,), role="bias", task="pairs", prefers_stereotype=prefers,
                margin=2 * prefers - 1, correct=None, scores=[prefers - 1, -prefers],
            ))
    return item_table(rows)


def test_domains_of_a_ledger():
    before = table({"unlearned": 0.8, "like it": 0.75, "apart": 0.75, "neutral": 0.5}, 0)
    after = table({"unlearned": 0.55, "like it": 0.3, "apart": 0.75, "neutral": 0.5}, 1)
    # what did not move keeps its items
    still = before.filter(pl.col("groups").list.first().is_in(["apart", "neutral"]))
    moved = after.filter(pl.col("groups").list.first().is_in(["unlearned", "like it"]))
    ledger = build_ledger(before, pl.concat([moved, still]))
    found = {one["group"]: one for one in transfer_table(ledger, resamples=500).iter_rows(named=True)}
    share = {group: 100 * ledger.filter(pl.col("groups").list.contains(group))["prefers_stereotype_before"].mean() - 50 for group in found}
    for group, one in found.items():
        assert one["before"] == pytest.approx(share[group])
        assert one["fall"] == pytest.approx(abs(one["before"]) - abs(one["after"]))
    assert found["unlearned"]["fall_low"] > 0 and not found["unlearned"]["crossed"]
    assert found["unlearned"]["ratio"] == pytest.approx(found["unlearned"]["fall"] / abs(found["unlearned"]["before"]))
    assert found["like it"]["crossed"] and found["like it"]["after"] < 0
    assert found["apart"]["fall"] == 0 and found["apart"]["ratio"] == 0
    assert found["neutral"]["ratio"] is None and "cannot be told from 0" in found["neutral"]["note"]
    only = transfer_table(ledger, groups=["apart"], resamples=200)
    assert only["group"].to_list() == ["apart"]


def test_the_mean_over_domains_counts_them_alike():
    before = table({"first": 0.8, "second": 0.7}, 0)
    after = table({"first": 0.6, "second": 0.75}, 1)
    first = pl.col("groups").list.first() == "first"
    doubled = [pl.concat([rows, rows.filter(first).with_columns(pl.col("item", "cluster") + " again")]) for rows in (before, after)]
    for ledger in (build_ledger(before, after), build_ledger(*doubled)):
        rows = transfer_table(ledger, resamples=200)
        mean = mean_transfer(ledger, ["first", "second"], resamples=500)
        assert mean.value == pytest.approx(rows["fall"].mean())
        assert mean.low < mean.value < mean.high
    alone = mean_transfer(ledger, ["second"], resamples=500)
    one = transfer_table(ledger, groups=["second"], resamples=500).row(0, named=True)
    assert (alone.value, alone.low, alone.high) == pytest.approx((one["fall"], one["fall_low"], one["fall_high"]), abs=1.0)
    with pytest.raises(UsageError, match="at least one domain"):
        mean_transfer(ledger, [])


def test_what_is_no_bias_is_refused():
    before = table({"a": 0.5}, 0)
    with pytest.raises(UsageError, match="one task at one stage"):
        transfer_table(pl.concat([build_ledger(before, before), build_ledger(before.with_columns(task=pl.lit("x")), before.with_columns(
            task=pl.lit("x")))]))
    with pytest.raises(DataError):
        transfer_table(build_ledger(before, before).clear())
