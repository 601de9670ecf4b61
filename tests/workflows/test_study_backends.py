"""Where the jobs of a study run."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from fairforget.errors import UsageError
from fairforget.workflows.study import study
from fairforget.workflows.study_backends import run_jobs, worker_environment
from fairforget.workflows.study_jobs import CellsJob, Outcome, StudyFolder
from fairforget.workflows.study_recipe import study_cells


def test_a_worker_gets_its_share_of_the_cores_and_one_gpu(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    first, last = worker_environment(0, 3, ["2", "5"]), worker_environment(2, 3, ["2", "5"])
    assert (first["OMP_NUM_THREADS"], first["CUDA_VISIBLE_DEVICES"]) == ("5", "2")
    assert last["CUDA_VISIBLE_DEVICES"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0, 1, [])
    assert worker_environment(0, 99, [])["OMP_NUM_THREADS"] == "1"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="known are processes and ray"):
        run_jobs([], lambda *_: None, backend="slurm")  # type: ignore[arg-type]


def assert_same_cells(result, finished_study) -> None:
    ours, theirs = (cells.drop("seconds") for cells in (result.cells, finished_study.result.cells))
    assert ours.equals(theirs)


@pytest.mark.slow
def test_several_processes_give_the_same_table(finished_study, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FAIRFORGET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert_same_cells(study(finished_study.recipe, tmp_path / "out", processes=2), finished_study)


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_cell_and_leaves_the_others(finished_study, tmp_path, monkeypatch) -> None:
    """The worker is killed as soon as it has begun to write the cell's log; a new one does the next job."""
    monkeypatch.setenv("FAIRFORGET_CACHE", str(tmp_path / "cache"))
    folder = StudyFolder(tmp_path / "out")
    cells = [cell for cell in study_cells(finished_study.recipe) if cell.recipe is not None]
    jobs = [CellsJob(folder, (cell,), False, True, str(tmp_path)) for cell in (cells[0], cells[2])]
    found: dict[str, Outcome] = {}

    def kill() -> None:
        import multiprocessing

        while not folder.log(cells[0].name).exists():
            time.sleep(0.05)
        worker = next(child for child in multiprocessing.active_children() if child.name == "fairforget-study-0")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run_jobs(jobs, lambda _, outcomes: found.update({one.name: one for one in outcomes}), processes=2)
    killer.join()
    assert "was ended by signal 9 (SIGKILL)" in found[cells[0].name].sentence
    assert "There is no file missing.csv" in found[cells[2].name].sentence


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_table(finished_study, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("FAIRFORGET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert_same_cells(study(finished_study.recipe, tmp_path / "out", processes=2, backend="ray"), finished_study)


def test_ray_is_asked_for_by_name_where_it_is_missing(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'fairforget\[ray\]'"):
        run_jobs([], lambda *_: None, backend="ray")
