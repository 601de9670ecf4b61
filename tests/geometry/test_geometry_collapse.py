"""The figures of collapse on geometries whose values are known by hand, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fairforget.geometry import ClassMoments, collapse_statistics, linearised
from fairforget.geometry.collapse import BLOCK, frame_error, pair_figures, self_duality

TIGHT = 1e-9


def frame(count: int = 6, width: int = 16, scale: float = 3.0, seed: int = 0) -> Tensor:
    """A simplex frame of radius `scale`."""
    torch.manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, count, dtype=torch.float64)).Q
    return scale * math.sqrt(count / (count - 1)) * (torch.eye(count, dtype=torch.float64) - 1 / count) @ basis.T


def figures(means: Tensor, rows: Tensor | None = None, variance: float = 0.5, **options: bool) -> dict[str, float]:
    counts = torch.full((len(means),), 5)
    variances = torch.full((len(means),), variance, dtype=torch.float64)
    found = collapse_statistics(means, variances, counts, means if rows is None else rows, **options)
    return {name: float(value) for name, value in found.items()}


def test_a_simplex_frame_is_collapsed() -> None:
    means = frame() + torch.arange(16, dtype=torch.float64)
    found = figures(means, rows=means - means.mean(dim=0))
    expected = {
        "nc2_norm_cv": 0, "nc2_log_norm_var": 0, "nc2_cos_mean": -1 / 5, "nc2_cos_std": 0, "nc2_etf_gap": 0, "nc2_etf_error": 0,
        "gnc2_mean": -0.4377343685, "gnc2_std": 0, "nc3_mean": 1, "unc3": 0, "nc3_error": 0, "nc1_e1": 0.0231481481, "nc1": 0.0010716735,
        "nc1_w": 0.0010716735, "gnc2_w_mean": -math.log(21.6) / 2, "gnc2_w_std": 0,
    }
    assert found == pytest.approx(expected, abs=1e-9)
    assert figures(means, variance=0.0)["nc1"] == 0


def test_an_orthogonal_frame_is_a_simplex_once_centred() -> None:
    found = figures(torch.eye(4, dtype=torch.float64))
    assert found["nc2_cos_mean"] == pytest.approx(-1 / 3, abs=TIGHT)
    assert found["gnc2_mean"] == pytest.approx(-math.log(8 / 3) / 2, abs=TIGHT)
    assert found["nc2_etf_error"] == pytest.approx(0, abs=TIGHT)


def test_self_duality_tells_a_spread_from_a_direction() -> None:
    means = frame() + 2.0
    centred = means - means.mean(dim=0)
    assert figures(means, -centred)["nc3_mean"] == pytest.approx(-1, abs=TIGHT)
    assert figures(means, -centred)["unc3"] == pytest.approx(0, abs=TIGHT)  # all against their means: the spread does not see it
    half = torch.tensor([1.0, 1, 1, -1, -1, -1], dtype=torch.float64).unsqueeze(1)
    assert figures(means, half * centred)["unc3"] == pytest.approx(1.0954451150, abs=1e-9)
    assert figures(means, half * centred)["nc3_mean"] == pytest.approx(0, abs=TIGHT)
    scaled = centred * torch.arange(1, 7, dtype=torch.float64).unsqueeze(1)
    assert figures(means, scaled)["unc3"] == pytest.approx(0, abs=TIGHT)
    assert figures(means, centred + torch.arange(16, dtype=torch.float64))["nc3_mean"] < 0.9


def test_what_is_undefined_is_missing() -> None:
    two = figures(frame(2))
    assert {"unc3", "nc1"} <= set(two)
    assert not [name for name in two if name.startswith(("nc2", "gnc2", "nc3_error"))]
    assert "nc2_etf_error" not in figures(torch.randn(20, 4, dtype=torch.float64))  # no frame of 20 in 4 dimensions
    means = frame()
    means[2] = (means.sum(dim=0) - means[2]) / 5  # the mean of the others, hence of all: no direction
    assert torch.isnan(self_duality(means, frame())).tolist() == [False, False, True, False, False, False]
    alone = collapse_statistics(means, torch.zeros(6).double(), torch.ones(6, dtype=torch.int64), means)
    assert "nc1" not in alone  # one state has no spread


def test_pairs_in_blocks_are_all_pairs() -> None:
    torch.manual_seed(1)
    points, spread = torch.randn(BLOCK + 70, 3, dtype=torch.float64), torch.rand(BLOCK + 70, dtype=torch.float64)
    distances = torch.pdist(points).square()
    (mean, _), (deviation, _) = pair_figures(points, spread, lambda own, both: torch.stack([own, both]))
    assert float(mean) == pytest.approx(float(distances.mean()), rel=TIGHT)
    assert float(deviation) == pytest.approx(float(distances.std(correction=0)), rel=TIGHT)


def test_the_error_of_a_frame_is_that_of_any_scale() -> None:
    assert float(frame_error(frame() @ frame().T)) == pytest.approx(float(frame_error(100 * frame() @ frame().T)), abs=TIGHT)
    assert float(frame_error(torch.eye(6, dtype=torch.float64))) > 0.3


def moments_of(states: Tensor, classes: Tensor, splits: list[int], order: Tensor) -> ClassMoments:
    found = ClassMoments(5, states.shape[1])
    for chosen in order.split(splits):
        found.add(states[chosen], classes[chosen])
    return found


def test_moments_do_not_depend_on_batches_order_or_processes() -> None:
    torch.manual_seed(2)
    states = torch.randn(200, 7, dtype=torch.float64) + 1e4  # means far larger than spreads: Σ‖h‖² / n - ‖μ‖² would lose its digits
    classes = torch.randint(0, 4, (200,))  # the fifth is never seen
    whole = moments_of(states, classes, [200], torch.arange(200))
    direct = torch.stack([states[classes == c].var(dim=0, correction=0).sum() for c in range(4)])
    torch.testing.assert_close(whole.variances[:4], direct, rtol=1e-9, atol=0)
    assert whole.counts.tolist() == [int((classes == c).sum()) for c in range(5)]
    pieces = moments_of(states, classes, [1, 2, 97, 60, 40], torch.randperm(200))
    one, other = (moments_of(states, classes, [50, 50], order) for order in torch.arange(200).view(2, 100))
    one.merge(other)
    for found in (pieces, one):
        assert torch.equal(found.counts, whole.counts)
        torch.testing.assert_close(found.sums, whole.sums, rtol=1e-12, atol=1e-6)
        torch.testing.assert_close(found.variances, whole.variances, rtol=1e-9, atol=0)
    two = ClassMoments(1, 3)
    two.add(torch.tensor([[1.0, 0, 0], [-1, 0, 0]]), torch.zeros(2, dtype=torch.int64))
    assert float(two.variances[0]) == 1


def test_slopes_are_those_of_the_figures() -> None:
    torch.manual_seed(3)
    means, variances, rows = torch.randn(6, 9).double(), torch.rand(6).double(), torch.randn(6, 9).double()
    counts = torch.full((6,), 4)
    values, by_mean, by_variance = linearised(means, variances, counts, rows)
    step = 1e-6
    moved = means.clone()
    moved[1, 2] += step
    after = collapse_statistics(moved, variances, counts, rows)
    assert list(values) == list(after)
    for number, name in enumerate(values):
        assert float(by_mean[number, 1, 2]) == pytest.approx((float(after[name]) - values[name]) / step, rel=1e-3, abs=1e-5)
    wider = variances.clone()
    wider[3] += step
    after = collapse_statistics(means, wider, counts, rows)
    place = list(values).index("nc1_e1")
    assert float(by_variance[place, 3]) == pytest.approx((float(after["nc1_e1"]) - values["nc1_e1"]) / step, rel=1e-4)


def test_figures_do_not_turn_with_the_space() -> None:
    torch.manual_seed(4)
    means, rows = torch.randn(7, 8).double(), torch.randn(7, 8).double()
    turn = torch.linalg.qr(torch.randn(8, 8).double()).Q
    assert figures(means @ turn, rows @ turn) == pytest.approx(figures(means, rows), rel=1e-9)
    assert not np.isclose(figures(means @ turn, rows)["unc3"], figures(means, rows)["unc3"])
