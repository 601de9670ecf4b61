"""Knowing when memory ran out, whatever the device calls it."""

from __future__ import annotations

import torch


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory; what the device held on to is then given back."""
    words = str(error).lower()
    if not (isinstance(error, torch.OutOfMemoryError) or "out of memory" in words or "can't allocate" in words):
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
