"""The trade-off study on a tiny model: what is measured, what is kept, and going on after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tiny import tiny_model
from tradeoff_files import tiny_tradeoff, write_tiny_organism

import fairforget.workflows.tradeoff_jobs as jobs
import fairforget.workflows.tradeoff_recipe as recipes
from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit
from fairforget.errors import UsageError
from fairforget.forgetting import balance
from fairforget.models import load
from fairforget.report import write_report
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest
from fairforget.tables import read_table
from fairforget.workflows.drift import Drift
from fairforget.workflows.study_jobs import StudyFolder
from fairforget.workflows.tradeoff import TradeoffResult, plan_tradeoff, tradeoff
from fairforget.workflows.tradeoff_probes import OTHER, TARGET, WITHOUT, distances, group_word_strata
from fairforget.workflows.tradeoff_recipe import Strata, TradeoffRecipe, tradeoff_runs
from fairforget.workflows.tradeoff_training import drawn, paired_texts, snapshot_folder, train_with_snapshots


@dataclass(frozen=True)
class Finished:
    organism: Path
    folder: Path
    recipe: TradeoffRecipe
    result: TradeoffResult


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Control, two-sided CDA, and CDA under WiSE, which shares its training; edits are kept."""
    folder = tmp_path_factory.mktemp("tradeoff")
    organism = write_tiny_organism(folder / "organism")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFORGET_CACHE", str(folder / "cache"))
        recipe = TradeoffRecipe.model_validate(
            tiny_tradeoff(organism, keep_edits=True, mitigations=[{"name": "wise", "strength": 0.5}])
        )
        yield Finished(organism, folder / "out", recipe, tradeoff(recipe, folder / "out"))


def row(study: Finished, arm: str, mitigation: str, step: int) -> dict[str, Any]:
    chosen = (pl.col("arm") == arm) & (pl.col("mitigation") == mitigation) & (pl.col("step") == step)
    return study.result.checkpoints.filter(chosen).row(0, named=True)


def test_every_checkpoint_is_a_row_and_the_base_is_nothing_forgotten(study):
    assert study.result.runs["status"].to_list() == ["done"] * 3
    assert study.result.checkpoints.height == 3 * 3
    for arm, mitigation in (("cda0", "plain"), ("cda2", "plain"), ("cda2", "wise")):
        base = row(study, arm, mitigation, 0)
        assert [base[name] for name in ("stereotype", "neutral", "selective", "margin_shift", "overall", "kl", "distance.all")] == [0.0] * 7
        last = row(study, arm, mitigation, 4)
        assert last["margin_shift"] == pytest.approx(last["stereotype"] - last["anti_stereotype"])
        assert last["perplexity_ratio"] == pytest.approx(math.exp(last["overall"]))
        assert last["kl"] > 0
        assert last["downstream"] - last["downstream_change"] == pytest.approx(base["downstream"])
        assert last["downstream"] == last["downstream.organism-fine-tune-grammar"]
        assert row(study, arm, mitigation, 2)["downstream"] is None
    steps = [row(study, "cda2", "plain", step)["distance.all"] for step in (0, 2, 4)]
    assert steps == sorted(steps)
    # half of the edit is half as far
    assert row(study, "cda2", "wise", 4)["distance.all"] == pytest.approx(steps[-1] / 2)


def test_the_tables_of_a_checkpoint_balance_and_its_strata_add_up(study):
    place = snapshot_folder(study.folder / "runs" / "cda2-plain-n6-seed0", 4)
    ledger = read_table(place / "ledger.parquet")
    balance(ledger)
    last = row(study, "cda2", "plain", 4)
    general = ledger.filter(pl.col("task") == "perplexity-text")
    assert last["overall"] == pytest.approx(general["nll_change"].sum() / general["tokens_before"].sum())
    assert last["kl"] == pytest.approx(general["kl"].drop_nulls().mean())
    neutral = ledger.filter(pl.col("task") == "neutral-perplexity-text")
    assert last["neutral"] == pytest.approx(neutral["nll_change"].sum() / neutral["tokens_before"].sum())  # one token a text: `changed`
    strata = read_table(study.folder / "tables" / "strata.parquet").filter((pl.col("run") == "cda2-plain-n6-seed0") & (pl.col("step") == 4))
    assert set(strata["stratum"]) == {TARGET, WITHOUT}
    assert strata["contribution"].sum() == pytest.approx(last["overall"])


