"""One small finished study, which several tests read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import tiny_model

from fairforget.workflows.study import StudyResult, study
from fairforget.workflows.study_recipe import StudyRecipe

QUICK = {
    "method": {
        "name": "task-vector", "steps": 6, "batch_size": 4, "learning_rate": 0.3, "targets": "all-linear", "contrast": False,
    },
    "search": {"bisections": 1, "points": 2},
    "resamples": 200,
}
"""Fields of a run that takes seconds."""


def tiny_study(model: Path, **fields: object) -> StudyRecipe:
    return StudyRecipe.model_validate({
        "base": {**QUICK, "model": str(model)},
        "axes": {"data": [{"name": "starter"}, {"name": "missing", "train": {"source": "missing.csv"}}]},
        "strengths": [0.25, 0.5],
        "exclude": [{"data": "missing", "strength": 0.5, "reason": "one missing file is enough"}],
        **fields,
    })


@dataclass(frozen=True)
class FinishedStudy:
    folder: Path
    model: Path
    recipe: StudyRecipe
    result: StudyResult
    said: list[str]


@pytest.fixture
def finished_study(made_study: FinishedStudy, monkeypatch: pytest.MonkeyPatch) -> FinishedStudy:
    """Two cells that share an edit, one that fails, one that is excluded; the test uses the study's cache."""
    monkeypatch.setenv("FAIRFORGET_CACHE", str(made_study.folder.parent / "cache"))
    return made_study


@pytest.fixture(scope="session")
def made_study(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """The study, made once. Its cache is set while it is made only: fixtures of modules that change it too may end before the session."""
    folder = tmp_path_factory.mktemp("study")
    tiny_model("llama").save(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFORGET_CACHE", str(folder / "cache"))
        recipe = tiny_study(folder / "model")
        said: list[str] = []
        result = study(recipe, folder / "out", say=said.append)
        return FinishedStudy(folder / "out", folder / "model", recipe, result, said)
