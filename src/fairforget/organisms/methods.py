"""Every method on one organism: a study file in its folder, and the word lists that some methods need."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fairforget.files import write_text
from fairforget.organisms.folder_texts import debias_recipe
from fairforget.organisms.language import domains_of
from fairforget.organisms.recipe import OrganismRecipe

STUDY = "study.yaml"


def write_methods(recipe: OrganismRecipe, folder: Path) -> None:
    """Write ``study.yaml`` and what it refers to: pairs of attribute words, all of them as a lexicon, targets, and prompts.

    Prompts are the beginnings of training templates up to the attribute, the target left out.

    Args:
        recipe: of the organism.
        folder: of the organism, where ``retain.txt`` and ``debias.yaml`` are.
    """
    domains = [domain for domain in domains_of(recipe) if domain.name in recipe.forgotten] or domains_of(recipe)
    pairs = sorted({tuple(pair) for domain in domains for pair in domain.pairs})
    targets = sorted({target for domain in domains for group in domain.groups.values() for target in group.targets})
    texts = [template.text for domain in domains for template in domain.templates if template.part == "train"]
    prompts = sorted({text.split("{A}")[0].replace("{T}", "someone").replace("{Q}", "").strip() for text in texts} - {""})
    write_text(folder / "words.json", json.dumps(pairs, ensure_ascii=False) + "\n")
    write_text(folder / "lexicon.txt", "\n".join(word for pair in pairs for word in pair) + "\n")
    write_text(folder / "targets.txt", "\n".join(targets) + "\n")
    write_text(folder / "prompts.txt", "\n".join(prompts) + "\n")
    write_text(folder / STUDY, study_yaml(recipe, folder))


def study_yaml(recipe: OrganismRecipe, folder: Path) -> str:
    """A study of every method on an organism, as YAML; paths are absolute, so that it runs from anywhere."""
    base: dict[str, Any] = yaml.safe_load(debias_recipe(recipe, folder))
    del base["method"]
    names = {"RETAIN": "retain.txt", "WORDS": "words.json", "LEXICON": "lexicon.txt", "TARGETS": "targets.txt", "PROMPTS": "prompts.txt"}
    files = {name: str(folder.resolve() / file) for name, file in names.items()}
    variants = [
        {"name": name, "method": {field: _value(value, recipe.family, files) for field, value in method.items()}}
        for name, method in method_variants().items()
    ]
    head = (
        f"# Every method on this organism.\n#\n#   fairforget study {folder / STUDY} --out runs/study-{folder.resolve().name}\n\n"
    )
    values = {"base": base, "axes": {"method": variants}, "keep_edits": False}
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def method_variants() -> dict[str, dict[str, Any]]:
    """Settings of every method as it is run on organisms, by name; first those that are asked for."""
    raw: dict[str, dict[str, Any]] = yaml.safe_load(
        resources.files("fairforget.organisms").joinpath("methods.yaml").read_text(encoding="utf-8")
    )
    return {**raw["asked"], **raw["others"]}


def _value(value: Any, family: str, files: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return value[family]
    return files.get(value, value) if isinstance(value, str) else value
