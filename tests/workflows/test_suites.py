"""Suites: what they stand for in each family, what may stand beside them, and the estimate that is told before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny import tiny_model

from fairforget.benchmarks import _suites, get_suite, registry, resolve, suite_names
from fairforget.cli import main
from fairforget.errors import UsageError
from fairforget.workflows.audit import audit, resolve_choices
from fairforget.workflows.compare import compare
from fairforget.workflows.debias import debias
from fairforget.workflows.estimate import estimate, run_tokens
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import BenchmarkChoice, parse_recipe
from fairforget.workflows.study_recipe import StudyRecipe, study_cells
from fairforget.workflows.suites import expand_suites

STANDARD = "crows-pairs stereoset bbq winobias-lm winogender seat blimp lambada arc piqa perplexity".split()


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of what ships with the package, another list for each family."""
    pairs = ("starter", {"limit": 4})
    suite = _suites.Suite("little", "for tests", {"causal": (pairs, ("perplexity:starter", {})), "masked": (pairs,)})
    monkeypatch.setattr(_suites, "_suites", lambda: {"little": suite})


def names(choices: list[BenchmarkChoice | str]) -> list[str]:
    return [choice if isinstance(choice, str) else choice.name for choice in choices]


@pytest.mark.parametrize("family", ["causal", "masked"])
@pytest.mark.parametrize("name", suite_names())
def test_every_entry_is_a_benchmark_of_the_family_with_settings_that_it_has(name: str, family: str) -> None:
    model = tiny_model("llama" if family == "causal" else "bert")
    for entry, settings in get_suite(name).of(family):
        base = entry.partition(":")[0]
        assert base in registry.names()
        benchmark = resolve(entry, settings)
        assert family in benchmark.families
        benchmark.check(model)


def test_the_standard_suite_is_the_one_that_was_promised() -> None:
    assert suite_names() == ["quick", "standard", "full"]
    for family in ("causal", "masked"):
        entries = dict(get_suite("standard").of(family))
        assert [name for name in entries if name in STANDARD] == [name for name in STANDARD if name in entries]
        assert entries["bbq"] == {"share": 0.5}, "half of the test part, two fifths, is a fifth of the clusters"
        assert set(entries) <= {name.partition(":")[0] for name, _ in get_suite("full").of(family)}
    causal = dict(get_suite("standard").of("causal"))
    assert list(causal) == STANDARD
    assert causal["blimp"] == {"limit": 100}
    assert causal["lambada"] == {"limit": 1000}


def test_what_is_named_beside_a_suite_takes_its_place(little: None) -> None:
    assert names(expand_suites(["little", "crows-pairs"], "masked")) == ["starter", "crows-pairs"]
    assert names(expand_suites(["little", "starter:mean"], "causal")) == ["perplexity:starter", "starter:mean"]
    assert names(expand_suites(["little", "little"], None)) == ["starter", "perplexity:starter"]
    assert [benchmark.name for benchmark in resolve_choices(["little"], "masked")] == ["starter"]
    assert resolve_choices(["little"], "causal")[0].settings.limit == 4
    with pytest.raises(UsageError, match="has no settings"):
        expand_suites([BenchmarkChoice(name="little", settings={"limit": 3})], "causal")


def test_a_plan_is_that_of_the_family(little: None) -> None:
    recipe = parse_recipe({"benchmarks": "little"})
    assert [benchmark.name for benchmark in prepare(recipe, "masked").benchmarks] == ["starter", "perplexity"]
    plan = prepare(recipe)
    assert plan.target_text == "starter:margin"
    assert plan.cost is plan.benchmarks[1]
    study = StudyRecipe.model_validate({"base": {"benchmarks": "little"}, "axes": {"way": [{"name": "plain"}]}})
    with pytest.raises(UsageError, match="names its benchmarks one by one"):
        study_cells(study, "study")


def test_the_estimate_counts_what_is_scored(little: None, own_cache: Path) -> None:
    model = tiny_model("llama")
    benchmarks = resolve_choices(["little"], "causal")
    found = estimate(model, benchmarks, ("select", "test"))
    assert found.speed > 0
    assert found.uncounted == ()
    pairs, cost = ({part: found.tokens[name, part] for part in ("select", "test")} for name in ("starter", "perplexity"))
    assert found.part("test") == pairs["test"] + cost["test"]
    ids = {tuple(model.token_ids(text)) for item in benchmarks[0].measured_items("causal", "test") for text in item.texts}
    assert max(map(len, ids)) < pairs["test"] <= sum(len(one) for one in ids) + 1
    assert run_tokens(found, "starter", "perplexity", points=5, bisections=3) == (
        found.part("select") + 2 * found.part("test") + 4 * pairs["select"] + 7 * cost["select"]
    )
    assert "a second, measured" in found.sentence(1000)


