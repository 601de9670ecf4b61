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
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def key(self) -> bytes:
        """Digest that is equal for equal requests and for no others."""
        return hashlib.blake2b(b"continuation" + _packed(self.context, self.continuation), digest_size=16).digest()


@dataclass(frozen=True)
class MaskedRequest:
    """Log-probability of `targets` at `positions` of one input of a masked model.

    `ids` is the input as it goes to the model, special tokens and mask tokens included; `positions` are places in it.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]

    def key(self) -> bytes:
        """Digest that is equal for equal requests and for no others."""
        return hashlib.blake2b(b"masked" + _packed(self.ids, self.positions, self.targets), digest_size=16).digest()


Request: TypeAlias = ContinuationRequest | MaskedRequest
