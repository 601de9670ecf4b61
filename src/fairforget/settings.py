"""The base of every component's settings, and the text of what went wrong with them.

One pydantic model per component, whose fields carry description, unit, range and source, is the only statement of its settings: the
recipe schema, ``--set name=value``, ``fairforget show``, the docs table and the provenance record all come from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fairforget.errors import UsageError, nearest_names


class Settings(BaseModel):
    """Strict, immutable settings: an unknown field or a wrong type is an error with the field's name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def digest(self) -> str:
        """Hash of all values (hex, 16 characters), equal for equal settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_fields(settings: type[Settings]) -> list[dict[str, str]]:
    """One row per field: name, type, default, description (with unit, range and source), for ``show`` and the docs."""
    schema = settings.model_json_schema()
    rows: list[dict[str, str]] = []
    for name, field in settings.model_fields.items():
        entry = schema.get("properties", {}).get(name, {})
        limits = ", ".join(
            f"{sign} {entry[key]}"
            for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
            if key in entry
        )
        kind = getattr(field.annotation, "__name__", None) if not getattr(field.annotation, "__args__", None) else None
        rows.append({
            "name": name,
            "type": kind or str(field.annotation).replace("typing.", ""),
            "default": "required" if field.is_required() else repr(field.get_default(call_default_factory=True)),
            "range": limits,
            "description": field.description or "",
        })
    return rows


def explain_validation(error: ValidationError, model: type[BaseModel], where: str) -> UsageError:
    """Turn a pydantic error into sentences that name the field, what came and what is allowed.

    Args:
        error: what pydantic raised.
        model: the settings class that was asked for, for the list of allowed fields.
        where: what the user wrote the values in, e.g. ``recipe.yaml line 4`` or ``--set``.
    """
    sentences: list[str] = []
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            sentences.append(f"there is no field '{path}'; {nearest_names(str(entry['loc'][-1]), _fields_at(model, entry['loc'][:-1]))}")
        elif entry["type"] == "missing":
            sentences.append(f"the field '{path}' is missing")
        else:
            # our own validators write sentences that may quote names; pydantic's begin with a capital
            ours = entry["type"] == "value_error"
            words = entry["msg"].removeprefix("Value error, ").rstrip(".") if ours else entry["msg"].lower()
            if entry["type"] == "string_pattern_mismatch":
                words = _alternatives(str(entry.get("ctx", {}).get("pattern", ""))) or words
            sentences.append(f"'{path}' = {entry.get('input')!r}: {words}" if path else words)
    return UsageError(f"{where}: " + "; ".join(sentences) + ".")


def _alternatives(pattern: str) -> str:
    """What a pattern that lists alternatives in brackets, from start to end, allows, in words; "" for any other form."""
    found = re.fullmatch(r"\^\((.*)\)\$", pattern)
    if found is None:
        return ""
    plain = re.sub(r"\(\\?\.\\d\+\)\?", ".N", re.sub(r"\\d\+(\(-\\d\+\)\?)?", "N", found[1]))
    return f"must be one of {', '.join(plain.split('|'))}"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return list(model.model_fields)
