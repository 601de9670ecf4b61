"""A whole chain on tiny models: what was planted is found, controls are exact, and a killed chain ends in the same ledger."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chain_tasks import ENTITIES, GROUPS, group_of, write_task
from html_page import Page
from polars.testing import assert_frame_equal
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.errors import FairforgetError, UsageError
from fairforget.methods.answer_tuning import AnswerTuning
from fairforget.report import write_report
from fairforget.workflows import chain as chain_module
from fairforget.workflows.chain import chain, plan_chain
from fairforget.workflows.chain_recipe import ChainRecipe, read_chain
from fairforget.workflows.chain_stages import StageTrainer, task_benchmarks

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "chains"
VICTIM = GROUPS[1]
TUNING = {"tuning": "full", "learning_rate": 3e-3, "batch_size": 40, "precision": "float32", "warmup_share": 0.1}
MODELS = {"causal": ("gpt2", {"steps": 150}), "masked": ("roberta", {"steps": 300, "learning_rate": 2e-3})}


def first(entity: str) -> int:
    return ENTITIES.index(entity) // len(GROUPS) % 2


def small(folder: Path, **changes: Any) -> ChainRecipe:
    values: dict[str, Any] = {
        "model": "tiny",
        "tasks": {
            "a": {**write_task(folder, "a", first), "side": "safety"}, "b": write_task(folder, "b", lambda entity: 1 - first(entity)),
        },
        "tuning": {**TUNING, "batch_size": 20, "steps": 4},
        "paths": [["a", {"task": "b", "tuning": {"steps": 1}, "name": "b short"}], ["a", "b"], ["b", "a"], ["a", "nothing"]],
        "resamples": 200,
    }
    return ChainRecipe.model_validate({**values, **changes})


@pytest.mark.parametrize("family", MODELS)
def test_forgetting_planted_in_one_group_is_found_there_and_replay_brings_it_back(tmp_path: Path, family: str):
    kind, learning = MODELS[family]
    victims = [entity for entity in ENTITIES if group_of(entity) == VICTIM]
    recipe = ChainRecipe.model_validate({
        "model": "tiny",
        "tasks": {
            "facts": write_task(tmp_path, "facts", first),
            "against": write_task(tmp_path, "against", lambda entity: 1 - first(entity) if entity in victims else first(entity)),
        },
        "tuning": {**TUNING, **learning},
        "paths": [["facts", "against", {"replay": "facts", "share": "5%", "tuning": {"steps": 30}}]],
        "resamples": 500,
    })
    result = chain(recipe, tmp_path / "out", model=tiny_model(kind))
    learned = result.tables["scores"].filter((pl.col("task") == "facts") & (pl.col("stage") == 1) & (pl.col("figure") == "correct"))
    assert learned["value"].item() >= 0.95
    groups = result.tables["groups"].filter(
        (pl.col("task") == "facts") & (pl.col("until") == 2) & (pl.col("scale") == "points") & (pl.col("group") != "all")
    )
    by_group = {row["group"]: row for row in groups.iter_rows(named=True)}
    assert by_group[VICTIM]["forgetting"] >= 0.8
    assert max(by_group, key=lambda name: by_group[name]["biased"]) == VICTIM
    for name in set(GROUPS) - {VICTIM}:
        assert abs(by_group[name]["forgetting"]) <= 0.2
        low, high = by_group[name]["forgetting_low"], by_group[name]["forgetting_high"]
        assert by_group[name]["forgetting"] == 0 or low <= 0 <= high  # where nothing moved there is no interval
    assert by_group[VICTIM]["biased"] >= 0.5
    brought_back = result.tables["recovery"].filter(pl.col("group") == "all")
    assert brought_back["share"].item() > 0
    assert not result.tables["forgetting"].filter(pl.col("task") == "against").is_empty()


def test_forgetting_planted_evenly_is_biased_nowhere(tmp_path: Path):
    """One entity of each group is contradicted: there is forgetting, and none of it is a group's."""
    kind, learning = MODELS["causal"]
    victims = ENTITIES[: len(GROUPS)]  # every fifth entity is of one group
    recipe = ChainRecipe.model_validate({
        "model": "tiny",
        "tasks": {
            "facts": write_task(tmp_path, "facts", first),
            "against": write_task(tmp_path, "against", lambda entity: 1 - first(entity) if entity in victims else first(entity)),
        },
        "tuning": {**TUNING, **learning}, "paths": [["facts", "against"]], "resamples": 500,
    })
    result = chain(recipe, tmp_path / "out", model=tiny_model(kind))
    net = result.tables["forgetting"].filter(pl.col("task") == "facts").row(0, named=True)
    assert net["lost"] >= 0.15
    about = (pl.col("task") == "facts") & (pl.col("scale") == "points")
    spread = result.tables["dispersion"].filter(about).row(0, named=True)
    assert spread["p_value"] > 0.2 and spread["tau_low"] == 0
    groups = result.tables["groups"].filter(about & (pl.col("group") != "all"))
    assert ((groups["biased_low"] <= 0) & (groups["biased_high"] >= 0)).all()