def test_the_estimate_counts_states_and_what_is_written(own_cache: Path, data_folder: Path) -> None:
    model = tiny_model("gpt2")
    benchmarks = resolve_choices([
        "starter", BenchmarkChoice(name="seat", settings={"families": ["gender"]}), BenchmarkChoice(name="gsm8k", settings={"limit": 3}),
    ], "causal")
    found = estimate(model, benchmarks, ("test",))
    texts = {text for item in benchmarks[1].measured_items("causal", "test") for text in item.texts}
    assert found.tokens["seat", "test"] > sum(len(model.sequence_ids(text)) for text in texts)  # attributes beside the targets
    items = len(benchmarks[2].measured_items("causal", "test"))
    assert found.written == {"gsm8k": items * benchmarks[2].settings.max_new_tokens}
    assert found.uncounted == ()
    assert found.writing_speed > 0
    words = found.sentence(1000)
    assert f"tokens at most: gsm8k {found.written['gsm8k']:,})" in words
    assert f"{found.writing_speed:,.0f} tokens a second, measured" in words


def test_items_without_a_score_are_told_with_their_reason(own_cache: Path, tmp_path: Path) -> None:
    model, said = tiny_model("gpt2"), list[str]()
    path = tmp_path / "mine.jsonl"
    texts = ["the nurse is good", "the doctor " * 400, "the teacher " * 500]
    rows = [{"id": str(number), "context": text, "options": ["he", "she"], "right": 0} for number, text in enumerate(texts)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    columns = {name: name for name in ("id", "context", "options", "right")}
    choice = BenchmarkChoice(name="file", settings={"file": str(path), "scorer": "choices", "columns": columns})
    result = audit(model, [choice], part="all", resamples=200, say=said.append)
    reason = "more than the model's 256 positions"
    assert all(reason in words for words in result.items["skipped"].drop_nulls())
    assert said == [f"Note: {result.items['benchmark'][0]}: 2 of 3 skipped: {reason}."]
    assert f"2 of 3 skipped: {reason}" in result.metrics.filter(pl.col("metric") == "accuracy")["note"].item()


def test_the_estimate_is_told_before_a_suite_and_not_else(little: None, own_cache: Path, tmp_path: Path) -> None:
    model = tiny_model("llama")
    said: list[str] = []
    first = audit(model, ["little"], resamples=200, out=tmp_path / "a", say=said.append)
    assert len(said) == 1
    assert said[0].startswith("Estimate: at most")
    assert set(first.items["benchmark"]) == {"starter", "perplexity"}
    audit(model, ["perplexity:starter"], resamples=200, say=said.append)
    assert len(said) == 1
    metrics = compare(tmp_path / "a", tmp_path / "a", benchmarks=["little"], resamples=200, say=said.append)
    assert "no model is run" in said[1]
    assert set(metrics["benchmark"]) == {"starter", "perplexity"}
    assert set(compare(tmp_path / "a", tmp_path / "a", benchmarks=["perplexity:starter"], resamples=200)["benchmark"]) == {"perplexity"}
    with pytest.raises(UsageError, match="share none of crows-pairs"):
        compare(tmp_path / "a", tmp_path / "a", benchmarks=["crows-pairs"])


def test_debias_tells_what_the_family_s_list_will_take(little: None, own_cache: Path, tmp_path: Path) -> None:
    class Enough(Exception):
        """The estimate was told: the run itself is other tests' matter."""

    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if len(said) > 1:
            raise Enough

    with pytest.raises(Enough):
        debias(tiny_model("bert"), benchmarks="little", budget={}, out=tmp_path, say=say)
    assert said[0].startswith("Estimate: at most")
    assert said[1].startswith("1/6")


def test_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "suites"]) == 0
    printed = capsys.readouterr().out
    assert "standard" in printed
    assert "share=0.5" in printed


@pytest.mark.parametrize(("choices", "words"), [
    (["fine-tune:stsb", "fine-tune:edos"], "fine-tune is named twice: name all its tasks in its setting `tasks`"),
    ([BenchmarkChoice(name="fine-tune:stsb", settings={"seeds": (0,)}), "fine-tune:edos"], "name all its tasks in its setting `tasks`"),
    (["starter", "perplexity", "perplexity:starter"], "perplexity is named twice: keep one of its forms"),
])
def test_two_forms_of_one_benchmark_are_refused_since_a_figure_has_its_name(choices: list[Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_choices(choices)


def test_several_tasks_go_into_one_benchmark() -> None:
    chosen = resolve_choices([BenchmarkChoice(name="fine-tune", settings={"tasks": ("stsb", "edos")}), "starter"])
    assert [benchmark.name for benchmark in chosen] == ["fine-tune", "starter"]
    prepare(parse_recipe({"benchmarks": "starter,perplexity:starter"}))
    with pytest.raises(UsageError, match="perplexity is named twice"):
        prepare(parse_recipe({"benchmarks": "starter,perplexity,perplexity:starter"}))
