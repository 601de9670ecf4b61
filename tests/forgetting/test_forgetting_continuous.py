"""Continuous and selective forgetting by hand."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import choices, pairs, windows

from fairforget.errors import DataError, UsageError
from fairforget.forgetting import (
    completion_change,
    continuous_forgetting,
    kl_divergence,
    overall_forgetting,
    selective_forgetting,
    tokens_per_text,
)

QUICK = {"resamples": 300}


class TestDivergence:
    def test_by_hand(self):
        before, after = np.log([0.7, 0.2, 0.1]), np.log([0.5, 0.3, 0.2])
        assert kl_divergence(before, after) == pytest.approx(0.0851228, abs=1e-7)
        assert kl_divergence(before, before) == 0

    def test_ruled_out(self):
        with np.errstate(divide="ignore"):
            sure, even = np.log([1.0, 0.0]), np.log([0.5, 0.5])
        assert kl_divergence(sure, even) == pytest.approx(np.log(2))
        assert kl_divergence(even, sure) == np.inf

    def test_refusals(self):
        with pytest.raises(DataError, match="one shape"):
            kl_divergence(np.zeros(2), np.zeros(3))
        with pytest.raises(DataError, match="normalised"):
            kl_divergence(np.zeros(2), np.zeros(2))

    @given(st.lists(st.floats(-20, 20), min_size=6, max_size=6))
    def test_never_negative(self, logits):
        values = np.array(logits).reshape(2, 3)
        normalised = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        assert kl_divergence(normalised[0], normalised[1]) >= 0


class TestContinuous:
    def test_items_tokens_and_drift(self):
        ledger = windows([10, 20, 30] * 4, [12, 21, 36] * 4, [10, 10, 40] * 4, kl=[0.1, 0.2, 0.3] * 4)
        found = continuous_forgetting(ledger, **QUICK).row(0, named=True)
        assert (found["per_item"], found["per_token"], found["kl"]) == (pytest.approx(3.0), pytest.approx(9 / 60), pytest.approx(0.2))
        assert found["perplexity_ratio"] == pytest.approx(np.exp(0.15))
        assert found["kl_low"] < 0.2 < found["kl_high"]
        assert found["tokens"] == 240

    def test_no_change_is_exactly_none(self):
        found = continuous_forgetting(windows([10.0, 20.0] * 4, [10.0, 20.0] * 4, [5, 7] * 4, kl=[0.0] * 8), **QUICK).row(0, named=True)
        assert (found["per_item"], found["per_token"], found["kl"], found["perplexity_ratio"]) == (0, 0, 0, 1)

    def test_groups_and_missing_drift(self):
        table = continuous_forgetting(windows([1.0, 2.0], [2.0, 2.0], [1, 1], groups=[["x"], ["y"]]), by_group=True, **QUICK)
        assert table.select("group", "per_item", "kl").rows() == [("all", 0.5, None), ("x", 1.0, None), ("y", 0.0, None)]

    def test_ability_without_likelihood_has_no_row(self):
        assert continuous_forgetting(choices([1.0], [0.0])).is_empty()


class TestOverall:
    def test_strata_add_up(self):
        groups = [["none"], ["words"], ["none"], ["other"]] * 3
        ledger = windows([10, 20, 60, 9] * 3, [11, 22, 66, 9] * 3, [10, 10, 70, 10] * 3, groups=groups)
        found = overall_forgetting(ledger, **QUICK)
        assert found.interval.value == pytest.approx(0.09)
        assert found.perplexity_ratio == pytest.approx(np.exp(0.09))
        assert found.strata.select("stratum", "share").rows() == [("none", 0.8), ("other", 0.1), ("words", 0.1)]
        assert found.strata["per_token"].to_list() == pytest.approx([7 / 80, 0.0, 0.2])
        assert found.strata["contribution"].sum() == pytest.approx(found.interval.value)

    def test_labels_of_ones_own_and_items_without(self):
        ledger = windows([1.0, 2.0], [2.0, 2.0], [1, 3], groups=[["x", "y"], []])
        assert overall_forgetting(ledger, **QUICK).strata["stratum"].to_list() == ["all"]
        own = overall_forgetting(ledger, strata=pl.col("groups").list.len(), **QUICK).strata
        assert own.select("stratum", "per_token").rows() == [("0", 0.0), ("2", 1.0)]
        with pytest.raises(DataError, match="1 items have no stratum"):
            overall_forgetting(ledger, strata=pl.col("groups").list.first(), **QUICK)
        with pytest.raises(DataError, match="with a likelihood"):
            overall_forgetting(choices([1.0], [0.0]))


class TestSelective:
    def test_by_hand(self):
        change = completion_change((-2.0, -3.0, -1.5), (-3.2, -2.9, -1.7))
        assert (change.stereotype, change.anti_stereotype, change.neutral) == (pytest.approx(1.2), pytest.approx(-0.1), pytest.approx(0.2))
        assert change.selective == pytest.approx(1.0)
        assert change.margin_shift == pytest.approx(1.3) == pytest.approx(1.0 - (-0.3))
        with pytest.raises(UsageError, match="not 1 and 1"):
            completion_change((1.0,), (1.0,))

    def test_of_a_ledger(self):
        bias = pairs([(-2.0, -3.0, -9.0)] * 8, [(-3.2 - 0.01 * (i % 2), -2.9, -9.5) for i in range(8)])
        neutral = windows([1.5] * 10, [1.7 + 0.01 * (i % 2) for i in range(10)], [1] * 10)
        found = selective_forgetting(bias, neutral, **QUICK).row(0, named=True)
        names = ("stereotype", "anti_stereotype", "unrelated", "margin_shift", "neutral", "selective")
        assert [found[name] for name in names] == pytest.approx([1.205, -0.1, 0.5, 1.305, 0.205, 1.0])
        assert found["selective_low"] < 1.0 < found["selective_high"]
        assert bias["margin_shift"].mean() == pytest.approx(found["margin_shift"])

    def test_neutral_text_a_token(self):
        bias = pairs([(-2.0, -3.0)] * 6, [(-3.0, -3.0)] * 6)
        neutral = windows([10.0, 30.0] * 5, [11.0, 33.0] * 5, [10, 30] * 5)
        found = selective_forgetting(bias, neutral, tokens_per_text=4, **QUICK).row(0, named=True)
        assert (found["neutral"], found["selective"]) == (pytest.approx(0.4), pytest.approx(0.6))
        assert np.isnan(found["unrelated"])

    @pytest.mark.parametrize(("after", "reading"), [
        ((-3.0, -3.0), "stereotype forgotten"), ((-2.0, -2.0), "counterpart learned"), ((-3.0, -2.0), "both"),
        ((-1.0, -3.0), "reversed"), ((-2.0, -3.0), "neither shown"),
    ])
    def test_reading(self, after, reading):
        noise = [0.01 * (i % 3 - 1) for i in range(12)]
        ledger = pairs([(-2.0 + e, -3.0 - e) for e in noise], [(after[0] - e, after[1] + e) for e in noise])
        found = selective_forgetting(ledger, **QUICK).row(0, named=True)
        assert found["reading"] == reading
        assert np.isnan(found["selective"])

    def test_by_group(self):
        after = [(-2.0 - (i % 2) - 0.01 * (i % 3), -3.0) for i in range(12)]
        ledger = pairs([(-2.0, -3.0)] * 12, after, groups=[["xy"[i % 2]] for i in range(12)])
        table = selective_forgetting(ledger, by_group=True, **QUICK)
        assert table["group"].to_list() == ["all", "x", "y"]
        assert table["stereotype"].to_list() == pytest.approx([0.51, 0.01, 1.01])

    def test_refusals(self):
        with pytest.raises(DataError, match="stereotypical"):
            selective_forgetting(choices([1.0], [0.0]))
        with pytest.raises(UsageError, match="more than 0 tokens"):
            selective_forgetting(pairs([(1.0, 0.0)], [(1.0, 0.0)]), tokens_per_text=0)

    @given(st.lists(st.floats(-50, 0), min_size=4, max_size=4))
    def test_margin_shift_is_the_fall_of_the_margin(self, values):
        change = completion_change(tuple(values[:2]), tuple(values[2:]))
        assert change.margin_shift == pytest.approx((values[0] - values[1]) - (values[2] - values[3]), abs=1e-9)


def test_a_text_is_set_against_as_many_neutral_tokens_as_it_is_scored_by():
    scores = {"scores_before": [[-4.0, -6.0], [-3.0, -3.0]], "nll_before": [10.0, 6.0], "tokens_before": [8, 4]}
    sums = pl.DataFrame({**scores, "skipped": [None, None]})
    means = sums.with_columns(scores_before=pl.Series([[-1.0, -1.5], [-1.5, -1.5]]))
    assert tokens_per_text(sums) == 3.0
    assert tokens_per_text(means) == 1.0
