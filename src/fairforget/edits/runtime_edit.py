"""Edits that work while the model runs: no weight is changed, so they are saved as edits and put on with ``ff.load(base, edit=...)``."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from fairforget.edits.base import Edit, EditRecord
from fairforget.edits.storage import Facts, SavedEdit, read_edit_file, write_edit_file
from fairforget.errors import DataError, UsageError
from fairforget.models.hashing import tensors_hash

if TYPE_CHECKING:
    from fairforget.edits.weight_edit import WeightEdit
    from fairforget.models.model import Model


class _Content:
    """What an edit computes with, shared between its strengths, hashed once."""

    def __init__(self, kind: str, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        self.kind, self.tensors, self.facts = kind, dict(tensors), facts

    @cached_property
    def hash(self) -> str:
        facts = json.dumps(self.facts, sort_keys=True)
        return tensors_hash((f"{self.kind} {facts} {name}", tensor) for name, tensor in self.tensors.items())


class RuntimeEdit(Edit):
    """A change of what a model computes that leaves its weights alone.

    Args:
        tensors: what the change computes with, by name in the file; at least one.
        facts: the rest of it, as JSON values.
        record: where the edit comes from.
        strength: 0 is the base to the last bit, 1 the change as found.
    """

    changes_hidden_states: ClassVar[bool] = True
    """Whether what is read from hidden states (sentence vectors, neural collapse) changes at all."""

    def __init__(self, tensors: Mapping[str, Tensor], facts: Facts, record: EditRecord, strength: float = 1.0) -> None:
        super().__init__(record, strength)
        self._content = _Content(self.kind, tensors, facts)

    @property
    def content_hash(self) -> str:
        """Hex sha256 over kind, facts, and names, types, shapes and bytes of the tensors."""
        return self._content.hash

    @property
    @abstractmethod
    def description(self) -> str:
        """What the edit does at strength 1, in a few words."""

    def as_weights(self, model: Model) -> WeightEdit:
        """The same change as an edit of weights, at the same strength, where that is exact.

        Args:
            model: the base.

        Raises:
            UsageError: it cannot be had, and why.
        """
        found = self._weights(model)
        if isinstance(found, str):
            raise UsageError(f"This edit of kind '{self.kind}' cannot be merged into the weights: {found} Save it as an edit instead.")
        return found

    def why_not_weights(self, model: Model) -> str:
        """Why :meth:`as_weights` refuses, as a sentence; empty where it does not."""
        found = self._weights(model)
        return found if isinstance(found, str) else ""

    @abstractmethod
    def _weights(self, model: Model) -> WeightEdit | str:
        """The edit of weights, or why there is none."""

    def save(self, folder: Path | str) -> None:
        """Write ``edit.safetensors`` (whole in itself) and ``edit.json`` (the same facts for people) to a folder.

        Raises:
            FairforgetError: the disk is full or the folder cannot be written.
        """
        content = self._content
        write_edit_file(
            Path(folder), content.tensors, kind=self.kind, record=self.record, strength=self.strength, content_hash=content.hash, scales={},
            facts=content.facts,
        )

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read an edit.

        Raises:
            UsageError: there is no edit there.
            DataError: the file is damaged, not an edit, or of another kind.
        """
        saved = read_edit_file(Path(folder), cls.kind)
        try:
            edit = cls._restored(saved)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"{saved.path} is not a whole edit ({error}): copy or make it again.") from error
        if edit.content_hash != saved.content_hash:
            raise DataError(f"{saved.path} was changed after it was written (its content hash does not fit): copy or make it again.")
        return edit

    @classmethod
    @abstractmethod
    def _restored(cls, saved: SavedEdit) -> Self:
        """The edit that a file holds."""
