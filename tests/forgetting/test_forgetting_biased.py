"""Biased forgetting by hand, for overlapping groups, on every scale, and its error rates by simulation."""

import warnings

import numpy as np
import polars as pl
import pytest
from ledger_rows import by_group, choices, windows

from fairforget.errors import DataError, UsageError
from fairforget.forgetting import Step, biased_forgetting, join_ledgers

QUICK = {"resamples": 300}


def values(found, name="biased"):
    return found.groups[name].to_list()


class TestByHand:
    def ledger(self):
        return by_group((100, 50, 50), (80, 40, 45), (70, 20, 45))

    def test_partition(self):
        found = biased_forgetting(self.ledger(), **QUICK)
        everything = found.table.row(0, named=True)
        assert everything["forgetting"] == pytest.approx(0.15)
        assert values(found, "forgetting") == pytest.approx([0.10, 0.40, 0.0])
        assert values(found) == pytest.approx([-0.05, 0.25, -0.15])
        assert values(found, "rest") == pytest.approx([-0.10, 1 / 3, -0.20])
        assert float(np.dot(values(found, "share"), values(found))) == pytest.approx(0, abs=1e-12)
        assert found.partition
        assert found.notes == ()
        assert (found.gap, found.worst, found.weighted_deviation) == (pytest.approx(0.40), pytest.approx(0.25), pytest.approx(0.15))
        assert found.dispersion.gap == pytest.approx(0.40)
        assert values(found, "before") == pytest.approx([0.8, 0.8, 0.9])
        assert values(found, "after") == pytest.approx([0.7, 0.4, 0.9])

    def test_centres(self):
        macro = biased_forgetting(self.ledger(), center="macro", **QUICK)
        assert values(macro) == pytest.approx([0.1 - 1 / 6, 0.4 - 1 / 6, -1 / 6])
        rest = biased_forgetting(self.ledger(), center="rest", **QUICK)
        assert values(rest) == pytest.approx([-0.10, 1 / 3, -0.20])
        reference = biased_forgetting(self.ledger(), center="reference", reference="z", **QUICK)
        assert values(reference) == pytest.approx([0.10, 0.40, 0.0])

    def test_relative(self):
        found = biased_forgetting(self.ledger(), scale="relative", **QUICK)
        assert values(found, "forgetting") == pytest.approx([0.125, 0.5, 0.0])
        assert values(found) == pytest.approx([0.125 - 30 / 165, 0.5 - 30 / 165, -30 / 165])
        assert found.margin is None
        assert values(found, "equivalent") == [None] * 3

    def test_chance_adjusted(self):
        found = biased_forgetting(self.ledger(), scale="chance_adjusted", **QUICK)  # four options each
        assert values(found, "forgetting") == pytest.approx([0.10 * 4 / 3, 0.40 * 4 / 3, 0.0])

    def test_weights(self):
        weights = pl.when(pl.col("groups").list.contains("x")).then(0.5).otherwise(1.0)
        found = biased_forgetting(self.ledger(), weights=weights, **QUICK)
        assert found.table["forgetting"][0] == pytest.approx((5 + 20) / 150)
        assert values(found, "forgetting") == pytest.approx([0.10, 0.40, 0.0])

    def test_intervals_and_what_could_be_seen(self):
        found = biased_forgetting(self.ledger(), **QUICK)
        for row in found.groups.iter_rows(named=True):
            assert row["biased_low"] < row["biased"] < row["biased_high"]
            half = (row["biased_high"] - row["biased_low"]) / 2
            assert row["minimum_detectable"] == pytest.approx(half + 0.8416 * row["standard_error"], rel=1e-3)
        assert found.groups.filter(group="y")["biased_low"].item() > 0
        assert found.dispersion.p_value < 0.01
        assert found.dispersion.low > 0
        assert not found.all_equivalent


