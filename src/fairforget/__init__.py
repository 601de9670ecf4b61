"""fairforget makes language models forget stereotypes, and accounts for everything else they forgot.

>>> import fairforget as ff
>>> model = ff.load("./my-model")                          # doctest: +SKIP
>>> before = ff.audit(model, ["crows-pairs"])              # doctest: +SKIP
>>> result = ff.debias(model, benchmarks=["crows-pairs"])  # doctest: +SKIP

Everything here is imported when it is first used, so that ``import fairforget`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairforget import benchmarks, methods
    from fairforget.edits import Edit, RuntimeEdit, WeightEdit, load_edit
    from fairforget.errors import DataError, FairforgetError, UsageError
    from fairforget.models import Model
    from fairforget.report import model_card, write_report
    from fairforget.workflows.audit import Audit, audit
    from fairforget.workflows.compare import compare
    from fairforget.workflows.debias import DebiasResult, debias
    from fairforget.workflows.loading import load
    from fairforget.workflows.recipe import Recipe
    from fairforget.workflows.stress import stress
    from fairforget.workflows.study import study

_HOMES = {
    "Audit": "workflows.audit",
    "DataError": "errors",
    "DebiasResult": "workflows.debias",
    "Edit": "edits",
    "FairforgetError": "errors",
    "Model": "models",
    "Recipe": "workflows.recipe",
    "RuntimeEdit": "edits",
    "UsageError": "errors",
    "WeightEdit": "edits",
    "audit": "workflows.audit",
    "compare": "workflows.compare",
    "debias": "workflows.debias",
    "load": "workflows.loading",
    "load_edit": "edits",
    "model_card": "report",
    "stress": "workflows.stress",
    "study": "workflows.study",
    "write_report": "report",
}
_ROOMS = ("benchmarks", "data", "edits", "forgetting", "methods", "models", "report", "scoring", "stats", "training")

__all__ = [
    "Audit",
    "DataError",
    "DebiasResult",
    "Edit",
    "FairforgetError",
    "Model",
    "Recipe",
    "RuntimeEdit",
    "UsageError",
    "WeightEdit",
    "audit",
    "benchmarks",
    "compare",
    "debias",
    "load",
    "load_edit",
    "methods",
    "model_card",
    "stress",
    "study",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"fairforget.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"fairforget.{name}")
    else:
        raise AttributeError(f"module 'fairforget' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
