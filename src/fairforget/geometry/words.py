"""Sets of word classes: lists of group words as token ids, the whole vocabulary, and controls drawn at random or by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from fairforget.data.words import find_word_list, group_words
from fairforget.errors import UsageError
from fairforget.models.model import Model

Pieces: TypeAlias = Literal["whole_word", "first_piece"]
"""``whole_word``: a word that is more than one token is dropped; ``first_piece``: its first token stands for it, be it "to" or "men"."""

Control: TypeAlias = Literal["random", "matched"]


@dataclass(frozen=True)
class WordSet:
    """Words as classes.

    Attributes:
        name: of the set.
        ids: token id of each class, ascending.
        words: what each reads.
        groups: group of each; empty text where there is none.
        dropped: how many words of the list were left out, by reason.
    """

    name: str
    ids: tuple[int, ...]
    words: tuple[str, ...]
    groups: tuple[str, ...]
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])

    def __len__(self) -> int:
        return len(self.ids)


def listed_words(model: Model, reference: str, *, pieces: Pieces = "whole_word", names: bool = False) -> WordSet:
    """The words of a list, as written and with a capital; after a space where the tokenizer tells that.

    Ids that two groups claim, and words that are unknown or in pieces, are dropped and counted. First names are left out unless asked for:
    many of them are those of the tests (SEAT-6).

    Args:
        model: whose tokenizer makes the ids.
        reference: name of a list or file; see :func:`fairforget.data.words.find_word_list`.
        pieces: what is done with words of several tokens.
        names: whether the list's first names count as words of their groups.

    Raises:
        UsageError: fewer than two ids are left, or no such list.
    """
    words = find_word_list(reference)
    by_group = group_words(words)
    if names:
        by_group = [[*found, *(row[number] for row in words.names)] for number, found in enumerate(by_group)]
    claims: dict[int, dict[str, str]] = {}
    dropped = {"of several tokens": 0, "unknown to the tokenizer": 0, "of two groups": 0}
    for group, found in zip(words.groups, by_group, strict=True):
        for word in dict.fromkeys(found):
            forms = [_ids_after_space(model, form) for form in dict.fromkeys((word, word[:1].upper() + word[1:]))]
            if any(model.tokenizer.unk_token_id in ids for ids in forms):
                dropped["unknown to the tokenizer"] += 1
                continue
            kept = [ids[0] for ids in forms if ids and (len(ids) == 1 or pieces == "first_piece")]
            dropped["of several tokens"] += not kept
            for token in kept:
                claims.setdefault(token, {}).setdefault(group, word)
    dropped["of two groups"] = sum(len(owners) > 1 for owners in claims.values())
    single = sorted((token, *next(iter(owners.items()))) for token, owners in claims.items() if len(owners) == 1)
    if len(single) < 2:
        raise UsageError(f"The word list '{reference}' has {len(single)} words that are one token of {model.name}, and a geometry needs "
                         "two: use pieces=first_piece or another list.")
    ids = tuple(token for token, _, _ in single)
    return WordSet(reference, ids, _read(model, ids), tuple(group for _, group, _ in single), {k: v for k, v in dropped.items() if v})


def full_vocabulary(model: Model) -> WordSet:
    """Every token but the special ones."""
    special = set(model.tokenizer.all_special_ids)
    ids = tuple(token for token in range(len(model.tokenizer)) if token not in special)
    return WordSet("full", ids, (), ("",) * len(ids))


def control_words(
    model: Model, like: Sequence[int], kind: Control, counts: Mapping[int, int], *, seed: int = 0, avoid: Sequence[int] = ()
) -> WordSet:
    """As many whole words of a text as a set has there: what a set's geometry, or a term on it, is compared with.

    Args:
        model: whose tokenizer it is.
        like: ids of the set; those that the text does not hold have no counterpart.
        kind: ``random``: any words of the text; ``matched``: for each word the unused one that is nearest in frequency.
        counts: how often each token is in the text.
        seed: of the draw, and of ties.
        avoid: further ids that are not taken.

    Raises:
        UsageError: the text does not hold enough words.
    """
    taken = {*like, *avoid}
    wanted = sorted((token for token in like if counts.get(token)), key=lambda token: (-counts[token], token))
    free = [token for token in _whole_words(model, [token for token, count in counts.items() if count]) if token not in taken]
    if len(wanted) < 2 or len(free) < len(wanted):
        raise UsageError(f"The text holds {len(wanted)} words of the set and {len(free)} others to compare them with: use a longer text.")
    order = np.random.default_rng([seed, 29]).permutation(sorted(free)).tolist()
    if kind == "random":
        chosen = order[: len(wanted)]
    else:
        chosen = []
        ranked = sorted(order, key=lambda token: counts[token])  # stable: ties stay in the drawn order
        frequencies = [counts[token] for token in ranked]
        for token in wanted:
            place = int(np.searchsorted(frequencies, counts[token]))
            near = [number for number in (place - 1, place) if 0 <= number < len(ranked)]
            best = min(near, key=lambda number: abs(frequencies[number] - counts[token]))
            chosen.append(ranked.pop(best))
            frequencies.pop(best)
    ids = tuple(sorted(chosen))
    return WordSet(kind, ids, _read(model, ids), ("",) * len(ids))


def _ids_after_space(model: Model, word: str) -> list[int]:
    """Ids of a word in the middle of a text, whatever the tokenizer's way with spaces."""
    before = model.token_ids("x")
    return model.token_ids(f"x {word}")[len(before) :]


def _whole_words(model: Model, ids: Sequence[int]) -> list[int]:
    """Tokens that are letters only and begin a word."""
    pieces: list[str] = model.tokenizer.convert_ids_to_tokens(list(ids))  # type: ignore[assignment]
    spaced = any(piece[:1] in "Ġ▁" for piece in pieces if piece)
    special = set(model.tokenizer.all_special_ids)
    return [
        token
        for token, piece in zip(ids, pieces, strict=True)
        if token not in special and (piece[1:].isalpha() and piece[0] in "Ġ▁" if spaced else piece.isalpha()) and len(piece) > 1 + spaced
    ]


def _read(model: Model, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(str(model.tokenizer.decode([token])).strip() for token in ids)