class TestOverlappingGroups:
    def test_every_item_in_both_groups(self):
        ledger = choices([1.0] * 40, [0.0, 1.0] * 20, groups=[["x", "y"]] * 40)
        with pytest.warns(UserWarning, match="several groups"):
            found = biased_forgetting(ledger, **QUICK)
        assert values(found) == [0.0, 0.0]
        assert not found.partition
        assert "rest" in found.notes[0]
        assert found.dispersion.value == 0

    def test_by_hand(self):
        # six items: x holds 0-3, y holds 2-5; lost are 0, 2, 3. F_x = 3/4, F_y = 2/4, F = 3/6; without x 0/2, without y 1/2.
        ledger = choices([1.0] * 6, [0, 1, 0, 0, 1, 1], groups=[["x"], ["x"], ["x", "y"], ["x", "y"], ["y"], ["y"]])
        with pytest.warns(UserWarning, match="several groups"):
            found = biased_forgetting(ledger, **QUICK)
        assert values(found) == pytest.approx([0.25, 0.0])
        assert values(found, "rest") == pytest.approx([0.75, 0.0])
        assert sum(values(found, "share")) == pytest.approx(8 / 6)

    def test_items_of_no_group_are_no_partition(self):
        ledger = choices([1.0] * 12, [0.0, 1.0] * 6, groups=[["x"], ["y"], []] * 4)
        with pytest.warns(UserWarning, match="in none"):
            biased_forgetting(ledger, **QUICK)


class TestOtherScales:
    def test_nats_a_token(self):
        found = biased_forgetting(
            windows([10, 20, 30, 40] * 6, [12, 20, 36, 40] * 6, [10, 10, 20, 20] * 6, groups=[["x"], ["y"], ["x"], ["y"]] * 6),
            scale="nll", **QUICK,
        )
        assert values(found, "forgetting") == pytest.approx([8 / 30, 0.0])
        assert values(found) == pytest.approx([8 / 30 - 8 / 60, -8 / 60])
        assert found.unit == "nats"

    def gain(self, base, learned, after):
        groups = [["x"]] * 20 + [["y"]] * 20
        states = [[float(i < count) for count in own for i in range(20)] for own in (base, learned, after)]
        return choices(states[0], states[1], groups=groups), choices(states[1], states[2], groups=groups, step=Step(stage=2))

    def test_share_of_what_was_taught(self):
        learning, loss = self.gain((8, 4), (18, 14), (13, 12))
        found = biased_forgetting(loss, scale="gain_normalised", learning=learning, **QUICK)
        assert values(found, "forgetting") == pytest.approx([0.5, 0.2])
        assert values(found) == pytest.approx([0.5 - 7 / 20, 0.2 - 7 / 20])

    def test_a_group_that_was_taught_nothing_has_no_share(self):
        learning, loss = self.gain((8, 4), (18, 4), (13, 4))
        found = biased_forgetting(loss, scale="gain_normalised", learning=learning, **QUICK)
        assert values(found, "forgetting")[0] == pytest.approx(0.5)
        assert np.isnan(values(found, "forgetting")[1])
        assert "not surely above 0" in found.groups["note"][1]

    def test_nothing_was_taught_at_all(self):
        learning, loss = self.gain((8, 4), (8, 4), (5, 4))
        found = biased_forgetting(loss, scale="gain_normalised", learning=learning, **QUICK)
        assert np.isnan(found.table["forgetting"].to_numpy()).all()
        assert np.isnan(found.dispersion.value)


def test_identical_checkpoints_forget_nothing():
    right = [float(i % 3 > 0) for i in range(60)]
    found = biased_forgetting(choices(right, right, groups=[["xyz"[i % 3]] for i in range(60)]), **QUICK)
    assert (found.table["forgetting"] == 0).all()
    assert values(found) == [0, 0, 0]
    assert (found.dispersion.value, found.dispersion.p_value) == (0, 1)


def test_no_biased_forgetting_can_be_a_finding():
    rng = np.random.default_rng(0)
    count = 6000
    before = np.ones(count)
    after = (rng.random(count) > 0.01).astype(float)
    found = biased_forgetting(choices(before, after, groups=[["xy"[i % 2]] for i in range(count)]), **QUICK)
    assert found.all_equivalent
    strict = biased_forgetting(choices(before, after, groups=[["xy"[i % 2]] for i in range(count)]), margin=1e-4, **QUICK)
    assert not strict.all_equivalent


