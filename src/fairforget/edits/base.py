"""What every edit is: a change relative to a base model, with a strength dial, that can be put on and taken off exactly."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from fairforget.errors import UsageError

if TYPE_CHECKING:
    from fairforget.models.model import Model


def _created_by() -> str:
    try:
        return f"fairforget {importlib.metadata.version('fairforget')}"
    except importlib.metadata.PackageNotFoundError:
        return "fairforget (not installed)"


class EditRecord(BaseModel):
    """Where an edit comes from and what it belongs to; saved inside the edit's file."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    method: str
    """Name of the method that found the change."""
    settings: dict[str, JsonValue] = {}
    """All settings of that method."""
    base_source: str
    """What the base model was loaded from: hub id, folder, file or built-in name."""
    base_revision: str | None = None
    """Hub revision of the base model."""
    base_name: str = ""
    """Short name of the base model."""
    base_hash: str
    """Hex sha256 of the base model's tensors, as loaded."""
    base_dtype: str = ""
    """Floating type in which the base model was loaded; its hash depends on it."""
    family: Literal["causal", "masked"]
    """Family of the base model."""
    seed: int | None = None
    """Seed of the training."""
    created_by: str = ""
    """Package and version that made the edit."""
    provenance: dict[str, JsonValue] = {}
    """Training data, hashes and whatever else a reader needs to make the edit again."""

    @property
    def warnings(self) -> list[str]:
        """What the method found worth saying about its own training."""
        found = self.provenance.get("warnings")
        return [str(warning) for warning in found] if isinstance(found, list) else []

    @property
    def divergence(self) -> str | None:
        """Why a training behind the edit fell back on an earlier state of itself; None where none diverged."""
        outcomes = [value for name, value in self.provenance.items() if name.startswith("training")]
        for outcome in [one for value in outcomes for one in (value if isinstance(value, list) else [value])]:
            if isinstance(outcome, dict) and outcome.get("diverged"):
                return str(outcome.get("stopped"))
        return None

    @classmethod
    def for_model(
        cls,
        model: Model,
        method: str,
        *,
        settings: dict[str, Any] | None = None,
        seed: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> EditRecord:
        """The record of an edit of this model. Take it before training: the base hash is that of the untouched weights.

        Args:
            model: the base, without edits.
            method: name of the method.
            settings: its settings, as JSON values.
            seed: seed of the training.
            provenance: training data and the like, as JSON values.
        """
        return cls(
            method=method,
            settings=settings or {},
            base_source=model.source,
            base_revision=model.revision,
            base_name=model.name,
            base_hash=model.base_hash,
            base_dtype=dtype_name(model),
            family=model.family,
            seed=seed,
            created_by=_created_by(),
            provenance=provenance or {},
        )


class Edit(ABC):
    """A change of a model relative to its base, with a strength: 0 is the base to the last bit, 1 is the change as found.

    An edit does not change; :meth:`at` gives the same change at another strength and shares its tensors. A subclass says what is put on
    a model (:meth:`_install`) and how it comes off (:meth:`_remove`).

    Args:
        record: where the edit comes from.
        strength: any finite number; negative ones turn the change round.
    """

    kind: ClassVar[str]

    def __init__(self, record: EditRecord, strength: float = 1.0) -> None:
        self._record = record
        self._strength = _checked_strength(strength)

    @property
    def record(self) -> EditRecord:
        """Where the edit comes from and what it belongs to."""
        return self._record

    @property
    def strength(self) -> float:
        """How much of the change is applied; 1 is the change as found."""
        return self._strength

    def at(self, strength: float) -> Self:
        """The same change at another strength, absolute, not relative to the present one; tensors are shared."""
        other = copy.copy(self)
        other._strength = _checked_strength(strength)
        return other

    def rebased(self, model: Model) -> Self:
        """The same change, declared to belong to another base with parameters of the same names and shapes.

        For a base that is the same model in another floating type or quantisation, e.g. an adapter trained on 4-bit weights that goes
        onto the 16-bit ones. The old base's hash is kept in the provenance.
        """
        old = self._record
        other = copy.copy(self)
        other._record = EditRecord.for_model(
            model, old.method, settings=old.settings, seed=old.seed, provenance={**old.provenance, "rebased_from": old.base_hash}
        )
        return other

    def with_provenance(self, facts: dict[str, Any]) -> Self:
        """The same change with facts added to the provenance of its record.

        Args:
            facts: JSON values by name; a name that is there already is replaced.
        """
        other = copy.copy(self)
        other._record = self._record.model_copy(update={"provenance": {**self._record.provenance, **facts}})
        return other

    def with_record(self, record: EditRecord) -> Self:
        """The same change with another record."""
        other = copy.copy(self)
        other._record = record
        return other

    @property
    @abstractmethod
    def content_hash(self) -> str:
        """Hex sha256 of the change itself, whatever its strength."""

    def state_fragment(self) -> str:
        """What this edit adds to the id of a state: 16 digits of its content hash and its exact strength."""
        return f"{self.content_hash[:16]}@{self._strength!r}"

    def attach(self, model: Model) -> None:
        """Put the edit on a model; what it computes from now on is the edited model.

        Raises:
            UsageError: the model is not the base this edit belongs to, its parameters do not fit, or the edit is on it already. The model
                is then as it was.
        """
        on_it = self._attached(model)
        if on_it is not None:
            raise UsageError(
                f"This edit is already on {model.name} at strength {on_it.strength:g}: detach it first, then attach it at another strength."
            )
        self.check_fits(model)
        try:
            self._install(model)
        except BaseException:
            self._remove(model)
            raise
        model.edits.append(self)

    def detach(self, model: Model) -> None:
        """Take the edit off again, at whatever strength it is on; with the last edit gone the model is the base to the last bit.

        Raises:
            UsageError: the edit is not on this model.
        """
        on_it = self._attached(model)
        if on_it is None:
            raise UsageError(f"This edit is not on {model.name}, so it cannot be detached.")
        on_it._remove(model)
        model.edits[:] = [edit for edit in model.edits if edit is not on_it]

    @contextlib.contextmanager
    def applied(self, model: Model) -> Generator[Model]:
        """The edit is on the model while the block runs."""
        self.attach(model)
        try:
            yield model
        finally:
            self.detach(model)

    def check_fits(self, model: Model) -> None:
        """Refuse a model that this edit does not belong to.

        Raises:
            UsageError: another base, or parameters of other names or shapes.
        """
        if model.base_hash != self._record.base_hash:
            belongs, made_in, here = self._record.base_name or self._record.base_source, self._record.base_dtype, dtype_name(model)
            hint = (
                f"the model here is in {here} and the edit was made in {made_in}: load the model with --dtype {made_in}"
                if made_in and made_in != here
                else f"load it from {self._record.base_source}"
            )
            raise UsageError(
                f"This edit belongs to {belongs} (weights {self._record.base_hash[:16]}), "
                f"not to {model.name} (weights {model.base_hash[:16]}); {hint}."
            )

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the edit to a folder: ``edit.safetensors`` and ``edit.json``."""

    @abstractmethod
    def _install(self, model: Model) -> None:
        """Make the model compute the edited state; the model was checked to fit."""

    @abstractmethod
    def _remove(self, model: Model) -> None:
        """Take off whatever of this edit is on the model, be it all or a part."""

    def _attached(self, model: Model) -> Edit | None:
        return next((edit for edit in model.edits if edit is self or edit.content_hash == self.content_hash), None)


def dtype_name(model: Model) -> str:
    """Floating type of a model's weights as options and records write it, e.g. ``float32``."""
    return str(model.dtype).removeprefix("torch.")


def _checked_strength(strength: float) -> float:
    if not math.isfinite(strength):
        raise UsageError(f"The strength of an edit must be a finite number, not {strength}.")
    return float(strength) + 0.0  # turns -0.0 into 0.0, which would otherwise be a state of its own
