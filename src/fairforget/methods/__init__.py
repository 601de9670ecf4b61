"""Methods, one file each; a method is found by the name of its file, ``task_vector`` as ``task-vector`` or ``TaskVector``."""

from __future__ import annotations

import importlib
from typing import Any

from fairforget.registry import Registry


def method_registry() -> Registry[Any]:
    """The registry of methods: files of this package, and the entry points ``fairforget.methods`` of others."""
    from fairforget.methods._base import Method

    return Registry("method", "fairforget.methods", Method, "fairforget.methods")


def __getattr__(name: str) -> Any:
    module = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
    try:
        return getattr(importlib.import_module(f"fairforget.methods.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"fairforget.methods.{module}":
            raise
        raise AttributeError(f"module 'fairforget.methods' has no attribute '{name}'") from None
