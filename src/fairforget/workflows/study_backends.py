"""Where the jobs of a study run: in this process, in several on this machine (a GPU each where there are some), or on a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal

from fairforget.errors import UsageError
from fairforget.workflows.study_jobs import Job, Outcome, run_job

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

Backend = Literal["processes", "ray"]
Finished = Callable[[Job, list[Outcome]], None]
"""Called in the process that drives the study as each job ends."""

THREAD_VARIABLES: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
_KEPT_PREFIXES = ("FAIRFORGET_", "HF_")


def run_jobs(jobs: Sequence[Job], finished: Finished, *, processes: int | None = None, backend: Backend = "processes") -> None:
    """Do all jobs; a job that fails, or whose process dies, has failed outcomes and leaves the others alone.

    Args:
        jobs: what to do, in the order in which they are begun.
        finished: called as each one ends.
        processes: at once; by default one a GPU, else one.
        backend: ``processes`` of this machine, or the tasks of a ``ray`` cluster.

    Raises:
        UsageError: an unknown backend, or Ray is not installed.
        KeyboardInterrupt: what runs is ended; it goes on from there the next time.
    """
    if backend not in ("processes", "ray"):
        raise UsageError(f"--backend {backend}: known are processes and ray.")
    devices = visible_gpus()
    many = processes or max(1, len(devices))
    if backend == "ray":
        _run_ray(jobs, finished, many)
    elif many == 1:
        for job in jobs:
            finished(job, run_job(job))
    else:
        _run_processes(jobs, finished, many, devices)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [part.strip() for part in named.split(",") if part.strip()] if named is not None else None
    count = torch.cuda.device_count()
    return (names or [str(number) for number in range(count)])[:count]


def worker_environment(slot: int, processes: int, devices: Sequence[str]) -> dict[str, str]:
    """Environment of the worker in a slot: its share of the cores, and one GPU where there are some.

    Args:
        slot: 0 to processes - 1.
        processes: workers at once.
        devices: GPUs to share out; workers beyond their number take turns on them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // processes))
    environment: dict[str, str] = dict.fromkeys(THREAD_VARIABLES, share)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


@dataclass
class _Worker:
    slot: int
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


def _run_processes(jobs: Sequence[Job], finished: Finished, processes: int, devices: Sequence[str]) -> None:
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's threads and CUDA would not work
    waiting = deque(jobs)
    workers: list[_Worker] = []

    def begin(slot: int) -> None:
        parent, child = context.Pipe()
        # Read by the libraries when they are loaded, so it has to be there before the process begins.
        with _environment(worker_environment(slot, processes, devices)):
            process = context.Process(target=_serve, args=(child,), name=f"fairforget-study-{slot}")
            process.start()
        child.close()
        workers.append(_Worker(slot, process, parent))
        give(workers[-1])

    def give(worker: _Worker) -> None:
        worker.job = waiting.popleft() if waiting else None
        worker.connection.send(worker.job)
        if worker.job is None:
            workers.remove(worker)
            worker.process.join()

    try:
        # The share of the cores is that of `processes`, however few jobs are left: the number of threads moves the last bits of scores.
        for slot in range(min(processes, len(jobs))):
            begin(slot)
        while workers:
            for ready in wait([worker.connection for worker in workers]):
                worker = next(one for one in workers if one.connection is ready)
                assert worker.job is not None
                try:
                    outcomes: list[Outcome] = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    workers.remove(worker)
                    finished(worker.job, _died(worker.job, worker.process.exitcode))
                    if waiting:
                        begin(worker.slot)
                else:
                    finished(worker.job, outcomes)
                    give(worker)
    finally:
        for worker in workers:
            worker.process.kill()  # every file is whole or absent, so nothing is lost
            worker.process.join()


def _died(job: Job, code: int | None) -> list[Outcome]:
    how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code and code < 0 else f"ended with code {code}"
    hint = "; that is most often a lack of memory: use fewer --processes" if code == -signal.SIGKILL else ""
    return [Outcome(name, "failed", f"The process that ran it {how}{hint}.", 0.0) for name in job.names]


def _serve(connection: Connection) -> None:
    """The life of a worker: jobs until None comes; it ends with the process that began it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the driver ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _quiet()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (job := connection.recv()) is not None:
            connection.send(run_job(job))


def _quiet() -> None:
    """Silence other libraries in a worker: what a job says goes to its log."""
    import warnings

    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run_ray(jobs: Sequence[Job], finished: Finished, processes: int) -> None:
    """Jobs as Ray tasks, at most `processes` at once; a local cluster is begun where none is named by ``RAY_ADDRESS``."""
    try:
        # By name: the type checker runs where Ray is not installed too.
        ray: Any = importlib.import_module("ray")
        ray_error: type[Exception] = importlib.import_module("ray.exceptions").RayError
    except ImportError as error:
        raise UsageError("The backend ray needs Ray: install it with pip install 'fairforget[ray]'.") from error
    own = not ray.is_initialized()
    if own:
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"num_cpus": processes, "include_dashboard": False}
        if not address:  # Ray's workers would give way to everything else on the machine
            os.environ.setdefault("RAY_worker_niceness", str(os.getpriority(os.PRIO_PROCESS, 0)))
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        environment = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_PREFIXES)}
        environment |= worker_environment(0, processes, ())
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": environment})(_ray_job)
        waiting = deque(jobs)
        running: dict[Any, Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.popleft()
                    running[task.remote(job)] = job
                (ready, *_), _ = ray.wait(list(running), num_returns=1)
                job = running.pop(ready)
                try:
                    outcomes: list[Outcome] = ray.get(ready)
                except ray_error as error:
                    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    outcomes = [Outcome(name, "failed", f"Ray lost the task: {reason}", 0.0) for name in job.names]
                finished(job, outcomes)
        finally:
            for task_left in running:
                ray.cancel(task_left, force=True)
    finally:
        if own:
            ray.shutdown()


def _ray_job(job: Job) -> list[Outcome]:
    _quiet()
    return run_job(job)