def test_a_snapshot_is_the_training_so_far_and_the_model_is_as_before(study, tmp_path):
    run = next(run for run in tradeoff_runs(study.recipe) if run.arm == "cda2" and run.mitigation == "plain")
    model = load(run.model_choice.ref)
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    data = drawn(paired_texts(run.recipe), 6, 0)
    train_with_snapshots(run, model, data, tmp_path / "edits", tmp_path / "work")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())
    kept = jobs.training_folder(StudyFolder(study.folder), run)
    for step in (2, 4):
        again, first = (WeightEdit.load(snapshot_folder(folder, step)) for folder in (tmp_path / "edits", kept))
        assert again.content_hash == first.content_hash
    hashes = {WeightEdit.load(snapshot_folder(kept, step)).content_hash for step in (2, 4)}
    assert len(hashes) == 2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_snapshots_of_low_rank_factors_are_low_rank(kind, study, tmp_path):
    method = {"tuning": "lora", "batch_size": 4, "learning_rate": 0.05}
    values = tiny_tradeoff(study.organism, method=method, arms=["cda2"], checkpoints=[3])
    (run,) = tradeoff_runs(TradeoffRecipe.model_validate(values))
    model = tiny_model(kind)
    train_with_snapshots(run, model, drawn(paired_texts(run.recipe), 6, 0), tmp_path, tmp_path / "work")
    edit = WeightEdit.load(snapshot_folder(tmp_path, 3))
    assert all(isinstance(delta, LowRank) for delta in edit.deltas.values())
    assert not any("lora" in name for name, _ in model.hf.named_modules())
    matrices = {name: Dense(delta.matrix(transposed=kind == "gpt2", dtype=torch.float32)) for name, delta in edit.deltas.items()}
    dense = WeightEdit(matrices, edit.record)
    assert distances(model, edit) == pytest.approx(distances(model, dense), rel=1e-4)
    assert distances(model, edit)["all"] > 0


def test_killed_at_any_checkpoint_it_goes_on_and_ends_in_the_same_tables(study, tmp_path, monkeypatch):
    measured: list[str] = []
    whole = jobs._measure_checkpoint

    def counted(folder, run, training, step, edit):
        if len(measured) in (1, 4):  # a kill before the second and the fourth
            measured.append("kill")
            raise KeyboardInterrupt
        whole(folder, run, training, step, edit)
        measured.append(f"{run.name} {step}")

    monkeypatch.setattr(jobs, "_measure_checkpoint", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tradeoff(study.recipe, tmp_path / "out")
    monkeypatch.setattr(jobs, "measure_state", _not_for("base tiny", jobs.measure_state))
    result = tradeoff(study.recipe, tmp_path / "out")
    done = [name for name in measured if name != "kill"]
    assert len(done) == len(set(done)) == 6
    for ours, theirs in ((result.checkpoints, study.result.checkpoints), (result.findings, study.result.findings)):
        assert ours.equals(theirs)
    names = {path.relative_to(study.folder) for path in (study.folder / "runs").rglob("*.parquet")}
    assert names == {path.relative_to(tmp_path / "out") for path in (tmp_path / "out" / "runs").rglob("*.parquet")}
    for name in names:
        assert read_table(study.folder / name).equals(read_table(tmp_path / "out" / name)), name


def _not_for(description: str, measure_state: Any) -> Any:
    def measured(model, benchmarks, recipe, words):
        assert words != description, "the base was measured already"
        return measure_state(model, benchmarks, recipe, words)

    return measured


def test_a_second_call_computes_nothing_and_new_seeds_are_new_runs(study):
    before = {path: path.stat().st_mtime_ns for path in (study.folder / "runs").rglob("*.parquet")}
    said: list[str] = []
    tradeoff(study.recipe, study.folder, say=said.append)
    assert said == ["3 runs: 3 finished, 0 to do."]
    assert before == {path: path.stat().st_mtime_ns for path in (study.folder / "runs").rglob("*.parquet")}
    more = TradeoffRecipe.model_validate({**study.recipe.model_dump(mode="json"), "seeds": [0, 1]})
    assert [state for _, state in plan_tradeoff(more, study.folder)].count("to do") == 3
    other = TradeoffRecipe.model_validate({**study.recipe.model_dump(mode="json"), "resamples": 300})
    with pytest.raises(UsageError, match="run of another recipe"):
        plan_tradeoff(other, study.folder)


def test_a_benchmark_whose_default_changed_is_another_recipe(study, monkeypatch):
    monkeypatch.setattr(recipes, "settings_of", lambda benchmarks: [f"{benchmark.name} of another version" for benchmark in benchmarks])
    with pytest.raises(UsageError, match="run of another recipe"):
        plan_tradeoff(study.recipe, study.folder)


def test_what_fails_is_a_row_with_its_sentence(study, tmp_path):
    values = tiny_tradeoff(study.organism, sizes=[6, 99])
    result = tradeoff(TradeoffRecipe.model_validate(values), tmp_path / "few")
    assert set(result.runs["status"]) == {"failed"}
    assert "99 texts are asked for" in result.runs["reason"][0]
    assert result.page.exists()
    diverging = tiny_tradeoff(study.organism, arms=["cda2", {"name": "anti", "learning_rate": 1.0}], downstream=[], checkpoints=[4])
    diverging["models"] = [{"name": "tiny", "ref": str(study.organism / "nowhere")}]
    missing = tradeoff(TradeoffRecipe.model_validate(diverging), tmp_path / "missing")
    assert missing.failed == 2
    assert missing.runs["reason"][0].startswith("The base could not be measured: ")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="holds other files"):
        tradeoff(study.recipe, tmp_path / "mine")


