"""What every method with a loss can add against forgetting: SAM, averages, half tuning, orthogonal factors, what is retained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget.data.overlap import folded_key
from fairforget.data.stereoset import load_stereoset
from fairforget.data.training import TrainingText
from fairforget.edits import LowRank, WeightEdit
from fairforget.errors import DataError, UsageError
from fairforget.methods import method_registry
from fairforget.methods._blocks import find_blocks
from fairforget.methods._retain import earlier_factors, file_rows, own_texts, retain_stream, retain_texts
from fairforget.methods._selectors import draw_half, find_selection
from fairforget.methods._trained import TrainedSettings
from fairforget.training import AnswerStream, TextStream

TEXTS = ["he is a doctor and works at home", "the man said that he would be late", "she is a nurse", "a woman has time"] * 4
SETTINGS: dict[str, Any] = {
    "sides": "control", "steps": 4, "batch_size": 4, "learning_rate": 5e-3, "precision": "float32", "max_length": 32, "rank": 2,
}


def fit(kind: str = "llama", **settings: Any) -> WeightEdit:
    method: Any = method_registry().get("cda")
    edit = method(**{**SETTINGS, **settings}).fit(tiny_model(kind), TEXTS)
    assert isinstance(edit, WeightEdit)
    return edit


@pytest.mark.parametrize(("kind", "tuning"), [("llama", "lora"), ("bert", "full")])
def test_each_gives_an_edit_of_its_own_and_leaves_the_model_alone(kind: str, tuning: str) -> None:
    model = tiny_model(kind)
    before = {name: parameter.detach().clone() for name, parameter in model.hf.named_parameters()}
    method: Any = method_registry().get("cda")
    found = [
        method(**{**SETTINGS, "tuning": tuning, "steps": 2, **options}).fit(model, TEXTS).content_hash
        for options in ({}, {"sam": 0.05}, {"sam": 0.5, "sam_adaptive": True}, {"ema": 0.9}, {"retain": "kl", "retain_text": "own"})
    ]
    assert len(set(found)) == len(found)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.hf.named_parameters())


def test_sam_moves_nothing_that_is_not_selected() -> None:
    edit = fit(tuning="attention", sam=0.5, ema=0.5)
    assert all("attn" in name for name in edit.deltas)


def test_half_of_every_block_is_trained_by_category_and_by_the_seed() -> None:
    for kind, modules in (("llama", {"attention": [4, 8], "mlp": [3, 6], "norms": [2, 4]}), ("bert", {"attention": [4, 8], "mlp": [2, 4]})):
        model = tiny_model(kind)
        selection = find_selection(model, "half", [])
        facts = selection.facts["modules"]
        assert {name: facts[name] for name in modules} == modules
        blocks = find_blocks(model)
        assert all(any(name.startswith(f"{block.name}.") for block in blocks) for name in selection.names)
        inside = sum(parameter.numel() for block in blocks for parameter in block.module.parameters())
        assert 0.3 < selection.count(model.hf) / inside < 0.7
        assert selection.names == find_selection(model, "half", []).names
        assert {find_selection(model, "half", [], seed=seed).names for seed in range(5)} - {selection.names}


def test_weight_and_bias_go_together_and_of_three_modules_one_or_two_are_trained() -> None:
    names, _ = draw_half(find_blocks(tiny_model("bert")), 0)
    for name in names:
        if name.endswith(".bias"):
            assert f"{name.removesuffix('.bias')}.weight" in names
    names, _ = draw_half(find_blocks(tiny_model("llama")), 0)
    counts = [sum(name.startswith(f"model.layers.{layer}.mlp") for name in names) for layer in (0, 1)]
    assert sorted(counts) == [1, 2]


def test_half_tuning_changes_what_was_drawn_alone() -> None:
    edit = fit(tuning="half")
    drawn = edit.record.provenance["selection"]["whole"]
    assert edit.record.provenance["selection"]["modules"]["attention"] == [4, 8]
    assert set(edit.deltas) <= set(drawn)
    assert len(edit.deltas) >= len(drawn) - 1


def overlap(first: WeightEdit, second: WeightEdit) -> float:
    total = 0.0
    for name, delta in first.deltas.items():
        other = second.deltas[name]
        assert isinstance(delta, LowRank)
        assert isinstance(other, LowRank)
        total += float((delta.A @ other.A.T).abs().sum())
    return total


def test_new_factors_keep_off_earlier_ones(tmp_path: Path) -> None:
    first = fit()
    first.save(tmp_path / "first")
    assert earlier_factors(str(tmp_path / "first")).keys() == first.deltas.keys()
    options = {"steps": 10, "learning_rate": 3e-2}
    free, held = fit(**options), fit(**options, orthogonal=0.5, orthogonal_to=[str(tmp_path / "first")])
    assert overlap(first, held) < 0.5 * overlap(first, free)


def test_earlier_edits_that_have_no_factors_are_refused(tmp_path: Path) -> None:
    fit(tuning="attention").save(tmp_path / "dense")
    fit(targets=["q_proj"]).save(tmp_path / "query")
    with pytest.raises(UsageError, match="is not low-rank, so it has no factors"):
        fit(orthogonal=0.5, orthogonal_to=[str(tmp_path / "dense")])
    with pytest.raises(UsageError, match=r"changed other modules \(q_proj\) than are tuned now \(v_proj\)"):
        fit(targets=["v_proj"], orthogonal=0.5, orthogonal_to=[str(tmp_path / "query")])
    with pytest.raises(UsageError, match="nowhere"):
        fit(orthogonal=0.5, orthogonal_to=[str(tmp_path / "nowhere")])


@pytest.mark.parametrize(("settings", "words"), [
    ({"orthogonal": 0.5}, "go together"),
    ({"orthogonal_to": ["x"]}, "go together"),
    ({"orthogonal": 0.5, "orthogonal_to": ["x"], "tuning": "full"}, "needs low-rank factors"),
    ({"sam_adaptive": True}, "set its radius sam too"),
    ({"accumulation": 3}, "does not divide"),
])
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit(**settings)


def questions(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_file_of_answers_is_retained_by_its_answers(tmp_path: Path) -> None:
    rows = [{"prompt": "the nurse is", "answer": " late", "group": "x"}, {"prompt": "a dog is", "answer": " red"}]
    source = questions(tmp_path / "old.jsonl", *rows)
    model = tiny_model("llama")
    settings = TrainedSettings(retain_text=source)
    stream, facts = retain_stream(settings, model, TEXTS, 0)
    assert isinstance(stream, AnswerStream)
    assert [label for label in stream.example(0, 0)["labels"] if label != -100] == model.token_ids(" late")
    assert {name: facts[name] for name in ("answers", "left_out")} == {"answers": 2, "left_out": 0}
    assert len(facts["sha256"]) == 64
    assert retain_texts(source, 0) == ["the nurse is late", "a dog is red"]
    changes: list[dict[str, Any]] = [{}, {"ewc": 1e3}, {"ewc": 1e3, "ewc_labels": "drawn"}, {"retain": "cross-entropy"}]
    edits = [fit(retain_text=source, steps=2, **options) for options in changes]
    assert len({edit.content_hash for edit in edits}) == 4
    assert edits[1].record.provenance["retained"]["answers"] == 2


def test_unrelated_sentences_of_stereoset_are_of_the_train_terms_alone(data_folder: Path) -> None:
    del data_folder
    texts = retain_texts("stereoset-unrelated", 0)
    measured = {folded_key(example.unrelated.text) for example in load_stereoset() if example.part != "train"}
    assert len(texts) > 1000
    assert not {folded_key(text) for text in texts} & measured
    assert sorted(texts) == sorted(retain_texts("stereoset-unrelated", 1)) and texts != retain_texts("stereoset-unrelated", 1)
    stream, facts = retain_stream(TrainedSettings(retain_text="stereoset-unrelated"), tiny_model("bert"), TEXTS, 0)
    assert len(stream) > 1000 and facts["text"] == "stereoset-unrelated"


def test_files_of_texts_and_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    assert file_rows(questions(tmp_path / "t.jsonl", {"text": "a dog"}, {"text": "red"})) == (["a dog", "red"], [])
    (tmp_path / "t.txt").write_text("a dog\n\n red \n", encoding="utf-8")
    assert file_rows(str(tmp_path / "t.txt")) == (["a dog", "red"], [])
    with pytest.raises(DataError, match="row 2 has no text in 'answer'"):
        file_rows(questions(tmp_path / "a.jsonl", {"prompt": "x", "answer": "y"}, {"prompt": "x", "answer": " "}))
    with pytest.raises(DataError, match="line 2 has no column 'prompt'"):
        file_rows(questions(tmp_path / "b.jsonl", {"prompt": "x", "answer": "y"}, {"text": "x"}))
    with pytest.raises(DataError, match="line 1 has no column 'text'"):
        file_rows(questions(tmp_path / "c.jsonl", {"words": "x"}))
    (tmp_path / "d.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(DataError, match="is not JSON"):
        file_rows(str(tmp_path / "d.jsonl"))
    with pytest.raises(DataError, match="`own`"):
        file_rows(str(tmp_path / "nowhere"))


def test_own_is_the_training_texts_and_of_questions_the_prompts() -> None:
    asked = [TrainingText(answer, (), answer, prompt="the book is") for answer in (" red", " blue")]
    rows = [TrainingText("a dog", (), "1"), *asked]
    assert own_texts(rows) == ["a dog", "the book is"]
    stream, facts = retain_stream(TrainedSettings(retain_text="own"), tiny_model("llama"), TEXTS, 0)
    assert isinstance(stream, TextStream)
    assert facts == {"text": "own", "texts": 4}
