"""From a study to its cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairforget.errors import UsageError
from fairforget.workflows.study_recipe import StudyRecipe, grouped, merged_fields, read_study, study_cells, study_yaml

TWO_AXES = {
    "base": {"method": {"name": "task-vector", "rank": 4}, "budget": {"perplexity": 5}},
    "axes": {
        "model": ["minilm-mlm", "smollm2-135m"],
        "way": [{"name": "plain"}, {"name": "fast", "method": {"learning_rate": 1e-2}}],
    },
    "seeds": [0, 1],
    "exclude": [{"model": "smollm2-135m", "seed": [1], "reason": "slow"}],
}


def cells_of(**fields):
    return study_cells(StudyRecipe.model_validate({**TWO_AXES, **fields}))


def test_cells_are_the_product_of_axes_and_seeds_with_exclusions_as_rows() -> None:
    cells = cells_of()
    assert [cell.name for cell in cells[:3]] == ["minilm-mlm-plain-seed0", "minilm-mlm-plain-seed1", "minilm-mlm-fast-seed0"]
    assert len(cells) == 8
    left_out = [cell for cell in cells if cell.recipe is None]
    assert [cell.name for cell in left_out] == ["smollm2-135m-plain-seed1", "smollm2-135m-fast-seed1"]
    assert {cell.excluded for cell in left_out} == {"slow"}
    fast = next(cell for cell in cells if cell.name == "minilm-mlm-fast-seed1")
    assert fast.recipe is not None
    assert (fast.recipe.model.ref, fast.recipe.seed, fast.recipe.budget) == ("minilm-mlm", 1, {"perplexity": 5.0})
    settings = fast.recipe.method.settings
    assert (settings["rank"], settings["learning_rate"]) == (4, 1e-2)
    assert fast.configuration == "minilm-mlm · fast"


def test_given_strengths_are_cells_that_share_one_edit() -> None:
    cells = cells_of(strengths=["search", 0.5, 1], seeds=[0], exclude=[])
    assert [cell.name for cell in cells[:3]] == [
        "minilm-mlm-plain-seed0-search", "minilm-mlm-plain-seed0-strength0.5", "minilm-mlm-plain-seed0-strength1",
    ]
    assert [cell.recipe.search.strength for cell in cells[:3] if cell.recipe] == [None, 0.5, 1.0]
    groups = list(grouped(cells))
    assert [len(group) for group in groups] == [3, 3, 3, 3]


@pytest.mark.parametrize(("values", "fields", "expected"), [
    ({"method": {"name": "a", "x": 1}}, {"method": {"x": 2}}, {"method": {"name": "a", "x": 2}}),
    ({"method": {"name": "a", "x": 1}}, {"method": {"name": "b"}}, {"method": {"name": "b"}}),
    ({"method": "a"}, {"method": {"x": 2}}, {"method": {"name": "a", "x": 2}}),
    ({"method": {"name": "a"}}, {"method": "b"}, {"method": "b"}),
    ({"search": {"points": 3}}, {"search": {"strength": 1.0}}, {"search": {"points": 3, "strength": 1.0}}),
    ({"budget": {"perplexity": 2}}, {"budget": {}}, {"budget": {}}),
    ({"benchmarks": ["starter"]}, {"benchmarks": ["crows-pairs"]}, {"benchmarks": ["crows-pairs"]}),
])
def test_fields_of_a_variant_go_over_those_of_the_base(values, fields, expected) -> None:
    assert merged_fields(values, fields) == expected


@pytest.mark.parametrize(("fields", "words"), [
    ({"axes": {"seed": [{"name": "a"}]}}, "cannot be the name of an axis"),
    ({"axes": {"way": [{"name": "a"}, {"name": "a"}]}}, "same name"),
    ({"axes": {"way": []}, "exclude": []}, "no variants"),
    ({"base": {"seed": 3}}, "not in both"),
    ({"seeds": []}, "at least one"),
    ({"seed": [1]}, "no field 'seed'; did you mean seeds"),
])
def test_a_study_that_is_none_is_told_with_its_field(tmp_path: Path, fields, words) -> None:
    import yaml

    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**TWO_AXES, **fields}), encoding="utf-8")
    with pytest.raises(UsageError, match=words) as error:
        read_study(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("fields", "words"), [
    ({"exclude": [{"modle": "minilm-mlm"}]}, "axis 'modle'; did you mean model"),
    ({"exclude": [{"model": "minilm"}]}, "'minilm' on the axis 'model'; did you mean minilm-mlm"),
    ({"exclude": [{"reason": "all"}]}, "would exclude everything"),
    ({"axes": {"way": [{"name": "a b"}, {"name": "a_b"}]}, "exclude": []}, "two cells would be called a_b-seed0"),
    ({"axes": {"way": [{"name": "odd", "method": {"rnak": 4}}]}, "exclude": []}, "cell odd-seed0, method task-vector: there is no field"),
    ({"axes": {"way": [{"name": "odd", "target": "bbq:margin"}]}, "exclude": []}, "cell odd-seed0: The target bbq:margin"),
])
def test_cells_that_cannot_be_made_are_told_before_anything_runs(fields, words) -> None:
    with pytest.raises(UsageError, match=words):
        cells_of(**fields)


def test_a_study_is_written_and_read_back(tmp_path: Path) -> None:
    study = StudyRecipe.model_validate(TWO_AXES)
    path = tmp_path / "study.yaml"
    path.write_text(study_yaml(study), encoding="utf-8")
    again = read_study(path)
    assert study_cells(again) == study_cells(study)


def test_the_recipes_of_the_repository_are_studies() -> None:
    folder = Path(__file__).resolve().parents[2] / "recipes" / "studies"
    paths = [path for path in sorted(folder.glob("*.yaml")) if not path.name.startswith("tradeoff-")]  # read by test_tradeoff_recipe
    assert paths
    for path in paths:
        assert any(cell.recipe is not None for cell in study_cells(read_study(path), str(path)))
