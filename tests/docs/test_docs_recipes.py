"""Every recipe in the repository is a valid one, and the default is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairforget.errors import UsageError
from fairforget.workflows.debias import prepare
from fairforget.workflows.recipe import Recipe, parse_recipe, read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def read(path: Path) -> Recipe:
    values, lines = read_recipe(path)
    return parse_recipe(values, str(path), lines)


OTHER_KINDS = ("chains", "organisms", "studies")
"""Folders of recipes that are not debiasing runs; their own tests read them."""


@pytest.mark.parametrize(
    "path", sorted(path for path in RECIPES.rglob("*.yaml") if path.parent.name not in OTHER_KINDS),
    ids=lambda path: str(path.relative_to(RECIPES)),
)
def test_a_recipe_is_valid_and_its_target_is_measured(path: Path) -> None:
    plan = prepare(read(path))
    assert plan.target in plan.benchmarks
    assert plan.cost is not None, "every recipe of the repository has a budget"
    listed = (RECIPES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert f"(../recipes/{path.relative_to(RECIPES)})" in listed


def test_the_starter_recipe_is_the_default() -> None:
    assert read(RECIPES / "starter.yaml") == parse_recipe({})


def test_a_wrong_field_would_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((RECIPES / "task-vector.yaml").read_text(encoding="utf-8").replace("learning_rate", "learning_rat"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"wrong\.yaml, line \d+.*learning_rat"):
        read(path)
