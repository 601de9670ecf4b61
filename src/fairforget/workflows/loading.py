"""Load a model, with an edit on it or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairforget.edits import Edit, load_edit
from fairforget.models import Model
from fairforget.models import load as load_model


def load(ref: str | Path, *, edit: Edit | str | Path | None = None, strength: float | None = None, **options: Any) -> Model:
    """Load a model, and attach an edit.

    Args:
        ref: hub id, folder, ``.gguf`` file, adapter folder, or built-in name.
        edit: an edit or the folder of a saved one.
        strength: of the edit; the one it was saved with by default.
        **options: of :func:`fairforget.models.load`: ``device``, ``dtype``, ``revision``, ``prefix``, ``load_in_4bit``, ``device_map``,
            ``trust_remote_code``, ``scoring_dtype``.

    Raises:
        UsageError: an unknown model, or an edit of another base.
        DataError: damaged files.
    """
    model = load_model(ref, **options)
    if edit is not None:
        found = edit if isinstance(edit, Edit) else load_edit(edit)
        (found if strength is None else found.at(strength)).attach(model)
    return model
