"""The study of every method that lies in an organism's folder."""

from __future__ import annotations

import json

import yaml

from fairforget.methods import method_registry
from fairforget.organisms.methods import method_variants, study_yaml, write_methods
from fairforget.organisms.recipe import read_organism_recipe
from fairforget.workflows.study_recipe import StudyRecipe, study_cells


def test_every_method_is_in_the_study_but_a_composition_of_others_and_what_teaches_tasks() -> None:
    used = {variant["name"] for variant in method_variants().values()}
    assert set(method_registry().names()) - used == {"answer-tuning", "composition"}


def test_the_study_is_valid_for_both_families(tmp_path) -> None:
    for family in ("causal", "masked"):
        folder = tmp_path / family
        (folder / "model").mkdir(parents=True)
        recipe = read_organism_recipe("default", [f"family={family}", "seed=3"])
        for name in ("forget.jsonl", "retain.txt", "text.txt"):
            (folder / name).write_text("{}\n", encoding="utf-8")
        write_methods(recipe, folder)
        study = StudyRecipe.model_validate(yaml.safe_load(study_yaml(recipe, folder)))
        cells = study_cells(study, folder)
        assert len(cells) == len(method_variants())
        assert all(cell.recipe is not None and cell.seed == 3 for cell in cells)
        pairs = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        assert ["she", "he"] in pairs or ["he", "she"] in pairs
        assert "nurse" in (folder / "targets.txt").read_text(encoding="utf-8").split()
        assert "{" not in (folder / "prompts.txt").read_text(encoding="utf-8")