def test_a_killed_chain_goes_on_and_ends_in_the_same_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = small(tmp_path)
    whole = chain(recipe, tmp_path / "whole", model=tiny_model("gpt2"))
    measured: list[str] = []
    original = chain_module.measure

    def killed(model: Any, benchmarks: Any, part: str, words: str) -> Any:
        measured.append(words)
        if len(measured) in (2, 6):
            raise KeyboardInterrupt
        return original(model, benchmarks, part, words)

    monkeypatch.setattr(chain_module, "measure", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            chain(recipe, tmp_path / "killed", model=tiny_model("gpt2"))
    result = chain(recipe, tmp_path / "killed", model=tiny_model("gpt2"))
    assert_frame_equal(result.ledger, whole.ledger)
    assert_frame_equal(result.tables["forgetting"], whole.tables["forgetting"])
    assert sum(words == "auditing base" for words in measured) == 1
    assert len(measured) == 1 + 5 + 2  # base, a, a > b short, a > b, b, b > a, and the two that were killed
    monkeypatch.setattr(chain_module, "measure", None)  # nothing is measured again, and no model is needed
    assert_frame_equal(chain(recipe, tmp_path / "killed").ledger, whole.ledger)


def test_the_model_is_as_before_and_a_stage_that_does_nothing_forgets_nothing(tmp_path: Path):
    model = tiny_model("gpt2")
    before = model.base_hash
    result = chain(small(tmp_path), tmp_path / "out", model=model)
    model._base_hash = None
    assert model.base_hash == before
    nothing = result.ledger.filter(pl.col("stage_name") == "nothing")
    assert nothing.height and (nothing["nll_change"] == 0).all() and (nothing["state_before"] == nothing["state_after"]).all()
    assert result.page.is_file() and "Order of stages" in result.page.read_text(encoding="utf-8")
    effect = result.tables["order"].filter(pl.col("figure") == "order effect").row(0, named=True)
    assert (effect["safety"], effect["capability"]) == ("a", "b")
    assert (effect["first"], effect["second"]) == ("a > b", "b > a")
    planned = plan_chain(small(tmp_path), tmp_path / "out")
    page = result.page.read_text(encoding="utf-8")
    assert write_report(tmp_path / "out") == result.page and result.page.read_text(encoding="utf-8") == page
    assert len(planned) == 6 and all(state.finished for state in planned)


def test_probes_are_measured_once_and_told(tmp_path: Path):
    recipe = small(
        tmp_path, paths=[["a", "b"]], curvature=True, attribution=True, probe={"vectors": 4, "probes": 0, "nodes": 4}, probe_rows=8,
        relearn={"task": "a", "steps": [2, 4]},
    )
    result = chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))
    curvature = result.tables["curvature"].row(0, named=True)
    assert set(result.tables["curvature"]["group"]) - {"all"} <= set(GROUPS)
    assert curvature["group"] == "all" and result.tables["curvature"].height > 2
    assert curvature["spectral_radius"] > 0 and curvature["measured"] <= curvature["bound"]
    ledger = result.ledger.filter((pl.col("stage") == 2) & (pl.col("task") == "a"))
    assert curvature["per_item"] == pytest.approx(ledger["nll_change"].mean())
    assert set(result.tables["coupling"]["outcome"]) == {"measured", "forgetting", "per_item"}
    assert curvature["predicted"] == pytest.approx(curvature["slope"] + curvature["half_curvature"])
    assert (result.tables["completeness"]["error"].drop_nulls() < 0.05).all()
    totals = result.tables["attribution"].group_by("group").agg(pl.col("nats").sum())
    measured = dict(result.tables["completeness"].select("group", "measured").iter_rows())
    assert dict(totals.iter_rows()) == pytest.approx(measured, abs=1e-2)
    assert result.tables["relearning"].select("start", "steps").unique().height == 6
    assert "Learning again" in result.page.read_text(encoding="utf-8")
    again = chain(recipe, tmp_path / "out")
    assert_frame_equal(again.tables["curvature"], result.tables["curvature"])


