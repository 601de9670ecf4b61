"""Many organisms of one recipe: seeds and families side by side, each in a folder of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from fairforget.errors import FairforgetError, UsageError
from fairforget.organisms.recipe import OrganismRecipe
from fairforget.progress import task

Say = Callable[[str], None]


def parse_seeds(text: str) -> list[int]:
    """Read seeds written as ``0-9``, ``3,5,8`` or both.

    Raises:
        UsageError: it is not such a list.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise UsageError(f"--seeds {text}: write seeds as 0-9 or 3,5,8.")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def variants(recipe: OrganismRecipe, families: Sequence[str], seeds: Sequence[int]) -> dict[str, OrganismRecipe]:
    """The recipe for each family and seed, by folder name ``FAMILY-SEED``.

    Raises:
        UsageError: a family that there is not.
    """
    for family in families:
        if family not in ("causal", "masked"):
            raise UsageError(f"There is no family '{family}': causal or masked.")
    return {
        f"{family}-{seed}": OrganismRecipe.model_validate({**recipe.model_dump(mode="json"), "family": family, "seed": seed})
        for seed in seeds for family in families
    }


def make_organisms(
    recipes: dict[str, OrganismRecipe], folder: Path | str, *, jobs: int = 1, say: Say = lambda _: None
) -> dict[str, Path]:
    """Make several organisms; those that are finished are left as they are.

    Args:
        recipes: by folder name.
        folder: the folders go in here.
        jobs: processes; each gets an equal share of the processor's cores.
        say: told of each that is done.

    Returns:
        The folder of each organism.

    Raises:
        FairforgetError: one could not be made; the others were, and the same call makes what is missing.
    """
    folder = Path(folder)
    failed: dict[str, str] = {}
    threads = max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1
    # Fresh processes: a fork of a process in which torch has run keeps locks of threads that it does not have.
    with (
        task(f"making {len(recipes)} organisms", len(recipes)) as advance,
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(threads,)) as pool,
    ):
        futures = {pool.submit(_make, recipe, folder / name): name for name, recipe in recipes.items()}
        try:
            for future in as_completed(futures):
                name, error = futures[future], future.result()
                if error:
                    failed[name] = error
                say(f"{name}: {error or 'made'}")
                advance(1)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        first = next(iter(failed))
        raise FairforgetError(f"{len(failed)} of {len(recipes)} organisms could not be made; {first}: {failed[first]}")
    return {name: folder / name for name in recipes}


def _prepare(threads: int) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _make(recipe: OrganismRecipe, folder: Path) -> str | None:
    """Make one; the sentence of what went wrong, if anything did."""
    from fairforget.organisms.make import make_organism

    try:
        make_organism(recipe, folder)
    except FairforgetError as error:
        return str(error)
    return None
