"""The strength of an edit is the α of weight interpolation (WiSE-FT, Wortsman et al. 2022): (1 - α) θ₀ + α θ₁."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fairforget.edits import Dense, LowRank
from fairforget.edits.deltas import edited_tensor

ALPHAS = st.floats(0, 1)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(alpha=ALPHAS, seed=st.integers(0, 99))
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_dense_edit_interpolates_the_weights(alpha: float, seed: int) -> None:
    generator = draws(seed)
    base, tuned = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    edit = Dense(tuned - base)
    torch.testing.assert_close(edited_tensor(base, [(edit, alpha)]), (1 - alpha) * base + alpha * tuned, atol=1e-6, rtol=1e-6)
    assert edited_tensor(base, [(edit, 0.0)]).numpy().tobytes() == base.numpy().tobytes()
    torch.testing.assert_close(edited_tensor(base, [(edit, 1.0)]), tuned, atol=1e-6, rtol=0)


@given(alpha=ALPHAS, seed=st.integers(0, 99), transposed=st.booleans())
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_low_rank_edit_at_a_strength_is_the_interpolation_of_merged_weights(alpha: float, seed: int, transposed: bool) -> None:
    generator = draws(seed)
    delta = LowRank(torch.randn(2, 6, generator=generator), torch.randn(3, 2, generator=generator), scale=0.25)
    base = torch.randn((6, 3) if transposed else (3, 6), generator=generator)
    merged = edited_tensor(base, [(delta, 1.0)], transposed=transposed)
    found = edited_tensor(base, [(delta, alpha)], transposed=transposed)
    torch.testing.assert_close(found, (1 - alpha) * base + alpha * merged, atol=1e-6, rtol=1e-6)