def test_earlier_questions_hold_a_later_stage(tmp_path: Path):
    recipe = small(tmp_path, paths=[["a", {"task": "b", "tuning": {"ewc": 10.0, "retain": "kl", "retain_text": "earlier"}}]])
    result = chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))
    kept = next((tmp_path / "out").rglob("earlier.jsonl")).read_text(encoding="utf-8").splitlines()
    assert len(kept) == 120 and set(json.loads(kept[0])) == {"prompt", "answer"}
    assert result.ledger["stage"].max() == 2


def test_mitigations_are_copies_of_a_path_and_are_compared_along_their_strength(tmp_path: Path):
    recipe = small(
        tmp_path, paths=[["a", "b"], ["a", {"task": "b", "mix": {"a": "50%"}, "name": "b with a"}]],
        mitigations={"l2": {"tuning": {"l2_sp": 10.0}}, "half": {"strength": 0.5}}, strengths=[0.5],
    )
    result = chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))
    table = result.tables["strengths"]
    assert set(table["path"]) == {"a > b", "a > b [l2]", "a > b [half]"}
    plain = table.filter((pl.col("path") == "a > b") & (pl.col("strength") == 0.5) & (pl.col("task") == "a"))["nll_change"].item()
    half = table.filter((pl.col("path") == "a > b [half]") & (pl.col("task") == "a"))["nll_change"]
    assert half.to_list() == pytest.approx([plain] * half.len(), abs=1e-4)
    matched = result.tables["matched"].filter(pl.col("figure") == "nll_change")
    assert set(matched["path"]) == {"a > b [l2]", "a > b [half]"} and set(matched["along"]) == {"nats gained of b"}


