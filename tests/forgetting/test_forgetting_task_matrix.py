"""The task matrix against hand-worked figures, and shares of losses and gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import choices, counted, row

from fairforget.errors import DataError, UsageError
from fairforget.forgetting import (
    Step,
    TaskMatrix,
    chain_ledger,
    gain_normalised,
    gain_normalised_table,
    join_ledgers,
    recovery,
    recovery_table,
    task_matrix,
)
from fairforget.tables import item_table

R = [[0.70, 0.30, 0.20], [0.90, 0.80, 0.25], [0.75, 0.60, 0.85]]


class TestByHand:
    def test_three_tasks(self):
        matrix = TaskMatrix.square(R)
        assert matrix.accuracy() == pytest.approx(0.733333, abs=1e-6)
        assert matrix.bwt() == pytest.approx(-0.075)
        assert matrix.bwt(denominator="gem_code") == pytest.approx(-0.05)
        assert matrix.fwt(0.25) == pytest.approx(0.025)
        assert matrix.fwt(0.25, denominator="gem_code") == pytest.approx(0.0166667, abs=1e-6)
        np.testing.assert_allclose(matrix.forgetting_max(), [0.15, 0.20, np.nan])
        assert np.nanmean(matrix.forgetting_max()) == pytest.approx(0.175)
        assert np.nanmax(matrix.forgetting_max()) == pytest.approx(0.20)
        assert matrix.forgetting_first()[0] == pytest.approx(-0.05)
        np.testing.assert_allclose(matrix.retention(), [0.75 / 0.70, 0.75, np.nan])

    @given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
    def test_two_tasks_agree_in_all_definitions(self, values):
        matrix = TaskMatrix.square(np.array(values).reshape(2, 2))
        first = matrix.forgetting_first()[0]
        assert first == pytest.approx(-matrix.bwt()) == pytest.approx(matrix.forgetting_max()[0])
        assert matrix.bwt(denominator="gem_code") == pytest.approx(matrix.bwt() / 2)

    def test_shares(self):
        assert recovery(0.85, 0.55, 0.80).value == pytest.approx(0.83333, abs=1e-5)
        assert gain_normalised(0.85, 0.55, 0.40).value == pytest.approx(0.66667, abs=1e-5)
        for share, words in ((gain_normalised(0.4, 0.3, 0.4), "taught nothing"), (recovery(0.5, 0.5, 0.6), "lost nothing")):
            assert np.isnan(share.value)
            assert words in share.note

    def test_gain_normalised_of_a_matrix(self):
        matrix = TaskMatrix(np.array([[0.85, 0.2], [0.55, 0.9]]), ("a", "b"), (0, 1), np.array([0.40, 0.2]))
        shares = matrix.gain_normalised()
        assert shares[0].value == pytest.approx(2 / 3)
        assert np.isnan(shares[1].value)
        assert "not taught before" in shares[1].note

    def test_a_replay_stage_teaches_no_task_of_its_own(self):
        matrix = TaskMatrix(np.array([[0.85, 0.3], [0.55, 0.9], [0.80, 0.88]]), ("a", "b"), (0, 1), np.array([0.4, 0.3]))
        np.testing.assert_allclose(matrix.forgetting_first(), [0.05, 0.02])
        np.testing.assert_allclose(matrix.forgetting_from_base(), [-0.40, -0.58])

    def test_refusals(self):
        with pytest.raises(DataError, match="one row of scores per stage"):
            TaskMatrix(np.ones((2, 2)), ("a",), (0, 1))
        with pytest.raises(DataError, match="stage that the matrix lacks"):
            TaskMatrix(np.ones((2, 2)), ("a", "b"), (0, 2))
        with pytest.raises(UsageError, match="no scores of the base"):
            TaskMatrix.square(R).fwt()


def test_a_single_stage_has_forgotten_nothing():
    matrix = TaskMatrix.square([[0.5]])
    assert np.isnan(matrix.bwt())
    assert np.isnan(matrix.fwt(0.2))
    assert np.isnan(matrix.forgetting_max()).all()


def path(scores, run="a > b", seed=0):
    """A chain ledger of two tasks whose share right is scores[stage][task], 20 items each; the first row is the base."""
    audits = [
        item_table([
            row(f"{task}{i}", task=task, correct=float(i < round(20 * value)))
            for task, value in zip("ab", own, strict=True) for i in range(20)
        ])
        for own in scores
    ]
    return chain_ledger(audits, ["teach a", "teach b", "replay a"][: len(scores) - 1], step=Step(run=run, seed=seed))


class TestFromLedger:
    def test_matrix_of_a_path(self):
        ledger = path([(0.4, 0.25), (0.85, 0.25), (0.55, 0.9), (0.8, 0.85)])
        matrix = task_matrix(ledger, {"a": 1, "b": 2})
        np.testing.assert_allclose(matrix.scores, [[0.85, 0.25], [0.55, 0.9], [0.8, 0.85]])
        np.testing.assert_allclose(matrix.base, [0.4, 0.25])
        assert matrix.stages == ("teach a", "teach b", "replay a")
        assert matrix.forgetting_first()[0] == pytest.approx(0.05)
        assert matrix.forgetting_max()[1] == pytest.approx(0.05)

    def test_recovery_and_gain_by_hand(self):
        # A = .85, AB = .55, replay = .80, base = .40: F .30, Rec .83333, GF .66667
        ledger = path([(0.4, 0.25), (0.85, 0.25), (0.55, 0.9), (0.8, 0.85)])
        stages = [ledger.filter(task="a", stage=stage) for stage in (1, 2, 3)]
        found = recovery_table(stages[1], stages[2], resamples=500).row(0, named=True)
        assert found["denominator"] == pytest.approx(0.30)
        assert found["share"] == pytest.approx(0.83333, abs=1e-5)
        assert found["defined"]
        gain = gain_normalised_table(stages[0], stages[1], resamples=500).row(0, named=True)
        assert (gain["share"], gain["denominator"]) == (pytest.approx(0.66667, abs=1e-5), pytest.approx(0.45))

    def test_a_share_of_what_may_be_nothing_is_not_given(self):
        ledger = path([(0.4, 0.25), (0.45, 0.25), (0.4, 0.9)])
        stages = [ledger.filter(task="a", stage=stage) for stage in (1, 2)]
        found = gain_normalised_table(*stages, resamples=500).row(0, named=True)
        assert np.isnan(found["share"])
        assert not found["defined"]
        assert "not surely above 0" in found["note"]
        with pytest.raises(DataError, match="second beginning where the first ended"):
            gain_normalised_table(stages[0], stages[0], resamples=100)

    def test_refusals(self):
        ledger = path([(0.4, 0.25), (0.85, 0.25), (0.55, 0.9)])
        with pytest.raises(UsageError, match="tasks are a, b"):
            task_matrix(ledger, {"c": 1})
        with pytest.raises(DataError, match="'nll'"):
            task_matrix(ledger, {}, figure="nll")
        other = path([(0.4, 0.25), (0.85, 0.25), (0.55, 0.9)], run="b > a")
        with pytest.raises(UsageError, match="one run"):
            task_matrix(join_ledgers([ledger, other]), {})


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_recovery_of_everything_is_one(seed):
    rng = np.random.default_rng(seed)
    before = (rng.random(40) < 0.8).astype(float)
    after = before * (rng.random(40) < 0.5)
    loss = choices(before, after)
    back = choices(after, before, step=Step(stage=2))
    found = recovery_table(loss, back, resamples=200).row(0, named=True)
    assert found["share"] == pytest.approx(1.0) or not found["defined"]


def test_counts_alone_make_no_chain():
    with pytest.raises(DataError, match="same items"):
        recovery_table(counted(5, 5, 0, 0), counted(5, 5, 1, 0), resamples=100)
