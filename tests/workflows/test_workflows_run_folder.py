"""A run's folder keeps to the recipe of its first result, and to no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairforget.errors import UsageError
from fairforget.workflows.run_folder import RunFolder


def test_a_folder_in_which_nothing_was_finished_takes_another_recipe(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), folder.opened("first"):
        raise KeyboardInterrupt
    with folder.opened("second"):
        folder.tables.mkdir()
    assert folder.recipe.read_text(encoding="utf-8") == "second"


def test_a_folder_with_results_keeps_its_recipe(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    with folder.opened("first"):
        folder.tables.mkdir()
    with pytest.raises(UsageError, match="another recipe"), folder.opened("second"):
        pass
    with folder.opened("first"):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="other files"), RunFolder(tmp_path).opened("first"):
        pass
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
