"""Holm and Benjamini-Hochberg against hand-worked figures and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from fairforget.errors import UsageError
from fairforget.stats import benjamini_hochberg, holm

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


def test_benjamini_hochberg_by_hand():
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.04, 0.03, 0.5]), [0.04, 0.16 / 3, 0.16 / 3, 0.5])


@given(p_lists)
def test_benjamini_hochberg_equals_scipy(p_values):
    np.testing.assert_allclose(benjamini_hochberg(p_values), false_discovery_control(p_values), rtol=1e-12)


@given(p_lists)
def test_holm_rejects_as_its_step_down_procedure(p_values):
    adjusted, level = holm(p_values), 0.05
    rejected = np.zeros(len(p_values), dtype=bool)
    for step, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected[place] = True
    assert ((adjusted <= level) == rejected).all()


@given(p_lists)
def test_order_of_the_methods(p_values):
    bonferroni = np.minimum(np.array(p_values) * len(p_values), 1)
    assert (holm(p_values) <= bonferroni + 1e-12).all()
    assert (benjamini_hochberg(p_values) <= holm(p_values) + 1e-12).all()
    assert (benjamini_hochberg(p_values) >= np.array(p_values) - 1e-12).all()


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_degenerate(adjust):
    assert adjust([]).shape == (0,)
    assert np.isnan(adjust([np.nan])).all()
    with_gap = adjust([0.01, np.nan, 0.04])
    np.testing.assert_allclose(with_gap[[0, 2]], adjust([0.01, 0.04]))
    assert np.isnan(with_gap[1])
    for wrong in ([1.2], [-0.1], [[0.1, 0.2]]):
        with pytest.raises(UsageError, match="between 0 and 1"):
            adjust(wrong)