def test_training_text_that_is_reported_is_refused(study, tmp_path):
    texts = [json.dumps({"text": "The nurse at home said that she is good", "counterpart": "the nurse at home said that he is good"})] * 3
    path = tmp_path / "leak.jsonl"
    path.write_text("\n".join(texts), encoding="utf-8")
    values = tiny_tradeoff(study.organism, sizes=[1])
    values["train"] = {"source": str(path), "columns": {"text": "text", "counterpart": "counterpart"}}
    result = tradeoff(TradeoffRecipe.model_validate(values), tmp_path / "out")
    assert "what is tested must not be trained on" in result.runs["reason"][0]


def test_drift_of_an_untouched_model_is_exactly_0_and_of_a_known_change_known():
    model = tiny_model("bert")
    ids = tuple(model.sequence_ids("the nurse said that she is good"))
    masked = [MaskedRequest((*ids[:place], model.mask_id, *ids[place + 1 :]), (place,), (ids[place],)) for place in (2, 3, 5)]
    skipped = pl.Series([None] * 3, dtype=pl.String)
    table = pl.DataFrame({"benchmark": ["b"] * 3, "task": ["t"] * 3, "item": ["1", "2", "3"], "skipped": skipped})
    drift = Drift(model, table, masked, 100)
    assert drift.measure(model)["kl"].to_list() == [0.0] * 3
    assert len(Drift(model, table, masked, 1).rows) == 1
    before = [values.copy() for values in drift.base]
    with torch.no_grad():
        model.hf.get_output_embeddings().bias[7] += 2.0
    for row_before, measured in zip(before, drift.measure(model)["kl"].to_list(), strict=True):
        # adding b to one logit: KL = log(1 + p (e^b - 1)) - b p
        p = math.exp(row_before[0, 7])
        assert measured == pytest.approx(math.log1p(p * math.expm1(2.0)) - 2.0 * p, abs=1e-6)


def test_a_window_is_of_the_target_axis_wherever_one_of_its_words_stands():
    model = tiny_model("llama")
    texts = ("the river is long", "she saw the river", "the woman saw a christian", "a christian saw the river", "the shed is old")
    requests = [ContinuationRequest((5,), tuple(model.token_ids(text))) for text in texts]
    assert group_word_strata(model, requests, Strata(target=("gender",), other=("religion",))) == [WITHOUT, TARGET, TARGET, OTHER, WITHOUT]
    with pytest.raises(UsageError, match="no words"):
        group_word_strata(model, requests, Strata(target=(), other=("religion",)))


def test_distances_by_kind_are_norms_of_what_was_changed():
    model = tiny_model("bert")
    names = {"attention": "bert.encoder.layer.0.attention.self.query.weight", "mlp": "bert.encoder.layer.1.intermediate.dense.weight",
             "embeddings": "bert.embeddings.word_embeddings.weight", "norms": "bert.encoder.layer.0.output.LayerNorm.weight"}
    sizes = {"attention": 3.0, "mlp": 4.0, "embeddings": 12.0, "norms": 0.0}
    deltas = {}
    for kind, name in names.items():
        change = torch.zeros_like(model.hf.get_parameter(name))
        change.view(-1)[0] = sizes[kind]
        deltas[name] = Dense(change)
    found = distances(model, WeightEdit(deltas, EditRecord.for_model(model, "test")))
    assert found == pytest.approx({**sizes, "other": 0.0, "all": 13.0})


def test_the_page_is_made_again_from_the_folder(study):
    page = write_report(study.folder)
    assert page.name == "tradeoff.html"
    assert "Findings of the paper" in page.read_text(encoding="utf-8")
