"""A study on a tiny model: what is shared, what is kept, what failed, and going on."""

from __future__ import annotations

import json

import polars as pl
import pytest

from fairforget.errors import UsageError
from fairforget.report import write_report
from fairforget.tables import read_table
from fairforget.workflows.base_audit import read_base_audit
from fairforget.workflows.recipe import parse_recipe
from fairforget.workflows.study import plan_study, scaling, study
from fairforget.workflows.study_jobs import StudyFolder, run_job
from fairforget.workflows.study_recipe import StudyRecipe, study_cells


def test_every_cell_is_a_row_with_what_became_of_it(finished_study) -> None:
    cells = finished_study.result.cells
    assert cells.select("cell", "status").rows() == [
        ("starter-seed0-strength0.25", "done"), ("starter-seed0-strength0.5", "done"),
        ("missing-seed0-strength0.25", "failed"), ("missing-seed0-strength0.5", "not run"),
    ]
    assert finished_study.result.failed == 1
    assert "There is no file missing.csv" in cells["reason"][2]
    assert cells["reason"][3] == "one missing file is enough"
    done = cells[:2]
    assert done["strength"].to_list() == [0.25, 0.5]
    assert done["searched"].to_list() == [False, False]
    assert (done["target_after"] - done["target_before"] - done["target_change"]).abs().max() < 1e-9
    assert done["starter.pct_stereotype.difference"].is_not_null().all()
    assert done["perplexity-starter.perplexity.after"].is_not_null().all()
    for ending in ("parquet", "csv", "md"):
        assert (finished_study.folder / "tables" / f"study.{ending}").stat().st_size > 100


def test_strengths_share_one_edit_and_models_are_not_kept(finished_study) -> None:
    runs = [finished_study.folder / "runs" / f"starter-seed0-strength{strength}" for strength in ("0.25", "0.5")]
    hashes = {json.loads((run / "run.json").read_text())["edit_hash"] for run in runs}
    assert len(hashes) == 1
    for run in runs:
        assert not (run / "model").exists()
        assert (run / "edit" / "edit.safetensors").exists()
        assert (run / "edit" / "README.md").exists()
        assert write_report(run).name == "report.html"


def test_the_base_is_measured_once_and_its_figures_are_those_of_a_run_alone(finished_study, tmp_path) -> None:
    folder = StudyFolder(finished_study.folder)
    cell = study_cells(finished_study.recipe)[0]
    base = read_base_audit(folder.base(cell.recipe), seed=0, resamples=200)
    assert base is not None
    assert base.metrics is not None
    run = finished_study.folder / "runs" / cell.name / "tables"
    assert read_table(run / "items-base-test.parquet").equals(pl.concat(base.test))
    from fairforget.workflows.debias import debias

    alone = debias(recipe=cell.recipe, out=tmp_path / "alone")
    both = [table.sort("benchmark", "task", "metric", "group", "state") for table in (alone.metrics, read_table(run / "metrics.parquet"))]
    assert both[0].equals(both[1])
    assert (tmp_path / "alone" / "model" / "README.md").exists()


def test_a_second_call_computes_nothing_and_tries_what_failed_again(finished_study) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished_study.folder / "runs").rglob("*.parquet")}
    said: list[str] = []
    result = study(finished_study.recipe, finished_study.folder, say=said.append)
    assert before == {path: path.stat().st_mtime_ns for path in (finished_study.folder / "runs").rglob("*.parquet")}
    assert said[0] == "4 cells: 2 finished, 1 to do, 1 excluded."
    assert any("missing-seed0-strength0.25: failed" in sentence for sentence in said)
    assert result.cells.equals(finished_study.result.cells)
    states = {entry.cell.name: entry.state for entry in plan_study(finished_study.recipe, finished_study.folder)}
    assert list(states.values()) == ["finished", "finished", "failed before", "excluded"]


def test_a_finished_run_of_another_recipe_is_not_taken_for_a_cell(finished_study) -> None:
    values = finished_study.recipe.model_dump(mode="json")
    values["base"]["method"]["steps"] = 7
    with pytest.raises(UsageError, match="finished run of another recipe"):
        plan_study(StudyRecipe.model_validate(values), finished_study.folder)


def test_one_size_is_no_scaling_study(finished_study, tmp_path) -> None:
    with pytest.raises(UsageError, match="one model size only"):
        scaling(finished_study.folder)
    with pytest.raises(UsageError, match="holds no study"):
        scaling(tmp_path)


def test_a_folder_of_other_things_is_left_alone(finished_study, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        study(finished_study.recipe, tmp_path)


def test_a_base_that_cannot_be_measured_fails_its_cells_with_its_sentence(tmp_path, own_cache) -> None:
    recipe = StudyRecipe.model_validate({"base": {"model": str(tmp_path / "nowhere"), "method": "task-vector"}})
    result = study(recipe, tmp_path / "out")
    assert result.cells["status"].to_list() == ["failed"]
    assert result.cells["reason"][0].startswith("The base could not be measured: There is no")
    assert result.frontier.is_empty()
    assert result.page.exists()


def test_what_was_not_foreseen_is_a_failed_cell_with_a_traceback_in_its_log(finished_study, tmp_path, monkeypatch) -> None:
    import fairforget.workflows.study_jobs as jobs

    def broken(**_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(jobs, "debias", broken)
    cell = study_cells(finished_study.recipe)[0]
    (outcome,) = run_job(jobs.CellsJob(StudyFolder(tmp_path), (cell,), False, True, str(tmp_path)))
    assert outcome.status == "failed"
    assert outcome.sentence == f"ZeroDivisionError: division by zero (see logs/{cell.name}.log)."
    assert "Traceback" in (tmp_path / "logs" / f"{cell.name}.log").read_text()


def test_a_given_strength_is_above_zero() -> None:
    with pytest.raises(UsageError, match=r"search.strength"):
        parse_recipe({"search": {"strength": 0}})
