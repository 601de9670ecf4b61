"""Numbers as text: one rounding per unit, a true minus sign, and dashes where there is no number."""

from __future__ import annotations

import math

MISSING = "–"
_NO_BREAK = "\u00a0"
_LARGE = 1e7
"""From here on decimals say nothing: the perplexity of a broken model has twelve digits."""
_DECIMALS = {"%": 1, "pp": 1, "nats": 3, "ppl": 2, "ratio": 3}


def is_number(value: float | None) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, unit: str | None = None, *, signed: bool = False) -> str:
    """The bare number, rounded as its unit is.

    Args:
        value: the number; None and NaN print as a dash.
        unit: "%", "nats", "ppl", "ratio" or any other; others get four significant digits.
        signed: write a plus sign before positive numbers.
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    decimals = _DECIMALS.get(unit or "")
    text = f"{value:.4g}" if decimals is None or abs(value) >= _LARGE else f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")  # what rounds to zero has no sign
    elif signed and value > 0:
        text = f"+{text}"
    return text.replace("-", "−").replace(",", _NO_BREAK)


def quantity(value: float | None, unit: str | None = None, *, signed: bool = False) -> str:
    """The number with its unit; a signed percentage is a difference of percentages, so percentage points ("pp")."""
    text = number(value, unit, signed=signed)
    if text == MISSING:
        return text
    return with_unit(text, "pp" if unit == "%" and signed else "" if unit == "ratio" and signed else unit)


def with_unit(text: str, unit: str | None) -> str:
    """A number that is text already, with its unit."""
    if not unit:
        return text
    return f"×{text}" if unit == "ratio" else f"{text}{_NO_BREAK}{unit}"


def bounds(low: float | None, high: float | None, unit: str | None = None, *, signed: bool = False) -> str:
    """The interval as "[low, high]", or "" where there is none."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, unit, signed=signed)}, {number(high, unit, signed=signed)}]"


def count(value: float | None) -> str:
    """A count with thin groups of three digits."""
    return MISSING if value is None or math.isnan(value) else f"{int(value):,}".replace(",", _NO_BREAK)


def duration(seconds: float | None) -> str:
    """Seconds as "4 min 10 s"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_NO_BREAK}h {minutes}{_NO_BREAK}min" if hours else f"{minutes}{_NO_BREAK}min {rest}{_NO_BREAK}s"