def test_a_group_of_few_clusters_is_named_and_left_out_of_the_test():
    groups = [["x"]] * 30 + [["y"]] * 30 + [["z"]] * 3
    found = biased_forgetting(choices([1.0] * 63, [0.0, 1.0, 1.0] * 21, groups=groups), **QUICK)
    assert found.groups["note"][2] == "too few clusters (3)"
    assert np.isnan(found.groups["biased_low"][2])
    assert found.dispersion.groups == 2
    assert "1 of 3 groups" in found.dispersion.note


def test_seeds_are_pooled_and_their_spread_is_told():
    rng = np.random.default_rng(1)
    groups = [["xy"[i % 2]] for i in range(80)]

    def of(seeds):
        after = [(rng.random(80) > 0.3).astype(float) for _ in range(seeds)]
        return join_ledgers([choices([1.0] * 80, own, groups=groups, step=Step(seed=seed)) for seed, own in enumerate(after)])

    few = biased_forgetting(of(3), **QUICK)
    assert "range over 3 seeds" in few.groups["note"][0]
    assert few.groups["seed_low"][0] <= few.groups["biased"][0] <= few.groups["seed_high"][0]
    assert few.groups["clusters"].to_list() == [40, 40]
    assert "over items and 5 seeds" in biased_forgetting(of(5), **QUICK).groups["note"][0]


class TestRefusals:
    def test_settings(self):
        ledger = by_group((20, 20), (15, 15), (10, 15))
        for more, words in (
            ({"center": "reference"}, "reference group is needed"), ({"reference": "x"}, "and only there"),
            ({"groups": ["q"]}, "no groups q; its groups are x, y"), ({"margin": 0.0}, "above 0"),
            ({"scale": "gain_normalised"}, "needs the ledger of the stage that taught"), ({"learning": ledger}, "and only it"),
        ):
            with pytest.raises(UsageError, match=words):
                biased_forgetting(ledger, **more)
        with pytest.raises(DataError, match="scale nll"):
            biased_forgetting(ledger, scale="nll")

    def test_no_groups(self):
        with pytest.raises(UsageError, match="no groups at all"):
            biased_forgetting(choices([1.0, 0.0], [0.0, 0.0]))

    def test_half_right_is_no_choice(self):
        with pytest.raises(DataError, match="use the scale points"):
            biased_forgetting(choices([0.5], [0.0], groups=[["x"]]), scale="chance_adjusted")

    def test_several_accounts(self):
        ledger = join_ledgers([choices([1.0], [0.0], groups=[["x"]], task=name) for name in ("a", "b")])
        with pytest.raises(UsageError, match="differ in task"):
            biased_forgetting(ledger)

    def test_learning_of_other_items(self):
        ledger = by_group((20, 20), (15, 15), (10, 15))
        with pytest.raises(DataError, match="other items"):
            biased_forgetting(ledger, scale="gain_normalised", learning=by_group((20, 20), (15, 15), (10, 15)))


@pytest.mark.slow
def test_joint_intervals_cover_all_groups_and_the_test_keeps_its_size():
    """Five groups that share 30 templates, equal forgetting of 10 points: error rates over 200 ledgers."""
    covered = rejected = equal_gap = 0
    simulations, clusters, each = 200, 30, 10
    cluster = np.repeat(np.arange(clusters), each)
    groups = [["vwxyz"[i % 5]] for i in range(clusters * each)]
    for number in range(simulations):
        rng = np.random.default_rng(number)
        hard = rng.uniform(0.0, 0.2, clusters)[cluster]
        ledger = choices(np.ones(len(cluster)), (rng.random(len(cluster)) >= hard).astype(float), groups=groups, cluster=cluster)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = biased_forgetting(ledger, resamples=400, seed=number)
        rows = found.groups
        covered += bool(((rows["biased_low"] <= 0) & (rows["biased_high"] >= 0)).all())
        rejected += found.dispersion.p_value <= 0.05
        equal_gap += found.gap > 0
    assert covered / simulations >= 0.91
    assert rejected / simulations <= 0.085
    assert equal_gap / simulations > 0.95  # raw gaps are there where no bias is