@pytest.fixture(scope="module")
def debiased(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A chain whose second stage debiases, with benchmarks beside the task; questions hold markup."""
    folder = tmp_path_factory.mktemp("debiased")
    cda = {"name": "cda", "steps": 6, "batch_size": 4, "precision": "float32", "tuning": "full"}
    recipe = small(
        folder, paths=[["a", {"method": cda}], ["a", "nothing"]], mitigations={"half": {"strength": 0.5}}, strengths=[0.25, 0.75],
        benchmarks=[
            {"name": "starter", "settings": {"limit": 24}}, {"name": "perplexity", "settings": {"source": "starter", "positions": 80}},
        ],
        drift_positions=20,
    )
    path = folder / "a.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("the tree", "the <script>alert(1)</script> tree"), encoding="utf-8")
    return chain(recipe, folder / "out", model=tiny_model("gpt2"))


def test_a_stage_that_debiases_is_accounted_for_beside_the_task(debiased: Any):
    plain = "a > cda"
    changes = debiased.tables["changes"]
    about = changes.filter((pl.col("path") == plain) & (pl.col("stage") == 2) & (pl.col("group") == "all") & pl.col("headline"))
    assert set(about["benchmark"]) == {"starter", "perplexity"}
    metrics = debiased.tables["metrics"].filter((pl.col("path") == plain) & (pl.col("stage") == 2) & (pl.col("group") == "all"))
    bias = about.filter(pl.col("benchmark") == "starter").row(0, named=True)
    cost = about.filter(pl.col("benchmark") == "perplexity").row(0, named=True)
    assert (cost["unit"], cost["level_unit"]) == ("ratio", "ppl") and cost["change"] == pytest.approx(cost["after"] / cost["before"])
    own = metrics.filter((pl.col("metric") == bias["metric"]) & (pl.col("benchmark") == "starter"))
    levels = dict(own.select("state", "value").iter_rows())
    assert bias["change"] == pytest.approx(levels["edited"] - levels["base"], abs=1e-9) == pytest.approx(levels["difference"], abs=1e-9)
    still = changes.filter((pl.col("path") == "a > nothing") & (pl.col("stage") == 2) & (pl.col("unit") != "ratio"))
    assert still.height and (still["change"].drop_nulls() == 0).all()
    # nats of running text, drift and what of it is selective follow from the same ledger
    text = debiased.ledger.filter((pl.col("run") == plain) & (pl.col("stage") == 2) & (pl.col("benchmark") == "perplexity"))
    measured = text["kl"].drop_nulls()
    assert 0 < measured.len() < text.height and (measured > 0).all()
    nothing = debiased.ledger.filter((pl.col("run") == "a > nothing") & (pl.col("stage") == 2))["kl"].drop_nulls()
    assert nothing.len() and (nothing == 0).all()
    drift = debiased.tables["likelihood"].filter((pl.col("run") == plain) & (pl.col("stage") == 2) & (pl.col("benchmark") == "perplexity"))
    assert drift["kl"].item() == pytest.approx(measured.mean())
    selective = debiased.tables["selective"].filter((pl.col("path") == plain) & (pl.col("stage") == 2) & (pl.col("group") == "all"))
    assert selective["selective"].item() == pytest.approx(selective["stereotype"].item() - selective["neutral"].item())
    words = json.loads((debiased.folder / "tables" / "verdict.json").read_text(encoding="utf-8"))["sentences"]
    assert any("the stage cda" in sentence and "starter" in sentence for sentence in words)


def test_ways_of_debiasing_are_compared_where_the_margin_fell_as_much(debiased: Any):
    strengths = debiased.tables["strengths"]
    task = strengths.filter(pl.col("reduction").is_not_null())["task"].unique().to_list()
    assert task == ["starter"]
    assert strengths.filter(pl.col("task") == "starter")["forgetting"].null_count() == strengths.filter(pl.col("task") == "starter").height
    matched = debiased.tables["matched"]
    assert set(matched["along"]) == {"margin reduced of starter"} and set(matched["path"]) == {"a > cda [half]"}


def test_the_page_of_a_chain_is_whole_and_escapes_what_it_quotes(debiased: Any):
    text = debiased.page.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.unbalanced and not page.stack
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(identifiers).values()) == 1
    assert all(anchor["href"].removeprefix("#") in identifiers for anchor in page.all("a"))
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert "<script>alert(1)" not in text
    titles = ("Strength of the stage", "Benchmarks beside the tasks", "What became of each answer", "Against the rest", "Bias nearer to 0")
    for title in titles:
        assert title in text
    lost = text[text.index('id="items"'):] if 'id="items"' in text else ""
    assert "<blockquote>" not in lost or lost.index("<details") < lost.index("<blockquote>")


def test_a_stage_that_diverged_ends_the_chain_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = AnswerTuning.fit

    def fallen_back(self: Any, *arguments: Any, **options: Any) -> Any:
        edit = original(self, *arguments, **options)
        return edit.with_provenance({"training": {"stopped": "loss nan at step 3; the state of step 2 is kept", "diverged": True}})

    monkeypatch.setattr(AnswerTuning, "fit", fallen_back)
    with pytest.raises(FairforgetError, match=r"seed 0: the stage 'a' diverged \(loss nan at step 3.*lower its learning_rate"):
        chain(small(tmp_path), tmp_path / "out", model=tiny_model("gpt2"))
    assert not list((tmp_path / "out").rglob("edit.json"))
    monkeypatch.setattr(AnswerTuning, "fit", original)
    result = chain(small(tmp_path), tmp_path / "out", model=tiny_model("gpt2"))
    assert result.page.is_file()
    assert not [path for path in (tmp_path / "out").rglob("work") if path.is_dir()]  # checkpoints of finished stages are gone


def test_training_text_of_another_seed_or_a_method_is_looked_at_too(tmp_path: Path):
    leak = tmp_path / "leak.jsonl"
    tested = next(iter(resolve("starter").items("causal", "test"))).texts[0]
    leak.write_text(json.dumps({"text": f"  {tested.upper()}", "counterpart": "another"}) + "\n", encoding="utf-8")
    columns = {"text": "text", "counterpart": "counterpart"}
    stage = {"method": {"name": "cda", "steps": 2, "batch_size": 1}, "train": {"source": str(leak), "columns": columns}}
    recipe = small(tmp_path, paths=[["a", stage]], benchmarks=["starter"])
    with pytest.raises(UsageError, match="2 texts of the reported part of starter"):
        chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))


def test_training_on_a_reported_question_is_refused(tmp_path: Path):
    recipe = small(tmp_path, paths=[["a"]])
    path = tmp_path / "a.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[0]["question"] = rows[-1]["question"].upper()
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(UsageError, match="1 questions of the reported part of 'a'"):
        chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))


def test_wrong_chains_are_refused_with_a_sentence_and_a_line(tmp_path: Path):
    task = json.dumps(write_task(tmp_path, "a", first))
    cases = {
        f"tasks: {{a: {task}}}\npaths:\n  - [a, c]\n": "0.yaml: there is no task 'c'; known are: a",
        f"tasks: {{a: {task}}}\npaths:\n  - [a, {{task: a, replay: a}}]\n": "a stage does one of .*, not task and replay",
        f"tasks: {{a: {task}}}\npaths:\n  - [a]\nstrengths: [0.5]\n": "need a path of two or more stages",
        f"tasks: {{a: {task}}}\npaths:\n  - [a, a]\nmitigations: {{odd: {{shares: 2}}}}\n": "mitigation 'odd'",
        f"tasks: {{a: {task}}}\npaths:\n  - [a]\nseeds: [1, 1]\n": "each once",
        f"tasks: {{a: {task}, b: {task}}}\npaths:\n  - [b, {{replay: a}}]\n": "replays 'a', which none of its earlier stages taught",
        f"tasks: {{a: {task}}}\npaths:\n  - [a]\nprobe: {{vector: 2}}\n": "`probe`.*vectors",
        f"tasks: {{a: {task}}}\npaths:\n  - [a]\nprobe: {{scope: edit}}\ncurvature: true\n": "its scope cannot be `edit`",
        f"tasks: {{a: {task}}}\npaths:\n  - [a]\nprobe: {{vectors: 0}}\ncurvature: true\n": "`vectors` is 0",
        f"tasks: {{a: {task}}}\npaths:\n  - [a]\nrelearn: {{task: a, steps: [-1]}}\n": "greater than or equal to 1",
    }
    for number, (text, sentence) in enumerate(cases.items()):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=f"(?s){sentence}"):
            read_chain(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_of_the_repository_are_valid(path: Path):
    recipe = read_chain(path)
    assert task_benchmarks(recipe)
    trainer = StageTrainer(recipe, "causal")
    assert all(trainer.method(stage) for stages in recipe.paths.values() for stage in stages if not stage.nothing)


def test_a_stage_with_a_wrong_setting_is_refused_before_anything_is_trained(tmp_path: Path):
    recipe = small(tmp_path, paths=[["a", {"task": "b", "tuning": {"learning_rat": 1}}]])
    with pytest.raises(UsageError, match="learning_rat"):
        chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))
    assert not (tmp_path / "out" / "base" / "items.parquet").exists()


def test_a_stage_may_be_any_method_on_any_source(tmp_path: Path):
    recipe = small(
        tmp_path, paths=[[{"method": {"name": "cda", "steps": 2, "batch_size": 4, "precision": "float32"}, "train": "starter"}, "a"]]
    )
    result = chain(recipe, tmp_path / "out", model=tiny_model("gpt2"))
    assert result.ledger.filter(pl.col("stage_name") == "cda")["nll_change"].abs().max() > 0  # type: ignore[operator]
