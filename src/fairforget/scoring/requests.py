"""What can be asked of a model: the log-probability of a continuation, or of tokens at masked positions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np


def _packed(*parts: tuple[int, ...]) -> bytes:
    return b"".join(np.asarray((len(part), *part), dtype=np.int32).tobytes() for part in parts)


@dataclass(frozen=True)
class ContinuationRequest:
    """Log-probability of each token of `continuation` after `context`, for a causal model.

    A whole sequence is the continuation of a context that holds the prefix token alone. With an empty context the first token of the
    continuation has no distribution to be read from: it is not scored and its place in the result is ``nan``.

    With `best` the result is twice as long: after the log-probabilities of the tokens those of the most likely token at each place, equal
    to the former where greedy decoding would have chosen the token.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    best: bool = False

    def key(self) -> bytes:
        """Digest that is equal for equal requests and for no others."""
        kind = b"continuation with best" if self.best else b"continuation"
        return hashlib.blake2b(kind + _packed(self.context, self.continuation), digest_size=16).digest()

    @property
    def size(self) -> int:
        """Length of the result."""
        return len(self.continuation) * (1 + self.best)


@dataclass(frozen=True)
class MaskedRequest:
    """Log-probability of `targets` at `positions` of one input of a masked model.

    `ids` is the input as it goes to the model, special tokens and mask tokens included; `positions` are places in it. `best` is as in
    :class:`ContinuationRequest`.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    best: bool = False

    def key(self) -> bytes:
        """Digest that is equal for equal requests and for no others."""
        kind = b"masked with best" if self.best else b"masked"
        return hashlib.blake2b(kind + _packed(self.ids, self.positions, self.targets), digest_size=16).digest()

    @property
    def size(self) -> int:
        """Length of the result."""
        return len(self.positions) * (1 + self.best)


Request: TypeAlias = ContinuationRequest | MaskedRequest
