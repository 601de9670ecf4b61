"""The file of the trade-off study: what it means when short, and sentences with line numbers when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.errors import UsageError
from fairforget.workflows.tradeoff_recipe import TradeoffRecipe, read_tradeoff, tradeoff_runs, tradeoff_yaml
from fairforget.workflows.tradeoff_training import drawn, paired_texts

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "studies"


def written(folder: Path, text: str) -> Path:
    path = folder / "tradeoff.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_arms_are_those_of_the_paper_and_differ_in_the_objective_alone():
    runs = tradeoff_runs(TradeoffRecipe.model_validate({"sizes": [100], "seeds": [0]}))
    assert [run.arm for run in runs] == ["cda0", "cda1", "cda2", "anti", "gap", "js2"]
    methods = {run.arm: run.method for run in runs}
    assert [methods[arm].settings["sides"] for arm in ("cda0", "cda1", "cda2")] == ["control", "one", "two"]
    assert {run.method.settings["retain"] for run in runs} == {"none"}  # gap and js2 alone hold on to the base otherwise
    assert {run.method.settings["steps"] for run in runs} == {300}
    assert runs[0].recipe.looked_at == (10, 30, 100, 300)


@pytest.mark.parametrize(("fields", "steps"), [
    ({"steps": 25}, (10, 25)), ({"steps": 2}, (2,)), ({"steps": 50, "checkpoints": [0, 5, 20]}, (5, 20)),
    ({"steps": 2000}, (10, 30, 100, 300, 1000, 2000)),
])
def test_checkpoints_are_log_spaced_unless_they_are_named(fields, steps):
    assert TradeoffRecipe.model_validate(fields).looked_at == steps


def test_a_mitigation_goes_over_an_arm_and_only_over_those_that_are_named():
    recipe = TradeoffRecipe.model_validate({
        "arms": ["cda2", {"name": "gap", "learning_rate": 1e-4}], "method": {"learning_rate": 1e-3, "retain": "none"},
        "mitigations": [{"name": "kl", "retain": "kl"}, {"name": "wise", "strength": 0.5}], "mitigated": ["gap"],
        "sizes": [10], "seeds": [3],
    })
    runs = {run.name: run for run in tradeoff_runs(recipe)}
    assert list(runs) == ["cda2-plain-n10-seed3", "gap-plain-n10-seed3", "gap-kl-n10-seed3", "gap-wise-n10-seed3"]
    assert [run.method.settings["learning_rate"] for run in runs.values()] == [1e-3, 1e-4, 1e-4, 1e-4]
    assert [run.method.settings["retain"] for run in runs.values()] == ["none", "none", "kl", "none"]
    assert [run.strength for run in runs.values()] == [1.0, 1.0, 1.0, 0.5]
    # what differs in the strength alone shares its training
    assert runs["gap-plain-n10-seed3"].training == runs["gap-wise-n10-seed3"].training != runs["gap-kl-n10-seed3"].training


def test_placeholders_are_filled_in_by_model_and_seed():
    recipe = TradeoffRecipe.model_validate({
        "folder": "/somewhere", "models": [{"name": "small", "ref": "{folder}/{model}-{seed}"}, "minilm-mlm"], "arms": ["cda2"],
        "train": "{folder}/{model}.jsonl", "sizes": [10], "seeds": [4, 5], "mitigated": ["cda2"],
        "mitigations": [{"name": "replay", "retain": "cross-entropy", "retain_text": "{folder}/{seed}.txt"}],
        "bias": [{"name": "organism", "settings": {"folder": "{folder}/{model}-{seed}"}}],
    })
    runs = tradeoff_runs(recipe)
    assert [run.model_choice.ref for run in runs if run.mitigation == "plain"] == [
        "/somewhere/small-4", "/somewhere/small-5", "minilm-mlm", "minilm-mlm",
    ]
    replayed = [run.method.settings["retain_text"] for run in runs if run.mitigation == "replay"]
    assert replayed == ["/somewhere/4.txt", "/somewhere/5.txt"] * 2
    assert runs[1].recipe.bias[0].settings["folder"] == "/somewhere/small-5"
    assert runs[-1].recipe.train.source == "/somewhere/minilm-mlm.jsonl"
    assert runs[0].name == "small-cda2-plain-n10-seed4"
    assert TradeoffRecipe.model_validate(yaml.safe_load(tradeoff_yaml(recipe))) == recipe


@pytest.mark.parametrize(("text", "sentence"), [
    ("steps: 30\nsizes: [10, 0]\n", r"line 2: 'sizes.1' = 0: input should be greater than or equal to 1"),
    ("steps: 30\nsices: [10]\n", r"line 2: there is no field 'sices'.*sizes"),
    ("steps: 30\ncheckpoints: [0, 1]\n", "checkpoint 1 is not 0 or from 2 to 30"),
    ("steps: 30\ncheckpoints: [10]\ndownstream_at: [30]\n", "downstream_at names 30"),
    ("arms: [cda2, cda2]\n", "`arms` names something twice"),
    ("mitigations:\n  - {name: kl, retain: kl}\nmitigated: [gap]\narms: [cda2]\n", "mitigated names 'gap'"),
    ("sizes: [10]\narms:\n  - cda2\n  - cad1\n", r"line 4: the arm 'cad1' names no method; did you mean cda1"),
    ("arms:\n  - {name: mine, method: cdaa}\n", r"line 2: There is no method named 'cdaa'"),
    ("arms:\n  - {name: mine, method: inlp}\n", r"line 2: inlp is no method that trains on a loss"),
    ("arms:\n  - {name: cda2, learning_rat: 1}\n", r"line 2, method cda: there is no field 'learning_rat'"),
    ("arms: [cda2]\nmitigations:\n  - {name: wise, strength: no}\n", r"line 3: strength = False must be a number above 0"),
    ("arms: [cda2]\nmitigations:\n  - {name: kl, retain: some}\n", r"line 3, method cda: 'retain' = 'some'"),
    ("general: crows-pairs\n", "`general` is running text"),
    ("bias: [crows-pears]\n", "crows-pears"),
    ("least_benefit: 2\n", r"line 1: 'least_benefit' = 2"),
])
def test_what_is_wrong_is_a_sentence_with_its_line(tmp_path, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        read_tradeoff(written(tmp_path, text))


def test_settings_go_over_the_file(tmp_path):
    path = written(tmp_path, "steps: 30\nsizes: [10]\n")
    assert read_tradeoff(path, ["sizes=[20, 40]", "arms=[cda2]"]).sizes == (20, 40)
    with pytest.raises(UsageError, match=r"--set sices=1.*sizes"):
        read_tradeoff(path, ["sices=1"])


@pytest.mark.parametrize("name", ["tradeoff-masked", "tradeoff-organisms"])
def test_the_recipes_of_the_repository_are_valid(name):
    recipe = read_tradeoff(RECIPES / f"{name}.yaml")
    runs = tradeoff_runs(recipe)
    plain = [run for run in runs if run.mitigation == "plain"]
    assert len({run.arm for run in plain}) == 6
    assert len(recipe.sizes) == 2
    assert len(plain) == 6 * 2 * len(recipe.seeds)
    assert len(recipe.seeds) >= (10 if name == "tradeoff-organisms" else 2)


def test_a_smaller_draw_is_a_part_of_a_larger_one():
    source = TrainingSource("s", tuple(TrainingText(f"text {number}", (), str(number)) for number in range(40)), {})
    small, large, other = drawn(source, 5, 1), drawn(source, 20, 1), drawn(source, 5, 2)
    assert set(small.texts) < set(large.texts)
    assert set(small.texts) != set(other.texts)
    assert [text.text for text in drawn(source, 40, 3).texts] == [text.text for text in source.texts]
    with pytest.raises(UsageError, match="41 texts are asked for, and s has 40"):
        drawn(source, 41, 0)


def test_texts_get_a_counterpart_by_the_exchange_of_words_and_others_are_left_out(tmp_path):
    (tmp_path / "texts.csv").write_text("text\nHe saw the river.\nThe river is long.\nShe sings.\n", encoding="utf-8")
    found = paired_texts(TradeoffRecipe.model_validate({"train": str(tmp_path / "texts.csv")}))
    pairs = [(row.text, row.counterpart) for row in found.texts]
    assert pairs == [("He saw the river.", "She saw the river."), ("She sings.", "He sings.")]
    assert found.provenance["without_counterpart"] == 1
