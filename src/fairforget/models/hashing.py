"""Content hashes of tensors, streamed: the identity of a model is what it computes with, not where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 1 << 26


def _update(digest: Any, tensor: Tensor) -> None:
    flat = tensor.detach().contiguous().view(-1)
    raw = flat.view(torch.uint8) if flat.numel() else flat.to(torch.uint8)
    for start in range(0, raw.numel(), _CHUNK):
        digest.update(raw[start : start + _CHUNK].cpu().numpy().data)


def tensors_hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hex sha256 over names, types, shapes and bytes, in the order of the names."""
    return sorted_tensors_hash(sorted(named, key=lambda pair: pair[0]))


def sorted_tensors_hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """The same for tensors that come in the order of their names already; a generator holds one tensor at a time."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        _update(digest, tensor)
    return digest.hexdigest()


def content_hash(module: nn.Module) -> str:
    """Hex sha256 of all parameters and persistent buffers of a module; tied tensors count once, under their first name."""
    return tensors_hash(distinct_tensors(module))


def distinct_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers in the order of their names; tied ones once, under the first."""
    seen: set[int] = set()
    named: list[tuple[str, Tensor]] = []
    for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named.append((name, tensor))
    return named
