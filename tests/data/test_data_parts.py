"""The cut into parts: clusters whole, shares kept, the same in any order."""

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairforget.data.parts import SELECT_TEST, TRAIN_SELECT_TEST, assign_parts, home_strata

items = st.lists(st.tuples(st.text("abcdefgh", max_size=2), st.sampled_from("xyz")), max_size=60)


@given(items, st.sampled_from([TRAIN_SELECT_TEST, SELECT_TEST, {"only": 1.0}]))
def test_clusters_stay_whole_and_shares_are_kept_within_strata(rows, shares):
    clusters, strata = [row[0] for row in rows], [row[1] for row in rows]
    parts = assign_parts(clusters, strata, shares)
    part_of, inside = defaultdict(set), defaultdict(set)
    for cluster, part, home in zip(clusters, parts, home_strata(clusters, strata), strict=True):
        part_of[cluster].add(part)
        inside[home].add(cluster)
    assert all(len(found) == 1 for found in part_of.values())
    for members in inside.values():
        cumulative = 0.0
        reached = 0
        for name, share in shares.items():
            cumulative += share
            reached += sum(part_of[cluster] == {name} for cluster in members)
            assert abs(reached - cumulative * len(members)) <= 0.5 + 1e-9


@given(items, st.randoms(use_true_random=False))
def test_order_and_repetition_of_items_do_not_matter(rows, random):
    clusters = [row[0] for row in rows]
    strata = home_strata(clusters, [row[1] for row in rows])
    whole = dict(zip(clusters, assign_parts(clusters, strata, TRAIN_SELECT_TEST), strict=True))
    order = random.sample(range(len(rows)), len(rows)) * 2
    again = assign_parts([clusters[i] for i in order], [strata[i] for i in order], TRAIN_SELECT_TEST)
    assert again == [whole[clusters[i]] for i in order]


@given(st.sets(st.text("abcdef", min_size=1, max_size=3), max_size=30), st.sets(st.text("uvwxyz", min_size=1, max_size=3), max_size=30))
def test_a_stratum_is_cut_without_regard_to_the_others(first, second):
    alone = assign_parts(sorted(first), ["a"] * len(first), SELECT_TEST)
    both = assign_parts([*sorted(second), *sorted(first)], ["b"] * len(second) + ["a"] * len(first), SELECT_TEST)
    assert both[len(second) :] == alone


def test_known_answer():
    """sha256sum of "fairforget:d" is 114e.., of c 31d0.., e 780f.., b cb0a.., a f423..; another order would move every reported item."""
    assert assign_parts(list("abcde"), ["s"] * 5, TRAIN_SELECT_TEST) == ["test", "test", "train", "train", "select"]


def test_salt_gives_another_cut():
    clusters = [str(number) for number in range(100)]
    cuts = {tuple(assign_parts(clusters, ["s"] * 100, SELECT_TEST, salt)) for salt in ("fairforget", "another", "third")}
    assert len(cuts) == 3


def test_a_half_cluster_falls_to_the_later_part():
    assert assign_parts(["a"], ["s"], SELECT_TEST) == ["test"]
    assert sorted(assign_parts(list("abc"), ["s"] * 3, SELECT_TEST)) == ["select", "test", "test"]


def test_the_home_of_a_cluster_is_its_most_frequent_stratum_and_the_first_of_equals():
    assert home_strata(["c", "c", "c", "d", "d"], ["y", "x", "y", "y", "x"]) == ["y", "y", "y", "x", "x"]


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": math.nan}])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(ValueError, match="sum to 1"):
        assign_parts(["c"], ["s"], shares)


def test_lengths_must_agree():
    with pytest.raises(ValueError):
        assign_parts(["c"], [], SELECT_TEST)
