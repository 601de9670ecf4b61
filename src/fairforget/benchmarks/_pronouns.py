"""Sentences that differ in their pronouns alone: predicted by a masked model, scored whole by a causal one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairforget.benchmarks._sentences import sentence_requests
from fairforget.scoring.requests import MaskedRequest, Request

if TYPE_CHECKING:
    from fairforget.models.model import Model


def pronoun_requests(model: Model, pieces: Sequence[str]) -> tuple[Request, ...]:
    """How a model scores a sentence's pronouns.

    A masked model sees the sentence with all pronouns masked at once and predicts their pieces, so that sentences that differ in one-token
    pronouns share one input. A causal model gives the log-probability of the whole sentence after the prefix token: what differs between
    two such sentences is the pronoun and what follows it.

    Args:
        model: of either family.
        pieces: text and pronoun in turn; every second piece is a pronoun.

    Returns:
        One request, or none where there is nothing to be scored.
    """
    if model.family == "causal":
        ids = model.token_ids("".join(pieces))
        return sentence_requests(model, ids) if ids else ()
    start, end = model.enclosing_ids()
    ids: list[int] = list(start)
    text, space = "", ""
    places: list[int] = []
    for number, piece in enumerate(pieces):
        # A space goes to what follows it, since byte-level tokenizers make it part of that word's first piece.
        whole = space + piece
        piece = whole.rstrip()
        space = whole[len(piece) :]
        _, added = model.join_ids(text, piece) if text else ([], model.token_ids(piece))
        if number % 2:
            places += range(len(ids), len(ids) + len(added))
        ids += added
        text += piece
    if not places:
        return ()
    assert model.mask_id is not None
    chosen = set(places)
    masked = (*(model.mask_id if place in chosen else token for place, token in enumerate(ids)), *end)
    return (MaskedRequest(masked, tuple(places), tuple(ids[place] for place in places)),)
