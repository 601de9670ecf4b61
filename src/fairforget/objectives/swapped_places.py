"""The stream and the word sets of the divergence between a text and its counterfactual."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from fairforget.data.words import WordList
from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.training.objective import IGNORED
from fairforget.training.streams import Row

PRONOUNS = ((("he",), ("she",)), (("him", "his"), ("her", "hers")), (("himself",), ("herself",)))
"""Pronouns that correspond; those that English tells apart for one gender only are one outcome."""


class SwappedPlaces:
    """Pairs of a text and its counterfactual, with places labelled at which their predictions are compared.

    Places ``group``: where one group word stands for another (the predictions are made of what stands around or before it); masked models
    have one of them masked at each visit, in both texts. Places ``other``: tokens that both share, after the first change (causal), or a
    share `masking_rate` of them, masked in both texts (masked models).

    Args:
        model: whose tokenizer and family decide ids and labels.
        pairs: text and counterfactual.
        words: ids of group words; a place counts as ``group`` where both sides have one of them.
        places: which places are labelled.
        max_length: longer pairs are left out.
        masking_rate: masked models, places ``other``: share labelled at each visit, at least one.
        seed: the draw is a function of (seed, row, visit) alone.

    Attributes:
        left_out: pairs that are too long or have no such place.

    Raises:
        UsageError: no pair is left.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[tuple[str, str]],
        words: Iterable[int],
        *,
        places: Literal["group", "other"] = "group",
        max_length: int = 128,
        masking_rate: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.model, self.places, self.masking_rate, self.seed = model, places, masking_rate, seed
        self.words = frozenset(words)
        limit = min(max_length, model.max_length)
        self.rows: list[tuple[list[int], list[int], list[tuple[int, int]]]] = []
        for pair in pairs:
            first, second = ([*model.prefix, *model.sequence_ids(text)] for text in pair)
            found = self._found(first, second)
            if found and max(len(first), len(second)) <= limit:
                self.rows.append((first, second, found))
        self.left_out = len(pairs) - len(self.rows)
        if not self.rows:
            raise UsageError(
                f"None of the {len(pairs)} texts has a place to compare: each needs a group word that is one token on both sides, within "
                f"{limit} tokens."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """Both texts of a pair at its n-th visit; labels stand at as many places in both."""
        index %= len(self.rows)
        first, second, found = self.rows[index]
        if self.model.family == "masked":
            number = 1 if self.places == "group" else max(1, round(len(found) * self.masking_rate))
            chosen = np.random.default_rng([self.seed, index, visit]).choice(len(found), number, replace=False)
            found = [found[place] for place in sorted(chosen.tolist())]
        (ids, labels), (other_ids, other_labels) = (self._labelled(side, [place[which] for place in found])
                                                    for which, side in enumerate((first, second)))
        return {"ids": ids, "labels": labels, "other_ids": other_ids, "other_labels": other_labels}

    def _labelled(self, ids: Sequence[int], places: Sequence[int]) -> tuple[list[int], list[int]]:
        shown, labels = list(ids), [IGNORED] * len(ids)
        for place in places:
            labels[place] = ids[place]
            shown[place] = ids[place] if self.model.mask_id is None else self.model.mask_id
        return shown, labels

    def _found(self, first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
        """Places in the first and the second text that are compared."""
        codes = difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
        if self.places == "group":
            starts = [(code[1], code[3]) for code in codes if code[0] == "replace"]
            found = [place for place in starts if first[place[0]] in self.words and second[place[1]] in self.words]
        else:
            changes = [number for number, code in enumerate(codes) if code[0] != "equal"]
            kept = codes[changes[0] :] if changes and self.model.family == "causal" else codes if changes else []
            found = [(code[1] + step, code[3] + step) for code in kept if code[0] == "equal" for step in range(code[2] - code[1])]
        if self.model.family == "causal":
            return [place for place in found if min(place) > 0]
        ends = (len(first) - 1, len(second) - 1)
        return [place for place in found if 0 < place[0] < ends[0] and 0 < place[1] < ends[1]]


def group_outcomes(model: Model, words: WordList) -> tuple[list[list[int]], list[int]]:
    """Outcomes that a list of two groups names: token ids of each word, and the number of the word that takes its place.

    A word counts in all forms that are one token (with and without a space before, small or capital); a row without such a form on both
    sides is left out, and of several rows with one word the first has it.

    Raises:
        UsageError: the list has more than two groups, or no row whose words are one token.
    """
    if len(words.groups) != 2:
        raise UsageError(
            f"compare=group-words exchanges two groups, and the word list '{words.name}' has {len(words.groups)}: use "
            "compare=stereotype-words."
        )
    rows = [*(PRONOUNS if words.pronouns else ()), *(((first,), (second,)) for first, second in words.rows)]
    taken: set[int] = set()
    outcomes: list[list[int]] = []
    for row in rows:
        sides = [[token for word in side for token in single_tokens(model, word) if token not in taken] for side in row]
        sides = [list(dict.fromkeys(side)) for side in sides]
        if all(sides) and set(sides[0]).isdisjoint(sides[1]):
            outcomes += sides
            taken.update(*sides)
    if not outcomes:
        raise UsageError(f"No pair of the word list '{words.name}' is one token for the tokenizer of {model.name}.")
    return outcomes, [number ^ 1 for number in range(len(outcomes))]


def word_outcomes(model: Model, words: Iterable[str]) -> tuple[list[list[int]], list[int]]:
    """Outcomes of words that a swap leaves alone, each taking its own place.

    Raises:
        UsageError: fewer than two words are one token.
    """
    taken: set[int] = set()
    outcomes: list[list[int]] = []
    for word in words:
        ids = [token for token in dict.fromkeys(single_tokens(model, word)) if token not in taken]
        if ids:
            outcomes.append(ids)
            taken.update(ids)
    if len(outcomes) < 2:
        raise UsageError(f"Fewer than two of the words to compare are one token for the tokenizer of {model.name}.")
    return outcomes, list(range(len(outcomes)))


def single_tokens(model: Model, word: str) -> list[int]:
    """Ids that stand for a word alone: its forms with and without a space before, small and with a capital, that are one known token."""
    unknown = model.tokenizer.unk_token_id
    forms = [space + form for space in (" ", "") for form in (word, word[0].upper() + word[1:])]
    found = [model.token_ids(form) for form in forms]
    return [ids[0] for ids in found if len(ids) == 1 and ids[0] != unknown]
