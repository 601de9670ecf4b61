"""p-values adjusted for having looked at many: Holm (family-wise error) and Benjamini-Hochberg (false discovery rate)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairforget.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values, valid under any dependence (Holm 1979, Scand. J. Statist. 6).

    Args:
        p_values: (M,); ``nan`` is a test that could not be made: it stays ``nan`` and is not counted.

    Returns:
        (M,) adjusted p-values in the order given; compare each with the family-wise level.

    Raises:
        UsageError: a value lies outside [0, 1], or the input is not one-dimensional.
    """
    values, made, order = _ordered(p_values)
    count = len(order)
    steps = np.maximum.accumulate(values[made][order] * (count - np.arange(count)))
    return _put_back(values, made, order, steps)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Benjamini-Hochberg adjusted p-values, for independent or positively dependent tests (1995, J. R. Statist. Soc. B 57).

    Args:
        p_values: (M,); ``nan`` as in :func:`holm`.

    Returns:
        (M,) adjusted p-values in the order given; compare each with the false discovery rate.

    Raises:
        UsageError: as in :func:`holm`.
    """
    values, made, order = _ordered(p_values)
    count = len(order)
    scaled = values[made][order] * count / np.arange(1, count + 1)
    return _put_back(values, made, order, np.minimum.accumulate(scaled[::-1])[::-1])


def _ordered(p_values: ArrayLike) -> tuple[Floats, NDArray[np.bool_], NDArray[np.intp]]:
    values = np.asarray(p_values, dtype=np.float64)
    made = ~np.isnan(values)
    if values.ndim != 1 or ((values[made] < 0) | (values[made] > 1)).any():
        raise UsageError("p-values are a list of numbers between 0 and 1.")
    return values, made, np.argsort(values[made], kind="stable")


def _put_back(values: Floats, made: NDArray[np.bool_], order: NDArray[np.intp], steps: Floats) -> Floats:
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(steps, 1.0)
    result = np.full_like(values, np.nan)
    result[made] = adjusted
    return result
