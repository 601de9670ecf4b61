"""Puts the model or the edit of a run on the hub, with its card, and nothing of the benchmarks' texts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from fairforget.edits import load_edit
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import write_json, write_text
from fairforget.models.model import MODEL_RECORD
from fairforget.report import model_card
from fairforget.workflows.run_folder import RunFolder, read_json

What = Literal["model", "edit"]

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What of a model folder is uploaded: weights, configuration, tokenizer."""


def push(run: Path | str, repo: str, *, what: What = "model", private: bool = False) -> str:
    """Upload the model or the edit of a finished run with its card; tables are never uploaded, since they hold texts of benchmarks.

    Folders of this machine that the records name are cut down to their last part.

    Args:
        run: what ``fairforget debias`` wrote.
        repo: hub repository, owner/name; made when it is missing.
        what: ``model`` (loads with plain transformers) or ``edit`` (small; loads with fairforget).
        private: make a new repository private.

    Returns:
        The address of the repository.

    Raises:
        UsageError: the folder holds no finished debiasing run, or the name of the repository is not one.
        FairforgetError: the hub refused, or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = RunFolder(Path(run))
    if not folder.finished() or read_json(folder.record)["kind"] != "debias":
        raise UsageError(f"{folder.path} holds no finished debiasing run: only such a run leaves a model and an edit to push.")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"'{repo}' is not the name of a hub repository: write it owner/name.") from error
    if what == "model" and not folder.model.is_dir():
        raise UsageError(f"The run in {folder.path} left no model, only an edit to put on its base: push it with --what edit.")
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        if what == "model":
            _stage_model(folder, staged)
        else:
            _stage_edit(folder, staged)
        write_text(staged / "README.md", _published(folder, model_card(folder.path, holds=what)))
        try:
            hub = huggingface_hub.HfApi()
            address = hub.create_repo(repo, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo, folder_path=staged, commit_message=f"Upload {what} made by fairforget")
        except Exception as error:
            raise _hub_error(repo, error) from error
    return str(address)


def _stage_model(folder: RunFolder, staged: Path) -> None:
    for pattern in MODEL_FILES:
        for path in folder.model.glob(pattern):
            (staged / path.name).symlink_to(path.resolve())
    record = staged / MODEL_RECORD
    if record.exists():
        values = without_local_paths(read_json(record))
        record.unlink()
        write_json(record, values)


def _stage_edit(folder: RunFolder, staged: Path) -> None:
    edit = load_edit(folder.edit)
    record = type(edit.record).model_validate(without_local_paths(edit.record.model_dump(mode="json")))
    edit.with_record(record).save(staged)


def without_local_paths(value: Any) -> Any:
    """JSON values in which every absolute path is cut down to its last part."""
    if isinstance(value, dict):
        return {name: without_local_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_local_paths(inner) for inner in value]
    if isinstance(value, str) and value.startswith("/") and "\n" not in value:
        return Path(value).name
    return value


def _published(folder: RunFolder, card: str) -> str:
    """The card without the folder that the base model was loaded from here."""
    source = str(json.loads(folder.record.read_text(encoding="utf-8"))["model"]["source"])
    return card.replace(source, Path(source).name) if source.startswith("/") else card


def _hub_error(repo: str, error: Exception) -> FairforgetError:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return FairforgetError(f"The hub does not let you write to {repo}: log in with `hf auth login`, with a token that may write there.")
    if isinstance(error, OfflineModeIsEnabled):
        return FairforgetError("The hub is switched off here (HF_HUB_OFFLINE is set): unset it and run the same command again.")
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, HfHubHTTPError):
        return FairforgetError(f"The hub refused {repo}: {text}")
    return FairforgetError(
        f"{repo} could not be uploaded ({text}): check the network and run the same command again; what arrived is not sent twice."
    )
