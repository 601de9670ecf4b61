"""Lanczos, power iteration and the trace against eigenvalues that are known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairforget.errors import FairforgetError, UsageError
from fairforget.forgetting.lanczos import hutchinson_trace, lanczos, power_iteration, random_vector

DIAGONAL = torch.diag(torch.tensor([5.0, 2.0, -7.0], dtype=torch.float64))


def symmetric(size, seed, dtype=torch.float64):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (matrix + matrix.T) / 2


def product(matrix):
    return lambda vector: matrix @ vector


def test_diagonal_of_the_spec():
    found = lanczos(product(DIAGONAL), random_vector(DIAGONAL[0], 0))
    np.testing.assert_allclose(found.values, [-7, 2, 5], atol=1e-12)
    assert found.values[found.dominant] == pytest.approx(-7)
    assert found.products == 3
    assert power_iteration(product(DIAGONAL), random_vector(DIAGONAL[0], 0), iterations=200).value == pytest.approx(-7, abs=1e-9)


def test_a_closed_space_ends_the_iteration_with_eigenvalues():
    matrix = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    found = lanczos(product(matrix), random_vector(matrix[0], 1))
    assert found.products == 2
    np.testing.assert_allclose(found.values, [1, 3], atol=1e-12)
    np.testing.assert_allclose(found.errors, 0, atol=1e-12)


def test_zero_operator():
    found = lanczos(torch.zeros_like, torch.ones(4))
    assert (found.values.tolist(), found.errors.tolist(), found.products) == ([0.0], [0.0], 1)
    assert power_iteration(torch.zeros_like, torch.ones(4)).value == 0


@given(st.integers(2, 25), st.integers(1, 12), st.integers(0, 10_000))
def test_an_eigenvalue_lies_within_the_residual_of_every_value(size, vectors, seed):
    matrix = symmetric(size, seed)
    found = lanczos(product(matrix), random_vector(matrix[0], seed), vectors=vectors)
    truth = torch.linalg.eigvalsh(matrix).numpy()
    assert truth[0] - 1e-9 <= found.values[0] <= found.values[-1] <= truth[-1] + 1e-9
    for value, error in zip(found.values, found.errors, strict=True):
        assert np.abs(truth - value).min() <= error + 1e-9


def test_float32_without_ghosts():
    """Without reorthogonalisation the outlier would come back as copies of itself."""
    values = torch.cat([torch.linspace(-1, 1, 398), torch.tensor([50.0, -30.0])])
    found = lanczos(lambda vector: values * vector, random_vector(values, 3), vectors=60)
    assert found.values[-1] == pytest.approx(50, rel=1e-5)
    assert found.values[0] == pytest.approx(-30, rel=1e-5)
    assert (np.abs(found.values) > 2).sum() == 2


def test_tolerance_saves_products():
    values = torch.cat([torch.linspace(-1, 1, 198, dtype=torch.float64), torch.tensor([50.0, -30.0], dtype=torch.float64)])
    found = lanczos(lambda vector: values * vector, random_vector(values, 3), vectors=60, tolerance=1e-6)
    assert found.products < 20
    assert found.values[-1] == pytest.approx(50, rel=1e-6)


def test_power_iteration_says_how_far_it_is():
    matrix = symmetric(30, 5)
    truth = torch.linalg.eigvalsh(matrix)
    found = power_iteration(product(matrix), random_vector(matrix[0], 0), iterations=5)
    assert (truth - found.value).abs().min() <= found.error
    assert abs(found.value) <= truth.abs().max()


def test_trace_covers_the_truth_and_is_exact_for_diagonals():
    assert hutchinson_trace(product(DIAGONAL), DIAGONAL[0], probes=2).value == pytest.approx(0, abs=1e-12)
    matrix = symmetric(60, 7)
    found = [hutchinson_trace(product(matrix), matrix[0], probes=20, seed=seed) for seed in range(60)]
    z = np.array([(one.value - float(matrix.trace())) / one.error for one in found])
    assert abs(z.mean()) < 0.5
    assert 0.8 < (np.abs(z) < 2.09).mean() <= 1.0  # t with 19 degrees of freedom


def test_wrong_numbers_are_refused():
    with pytest.raises(UsageError, match="two probes"):
        hutchinson_trace(product(DIAGONAL), DIAGONAL[0], probes=1)
    with pytest.raises(UsageError, match="at least one vector"):
        lanczos(product(DIAGONAL), DIAGONAL[0], vectors=0)
    with pytest.raises(UsageError, match="at least one product"):
        power_iteration(product(DIAGONAL), DIAGONAL[0], iterations=0)
    with pytest.raises(FairforgetError, match="not finite"):
        lanczos(lambda vector: vector * float("nan"), DIAGONAL[0])
