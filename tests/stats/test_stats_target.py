"""The target of the strength search: by hand, unbiased in its square, honest at neutral."""

import numpy as np
import pytest

from fairforget.errors import DataError
from fairforget.stats import domain_rms


def labels(domains, clusters, size):
    domain = np.repeat([f"domain {d}" for d in range(domains)], clusters * size)
    return domain, np.repeat(np.arange(domains * clusters), size)


def test_by_hand():
    # Domain a: means of clusters 1, 2, 3, 4 with one item each: m = 2.5, v = (2.25 + .25 + .25 + 2.25) / 3 / 4 = 5/12.
    # Domain b: -2, -2, -1, -1: m = -1.5, v = 1/12. Square: (6.25 - 5/12 + 2.25 - 1/12) / 2 = 4.
    margins = np.array([1, 2, 3, 4, -2, -2, -1, -1.0])
    target = domain_rms(margins, np.array(list("aaaabbbb")), np.arange(8))
    assert target.value == pytest.approx(2.0)
    assert target.signed_mean == pytest.approx(0.5)
    assert target.signed_standard_error == pytest.approx(np.sqrt(5 / 12 + 1 / 12) / 2)
    signal = 4 * (6.25 * 5 / 12 + 2.25 / 12)
    noise = (5 / 12) ** 2 + (1 / 12) ** 2
    square_error = np.sqrt(signal - 2 * noise) / 2
    assert target.standard_error == pytest.approx((np.sqrt(4 + square_error) - np.sqrt(4 - square_error)) / 2)
    assert target.standard_error == pytest.approx(square_error / (2 * 2.0), rel=0.03)  # the delta method
    assert target.domains["a"].mean == 2.5
    assert target.domains["a"].variance == pytest.approx(5 / 12)
    assert (target.domains["b"].clusters, target.domains["b"].items, target.note) == (4, 4, "")


def test_opposite_biases_do_not_cancel():
    domain, cluster = labels(2, 10, 1)
    margins = np.where(domain == "domain 0", 1.0, -1.0) + np.tile([0.1, -0.1], 10)
    target = domain_rms(margins, domain, cluster)
    assert abs(target.signed_mean) < 1e-12
    assert target.value == pytest.approx(1.0, abs=0.01)


def test_clusters_count_once():
    rng = np.random.default_rng(0)
    domain, cluster = labels(3, 12, 1)
    margins = rng.normal(0.5, 1, 36)
    once = domain_rms(margins, domain, cluster)
    copied = domain_rms(np.repeat(margins, 20), np.repeat(domain, 20), np.repeat(cluster, 20))
    assert copied.value == pytest.approx(once.value)
    assert copied.standard_error == pytest.approx(once.standard_error)


@pytest.mark.parametrize("true_margins", [np.zeros(6), np.array([0.3, -0.3, 0.5, 0.0, 0.2, -0.1])])
def test_square_is_unbiased_and_its_standard_error_honest(true_margins):
    domain, cluster = labels(6, 20, 3)
    place = np.repeat(np.arange(6), 60)
    squares, raw, errors, misses = [], [], [], 0
    truth = np.sqrt(np.mean(true_margins**2))
    for seed in range(500):
        rng = np.random.default_rng(seed)
        margins = true_margins[place] + rng.normal(0, 0.7, 120)[cluster] + rng.normal(0, 0.7, 360)
        target = domain_rms(margins, domain, cluster)
        means = np.array([entry.mean for entry in target.domains.values()])
        squares.append(np.mean(means**2 - [entry.variance for entry in target.domains.values()]))
        raw.append(np.mean(means**2))
        errors.append(target.standard_error)
        misses += abs(target.value - truth) > 1.96 * target.standard_error
    assert np.mean(squares) == pytest.approx(truth**2, abs=4 * np.std(squares) / np.sqrt(500))
    assert np.mean(raw) > truth**2 + 0.02  # noise variance is (0.49 + 0.49 / 3) / 20 = 0.033
    assert misses / 500 <= 0.09
    if truth > 0:
        assert np.mean(errors) == pytest.approx(np.std(np.sqrt(np.maximum(squares, 0))), rel=0.25)


def test_shared_clusters_make_domains_move_together():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 1, 30)
    margins = np.concatenate([shared, shared + rng.normal(0, 0.01, 30)])
    domain = np.repeat(["a", "b"], 30)
    together = domain_rms(margins, domain, np.tile(np.arange(30), 2))
    apart = domain_rms(margins, domain, np.arange(60))
    assert together.signed_standard_error == pytest.approx(np.sqrt(2) * apart.signed_standard_error, rel=0.02)
    assert together.value == apart.value


def test_degenerate():
    empty = domain_rms(np.array([]), np.array([]), np.array([]))
    assert np.isnan([empty.value, empty.signed_mean]).all()
    assert empty.note == "nothing was measured"

    skipped = domain_rms(np.array([1.0, np.nan, 2, 3, 4, 5]), np.array(["a"] * 6), np.arange(6))
    assert skipped.domains["a"].items == 5
    assert skipped.domains["a"].mean == 3.0

    few = domain_rms(np.arange(4.0), np.array(["a"] * 4), np.arange(4))
    assert few.note == "too few clusters (4)"
    assert np.isfinite(few.value)
    assert np.isnan([few.standard_error, few.signed_standard_error]).all()

    lonely = domain_rms(np.append(np.arange(6.0), 50.0), np.array(["a"] * 6 + ["b"]), np.arange(7))
    assert lonely.note == "1 of 2 domains have one cluster and are left out"
    assert lonely.value == domain_rms(np.arange(6.0), np.array(["a"] * 6), np.arange(6)).value
    assert np.isnan(lonely.domains["b"].variance)

    alone = domain_rms(np.arange(6.0), np.array(["a"] * 3 + ["b"] * 3), np.array([0] * 3 + [1] * 3))
    assert np.isnan([alone.value, alone.standard_error]).all()
    assert alone.signed_mean == 2.5

    flat = domain_rms(np.full(20, 0.7), np.array(["a", "b"] * 10), np.arange(20))
    assert flat.value == pytest.approx(0.7)
    assert np.isnan(flat.standard_error)
    assert flat.note == "no variation between clusters"

    neutral = domain_rms(np.tile([1.0, -1.0], 10), np.array(["a"] * 20), np.arange(20))
    assert neutral.value == 0.0
    assert 0 < neutral.standard_error < 1

    with pytest.raises(DataError, match="infinite"):
        domain_rms(np.array([1.0, np.inf]), np.array(["a", "a"]), np.arange(2))
    with pytest.raises(DataError, match="each of 3 margins"):
        domain_rms(np.ones(3), np.array(["a"]), np.arange(3))
