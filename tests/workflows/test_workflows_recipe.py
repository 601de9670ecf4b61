"""Recipes: defaults, YAML with line numbers, --set, and sentences for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairforget.errors import UsageError
from fairforget.workflows.recipe import apply_settings, parse_recipe, read_recipe, recipe_yaml


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_recipe_is_the_built_in_run_and_carries_every_setting() -> None:
    recipe = parse_recipe({})
    assert recipe.model.ref == "smollm2-135m"
    assert [choice.name for choice in recipe.benchmarks] == ["starter", "perplexity:starter"]
    assert recipe.budget == {"perplexity": 2.0}
    assert recipe.method.settings["rank"] == 8


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    method = {"name": "task-vector", "steps": 3}
    recipe = parse_recipe({"benchmarks": "crows-pairs,stereoset", "budget": "perplexity=2%", "method": method, "train": "stereoset"})
    values, _ = read_recipe(write(tmp_path, recipe_yaml(recipe)))
    assert parse_recipe(values) == recipe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: x/y\nseeds: 3\n", "line 2: there is no field 'seeds'; did you mean seed"),
        ("seed: many\n", "line 1: 'seed' = 'many'"),
        (
            "method:\n  name: task-vector\n  learning_rat: 1e-3\n",
            "line 3, method task-vector: there is no field 'learning_rat'; did you mean learning_rate",
        ),
        ("method:\n  name: task-vector\n  rank: 0\n", "line 3, method task-vector: 'rank' = 0"),
        ("method: task-vectr\n", "no method named 'task-vectr': did you mean task-vector"),
        ("budget:\n  speed: 3\n", "a budget is written perplexity=2%"),
        ("search:\n  pointz: 4\n", "line 2: there is no field 'search.pointz'; did you mean points"),
        ("model: [\n", "this is not YAML"),
        ("just text\n", "must be a mapping"),
    ],
)
def test_mistakes_are_named_with_line_and_field(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        values, lines = read_recipe(path)
        parse_recipe(values, str(path), lines)
    assert sentence in str(error.value)


def test_settings_go_into_nested_fields() -> None:
    given = ["method.learning_rate=2e-4", "seed=7", "benchmarks=starter,crows-pairs", "method.targets=[q_proj]"]
    values = apply_settings({"method": "task-vector"}, given)
    recipe = parse_recipe(values)
    assert recipe.method.settings["learning_rate"] == 2e-4
    assert recipe.method.settings["targets"] == ["q_proj"]
    assert recipe.seed == 7
    assert [choice.name for choice in recipe.benchmarks] == ["starter", "crows-pairs"]


@pytest.mark.parametrize("setting", ["seed", "=3", "methd.rank=3", "seed.deep=1"])
def test_wrong_settings_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        apply_settings({"seed": 1}, [setting])
