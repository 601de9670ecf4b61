"""Texts and their counterfactuals: the swap of a word list, or the counterpart that a source gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from fairforget.data.swaps import ExactSwapper, Swapper
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.data.words import find_word_list
from fairforget.errors import UsageError

Counterfactuals = Literal["auto", "swap", "source"]


class Swap(Protocol):
    """Exchanges the groups in a text."""

    def swap(self, text: str) -> str:
        """The text about another group; a text without a listed word comes back unchanged."""
        ...


def find_swap(words: str, *, names: bool, exact: bool, seed: int) -> Swap:
    """The swap of a word list.

    Args:
        words: name of a list or path of one, see :func:`fairforget.data.words.find_word_list`.
        names: whether first names are exchanged too, where the list has some.
        exact: Bias Bench's rule in place of ours; it knows no names.
        seed: of the draw of a target for three or more groups.
    """
    chosen = find_word_list(words)
    return ExactSwapper(chosen, seed=seed) if exact else Swapper(chosen, names=names, seed=seed)


def with_counterfactuals(
    data: TrainingSource | Sequence[TrainingText] | Sequence[str], swap: Swap, kind: Counterfactuals = "auto"
) -> tuple[list[tuple[str, str]], list[str]]:
    """Pair each text with its counterfactual.

    Args:
        data: training data.
        swap: exchanges the groups in a text.
        kind: ``swap``, ``source`` (the counterpart that the source gives) or ``auto``: the source's where it gives one, else the swap.

    Returns:
        (text, counterfactual) of the texts that have one, and the texts that have none.

    Raises:
        UsageError: no text has one.
    """
    pairs: list[tuple[str, str]] = []
    unmatched: list[str] = []
    for row in data.texts if isinstance(data, TrainingSource) else data:
        text, own = (row, "") if isinstance(row, str) else (row.text, row.counterpart)
        other = own if kind == "source" or (kind == "auto" and own) else swap.swap(text)
        if other and other != text:
            pairs.append((text, other))
        else:
            unmatched.append(text)
    if not pairs:
        needed = {"source": "a counterpart of its own", "swap": "a listed word"}.get(kind, "a counterpart of its own or a listed word")
        raise UsageError(f"None of the {len(unmatched)} training texts has {needed}: train on others (train.source), or set method.words.")
    return pairs, unmatched
