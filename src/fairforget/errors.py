"""Errors that are sentences: what is wrong, where, and what to do.

The command line prints them without a traceback: exit code 2 for a mistake in what was typed or written in a recipe, 1 for a run that
failed, 130 for Ctrl-C.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FairforgetError(Exception):
    """A run that cannot go on, said in one sentence."""

    exit_code = 1


class UsageError(FairforgetError):
    """A mistake in what the user typed: a name, an option, a recipe field, a model or data of the wrong kind."""

    exit_code = 2


class DataError(FairforgetError):
    """A file that is not what it should be: a wrong hash, a missing column, a truncated or empty file."""


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ", did you mean a, b?" for a name near known ones, else the list of all known names.

    Args:
        name: what the user typed.
        known: every name that would have been right.
        count: how many near names to offer.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known are: {', '.join(names) or 'none'}."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, with the nearest known names."""
    return UsageError(f"There is no {kind} named '{name}': {nearest_names(name, known)}")
