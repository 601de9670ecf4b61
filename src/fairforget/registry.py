"""Finds components (methods, benchmarks) by name without importing any before it is asked for.

A component is one module of its room that holds one class; the module ``crows_pairs`` is the component ``crows-pairs``. Packages
outside add theirs through an entry-point group. There is no central list to edit.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import Generic, TypeVar

from fairforget.errors import FairforgetError, unknown_name

Component = TypeVar("Component")


class Registry(Generic[Component]):
    """Components of one kind, listed by name and imported on demand.

    Args:
        kind: the word used in messages, e.g. ``benchmark``.
        package: dotted name of the package whose public modules are components.
        base: class that a component derives from.
        group: entry-point group in which other packages announce theirs.
    """

    def __init__(self, kind: str, package: str, base: type[Component], group: str) -> None:
        self.kind, self.package, self.base, self.group = kind, package, base, group

    def _sources(self) -> dict[str, str]:
        package = importlib.import_module(self.package)
        own = {
            module.name.replace("_", "-"): f"{self.package}.{module.name}"
            for module in pkgutil.iter_modules(package.__path__)
            if not module.name.startswith("_") and module.name not in getattr(package, "NOT_COMPONENTS", ())
        }
        outside = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=self.group)}
        return {**outside, **own}

    def names(self) -> list[str]:
        """Names of all components, sorted; imports none of them."""
        return sorted(self._sources())

    def get(self, name: str) -> type[Component]:
        """Return the class of a component.

        Raises:
            UsageError: the name is not known; the nearest names are suggested.
            FairforgetError: the module defines no component class.
        """
        sources = self._sources()
        if name not in sources:
            raise unknown_name(self.kind, name, sources)
        module_name, _, attribute = sources[name].partition(":")
        module = importlib.import_module(module_name)
        if attribute:
            return getattr(module, attribute)
        for value in vars(module).values():
            if (
                isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module.__name__
                and getattr(value, "name", "") == name
            ):
                return value
        raise FairforgetError(f"The module {module_name} defines no {self.kind} named '{name}'.")
