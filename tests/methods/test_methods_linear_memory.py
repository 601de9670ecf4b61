"""Closed-form changes of a linear memory: by hand, against dense least squares, and what cannot be solved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairforget.edits import LowRank
from fairforget.errors import UsageError
from fairforget.methods._linear_memory import exact_update, least_squares_update, shrunk

R = torch.tensor([[1.0, 3.0]])


def dense(change: LowRank) -> torch.Tensor:
    return change.matrix(transposed=False, dtype=torch.float64)


def test_rank_one_by_hand_with_the_identity() -> None:
    change = exact_update(torch.tensor([[2.0, 0.0]]), R, torch.eye(2))
    torch.testing.assert_close(dense(change), torch.tensor([[0.5, 0.0], [1.5, 0.0]], dtype=torch.float64))
    assert change.rank == 1


def test_rank_one_by_hand_with_a_general_second_moment() -> None:
    # C⁻¹ = [[1, -1], [-1, 2]], C⁻¹k = [1, -1], kᵀC⁻¹k = 1.
    moment, key = torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    change = dense(exact_update(key, R, moment))
    torch.testing.assert_close(change, torch.tensor([[1.0, -1.0], [3.0, -3.0]], dtype=torch.float64))
    assert (change @ key[0].double()).tolist() == [1.0, 3.0]
    other = dense(exact_update(key, R, torch.eye(2)))
    cost = [float(torch.trace(one @ moment.double() @ one.T)) for one in (change, other)]
    assert cost == [10.0, 20.0]  # usual inputs are disturbed least by the one that knows them


def test_least_squares_by_hand() -> None:
    change = least_squares_update(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0]]), torch.eye(2), 1.0)
    assert dense(change).tolist() == [[2.0, 0.0]]  # 4 · kᵀ (I + kkᵀ)⁻¹: half of what was asked for
    change = least_squares_update(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0]]), torch.eye(2), 3.0)
    assert dense(change).tolist() == [[1.0, 0.0]]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.floats(0.1, 10), st.integers(0, 10_000))
def test_least_squares_is_the_dense_solution(keys: int, inputs: int, outputs: int, weight: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    k, r = torch.randn((keys, inputs), generator=generator), torch.randn((keys, outputs), generator=generator)
    factor = torch.randn((inputs, inputs), generator=generator) + 2 * torch.eye(inputs)
    moment = factor @ factor.T + 0.1 * torch.eye(inputs)
    change = dense(least_squares_update(k, r, moment, weight))
    root = torch.linalg.cholesky(moment.double())
    left = torch.cat([k.double(), weight**0.5 * root.T])
    right = torch.cat([r.double(), torch.zeros((inputs, outputs), dtype=torch.float64)])
    torch.testing.assert_close(change, torch.linalg.lstsq(left, right).solution.T, atol=1e-3, rtol=1e-3)


@given(st.integers(1, 4), st.integers(0, 10_000))
def test_exact_values_are_reached_and_are_the_limit_of_least_squares(keys: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    k = torch.eye(keys, 6) * 2 + 0.2 * torch.randn((keys, 6), generator=generator)
    r, factor = torch.randn((keys, 3), generator=generator), 0.3 * torch.randn((6, 6), generator=generator)
    moment = factor @ factor.T + torch.eye(6)
    change = exact_update(k, r, moment)
    assert change.rank == keys
    torch.testing.assert_close(dense(change) @ k.double().T, r.double().T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dense(least_squares_update(k, r, moment, 1e-6)), dense(change), atol=1e-3, rtol=1e-3)


def test_equal_keys_cannot_have_their_own_values_exactly() -> None:
    keys = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]])
    with pytest.raises(UsageError, match="least-squares"):
        exact_update(keys, torch.ones((2, 1)), torch.eye(3))
    with pytest.raises(UsageError, match="shrinkage"):
        exact_update(keys[:1], torch.ones((1, 1)), torch.zeros((3, 3)))


def test_shrinkage_by_hand() -> None:
    moment = shrunk(torch.tensor([[4.0, 2.0], [2.0, 2.0]]), 0.5)
    torch.testing.assert_close(moment, torch.tensor([[4.0, 1.0], [1.0, 2.0]]), atol=1e-5, rtol=0)
    assert shrunk(torch.tensor([[4.0, 2.0], [2.0, 2.0]]), 0.0).tolist() == [[4.0, 2.0], [2.0, 2.0]]


def test_one_massive_input_does_not_keep_the_others_from_being_edited() -> None:
    keys = torch.randn((200, 4), generator=torch.Generator().manual_seed(0))
    keys[0] = torch.tensor([1e4, 0.0, 0.0, 0.0])  # the first token of a text in some models
    key, wanted = torch.tensor([[0.0, 2.0, 1.0, 0.0]]), torch.tensor([[1.0]])
    change = dense(least_squares_update(key, wanted, shrunk(keys.T @ keys / 200, 0.05), 1.0))
    assert (change @ key[0].double()).item() > 0.5
