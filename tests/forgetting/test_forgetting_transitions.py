"""Transitions, their tests, and both adjustments for chance, by hand and on simulated guessers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import choices, counted, row

from fairforget.errors import UsageError
from fairforget.forgetting import Transitions, chance_adjusted, harmon_adjusted, net_forgetting, transition_paths, transitions
from fairforget.forgetting.stages import chain_ledger, span
from fairforget.stats import mcnemar
from fairforget.tables import item_table


def know_or_guess(kk, kg, gk, gg, k):
    """Shares of transitions of items that are known (K) or guessed (G) before and after."""
    right = 1 / k
    return Transitions(
        kk + kg * right + gk * right + gg * right**2, kg * (1 - right) + gg * right * (1 - right),
        gk * (1 - right) + gg * right * (1 - right), gg * (1 - right) ** 2,
    )


class TestByHand:
    def test_counts(self):
        found = transitions(counted(70, 12, 2, 16))
        assert (found.kept, found.lost, found.gained, found.never) == (70, 12, 2, 16)
        assert found.forgetting == pytest.approx(0.10)
        assert found.paired_z == pytest.approx(2.7735, abs=1e-4)
        test = mcnemar(12, 2)
        assert test.p_exact == pytest.approx(0.0129395, abs=1e-7)
        assert test.p_mid == pytest.approx(0.0073853, abs=1e-7)

    def test_table(self):
        found = net_forgetting(counted(70, 12, 2, 16), resamples=500).row(0, named=True)
        names = ("n", "before", "after", "lost", "gained", "forgetting")
        assert [found[name] for name in names] == pytest.approx([100, 0.82, 0.72, 0.12, 0.02, 0.10])
        assert found["p_mcnemar"] == pytest.approx(0.0129395, abs=1e-7)
        assert found["forgetting_low"] < 0.10 < found["forgetting_high"]
        assert found["p_sign_flip"] < 0.05
        # four options each: 16 items wrong twice hide 16 / 3 lost and gained by luck
        assert found["lost_adjusted"] == pytest.approx(0.12 - 0.16 / 3)
        assert found["gained_adjusted"] == pytest.approx(0.02 - 0.16 / 3)

    def test_know_or_guess(self):
        counts = know_or_guess(0.5, 0.1, 0.05, 0.35, 4)
        assert (counts.lost, counts.never) == (pytest.approx(0.140625), pytest.approx(0.196875))
        ours, harmon = chance_adjusted(counts, 4), harmon_adjusted(counts, 4)
        assert (ours.lost, ours.gained) == (pytest.approx(0.075), pytest.approx(0.0375))
        assert ours.knowledge_lost == pytest.approx(0.10)
        assert ours.knowledge_gained == pytest.approx(0.05)
        assert (harmon.lost, harmon.gained) == (pytest.approx(0.106875), pytest.approx(0.069375))
        assert ours.net == pytest.approx(counts.forgetting) == pytest.approx(harmon.net)

    def test_guessers_forget_nothing(self):
        ours = chance_adjusted(know_or_guess(0, 0, 0, 1, 4), 4)
        assert ours.lost == pytest.approx(0, abs=1e-12)
        assert ours.gained == pytest.approx(0, abs=1e-12)

    def test_nothing_changed(self):
        found = net_forgetting(counted(7, 0, 0, 3), resamples=200).row(0, named=True)
        assert found["forgetting"] == 0
        assert found["p_mcnemar"] == found["p_mid"] == found["p_sign_flip"] == 1
        assert np.isnan(transitions(counted(7, 0, 0, 3)).paired_z)

    def test_everything_lost(self):
        assert transitions(counted(0, 5, 0, 0)).paired_z == np.inf

    def test_one_option_is_no_guess(self):
        with pytest.raises(UsageError, match="at least two options"):
            chance_adjusted(Transitions(1, 1, 1, 1), 1)


@given(st.lists(st.floats(0.001, 1), min_size=4, max_size=4), st.integers(2, 12))
def test_ours_recovers_what_was_known(weights, k):
    kk, kg, gk, gg = np.array(weights) / sum(weights)
    ours = chance_adjusted(know_or_guess(kk, kg, gk, gg, k), k)
    assert ours.knowledge_lost == pytest.approx(kg, abs=1e-9)
    assert ours.knowledge_gained == pytest.approx(gk, abs=1e-9)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 100_000))
def test_the_net_is_lost_less_gained_whatever_the_items(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.choice([0.0, 0.5, 1.0], 30), rng.choice([0.0, 0.5, 1.0], 30)
    found = transitions(choices(before, after))
    assert found.items == 30
    assert found.forgetting == pytest.approx(before.mean() - after.mean())


def test_rows_by_group():
    groups = [["x"], ["x", "y"], ["y"], []] * 5
    table = net_forgetting(choices([1.0] * 20, [0.0, 1.0, 1.0, 1.0] * 5, groups=groups), by_group=True, resamples=200)
    assert table.select("group", "n").rows() == [("all", 20), ("x", 10), ("y", 10)]
    assert table["forgetting"].to_list() == pytest.approx([0.25, 0.5, 0.0])


def test_paths():
    states = [(1, 1, 0, 0.5), (0, 1, 0, 1), (1, 1, 1, 1)]
    ledger = chain_ledger([item_table([row(i, correct=float(value)) for i, value in enumerate(own)]) for own in states], ["a", "b"])
    found = dict(transition_paths(ledger).select("code", "n").iter_rows())
    assert found == {"101": 1, "111": 1, "001": 1, "h11": 1}
    assert transitions(span(ledger, 1, 2)).gained == 1.5
