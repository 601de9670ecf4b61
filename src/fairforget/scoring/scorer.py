"""The engine that everything measured goes through: requests in, log-probabilities out, each paid for once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fairforget.edits.self_debias import active_self_debias
from fairforget.errors import FairforgetError, UsageError
from fairforget.models.model import Model
from fairforget.progress import Advance, task
from fairforget.scoring.causal import CausalRunner, Counts
from fairforget.scoring.masked import run_masked_batch
from fairforget.scoring.memory import ran_out_of_memory
from fairforget.scoring.planning import batches_by_length
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest, Request
from fairforget.scoring.store import ScoreStore
from fairforget.scoring.trie import Segment, build_trie

Unit = TypeVar("Unit")

CPU_BUDGET = 1024
GPU_BUDGET = 16384
CPU_FORWARD_COST = 24
"""Tokens that take as long as starting a forward. Measured: SmolLM2-135M on one core takes 50 ms and 2.4 ms a token."""
GPU_FORWARD_COST = 1024
"""A forward is bound by its launches up to some hundreds (7B) to thousands (135M) of tokens."""


class Scorer:
    """Scores requests on one model in its present state.

    Distinct requests run once. The batch plan is a function of the request list alone: a batch any of whose requests is missing from the
    store is run whole, so that an interrupted run ends in the same bits as one that was not.

    Args:
        model: causal or masked; edits attached to it are part of the state that is scored.
        store: keep scores on disk and take them from there; ``False`` computes all anew.
        token_budget: padded tokens in a forward; halved when memory runs out.
        share_prefixes: run what several causal requests have in common once.
        exact: compute in the weights' own type even where the model is to be scored in bfloat16.
    """

    def __init__(
        self, model: Model, store: bool = True, *, token_budget: int | None = None, share_prefixes: bool = True, exact: bool = False
    ) -> None:
        self.model = model
        self.bfloat16 = model.bfloat16_scoring and not exact
        on_cpu = model.device.type == "cpu"
        self.budget = token_budget or (CPU_BUDGET if on_cpu else GPU_BUDGET)
        self.forward_cost = CPU_FORWARD_COST if on_cpu else GPU_FORWARD_COST
        self.share_prefixes = share_prefixes and model.shares_prefixes
        self.use_store = store
        self.counts = Counts()

    def score(self, requests: Sequence[Request], description: str = "scoring") -> list[NDArray[np.float64]]:
        """Log-probabilities, natural logarithm.

        Args:
            requests: continuation requests for a causal model, masked requests for a masked one.
            description: what the progress display says.

        Returns:
            For each request a float64 array: per continuation token, or per masked position. A first token without any context is ``nan``.
            With `best`, the most likely token's follow.

        Raises:
            UsageError: a request of the wrong family, or longer than the model's positions.
        """
        keys = [request.key() for request in requests]
        distinct: dict[bytes, Request] = dict(zip(keys, requests, strict=True))
        self._check(list(distinct.values()))
        store = self._open_store() if self.use_store else None
        try:
            values = store.get(distinct) if store is not None else {}
            if len(values) < len(distinct):
                self.counts.distinct += len(distinct) - len(values)
                self._compute(distinct, values, store, description)
        finally:
            if store is not None:
                store.close()
        return [values[key] for key in keys]

    def _open_store(self) -> ScoreStore:
        model = self.model
        return ScoreStore({
            "state": model.state_id,
            "dtype": f"{model.dtype}, bfloat16 autocast" if self.bfloat16 else str(model.dtype),
            "attention": model.attention_kernel,
            "device": model.device.type,
            "truncation": "left of the context",
        })

    def _check(self, requests: Sequence[Request]) -> None:
        kind = ContinuationRequest if self.model.family == "causal" else MaskedRequest
        for request in requests:
            if type(request) is not kind:
                raise UsageError(f"{self.model.name} is a {self.model.family} model and cannot answer a {type(request).__name__}.")
            length = len(request.continuation) if isinstance(request, ContinuationRequest) else len(request.ids)
            if length > self._room:
                left = f"{self._room} positions of {self.model.name}"
                left += f" that its Self-Debias prefix leaves of {self.model.max_length}" if self._room < self.model.max_length else ""
                raise UsageError(f"A text of {length} tokens is longer than the {left}: shorten it.")

    @property
    def _room(self) -> int:
        """Positions that a text may take: all but those of the longest biasing prefix, in the plain view too."""
        edit = active_self_debias(self.model)
        return self.model.max_length - (edit.longest if edit else 0)

    def _compute(
        self, distinct: dict[bytes, Request], values: dict[bytes, NDArray[np.float64]], store: ScoreStore | None, description: str
    ) -> None:
        keys = list(distinct)
        missing = {index for index, key in enumerate(keys) if key not in values}
        results = {index: _empty(request) for index, request in enumerate(distinct.values())}

        def keep(done: set[int]) -> None:
            fresh = {keys[index]: results[index] for index in done}
            values.update(fresh)
            if store is not None:
                store.put(fresh)

        trivial = {index for index in missing if not _answerable(distinct[keys[index]])}
        if trivial:
            keep(trivial)
        todo = missing - trivial
        with torch.inference_mode(), torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16):
            if self.model.family == "causal":
                self._compute_causal([self._truncated(request) for request in distinct.values()], todo, results, keep, description)
            else:
                self._compute_masked(list(distinct.values()), todo, results, keep, description)

    def _truncated(self, request: Request) -> ContinuationRequest:
        """The request with its context cut on the left to fit the model's positions."""
        assert isinstance(request, ContinuationRequest)
        room = self._room + 1 - len(request.continuation)
        return request if len(request.context) <= room else replace(request, context=request.context[-room:])

    def _compute_causal(
        self,
        requests: list[ContinuationRequest],
        todo: set[int],
        results: dict[int, NDArray],
        keep: Callable[[set[int]], None],
        description: str,
    ) -> None:
        share = self.share_prefixes
        window = self.model.sliding_window
        if window is not None:
            window -= self.model.max_length - self._room
        if window is not None and any(len(request.context) + len(request.continuation) > window for request in requests):
            share = False  # a padded cache would shift the window
        roots = build_trie(requests, share=share)
        work = [(unit, set().union(*(root.requests() for root in unit))) for unit in self._causal_runner().units(roots)]
        work = [(unit, served) for unit, served in work if served & todo]
        total = sum(root.subtree_tokens() for unit, _ in work for root in unit)

        def run(unit: Sequence[Segment], advance: Advance) -> None:
            self._causal_runner().run(unit, results, advance)

        with task(description, total) as advance:
            for unit, served in work:
                self._retry(run, unit, advance)
                keep(served & todo)  # what was known stays as it is: among other texts it may be rounded differently

    def _causal_runner(self) -> CausalRunner:
        return CausalRunner(self.model, self.budget, self.forward_cost, self.counts)

    def _compute_masked(
        self, requests: Sequence[Request], todo: set[int], results: dict[int, NDArray], keep: Callable[[set[int]], None], description: str
    ) -> None:
        masked = [request for request in requests if isinstance(request, MaskedRequest)]
        by_ids: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(masked):
            by_ids.setdefault(request.ids, []).append(index)
        inputs = list(by_ids.items())
        batches = batches_by_length(inputs, [len(ids) for ids, _ in inputs], self.budget, self.forward_cost)
        work = [batch for batch in batches if any(index in todo for _, indices in batch for index in indices)]

        def run(batch: Sequence[tuple[tuple[int, ...], list[int]]], advance: Advance) -> None:
            advance(run_masked_batch(self.model, batch, masked, results, self.counts))

        with task(description, sum(len(ids) for batch in work for ids, _ in batch)) as advance:
            for batch in work:
                self._retry(run, batch, advance)
                keep({index for _, indices in batch for index in indices} & todo)

    def _retry(self, run: Callable[[Sequence[Unit], Advance], None], batch: Sequence[Unit], advance: Advance) -> None:
        """Run a batch; when memory runs out, halve it and the budget and go on."""
        try:
            run(batch, advance)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if len(batch) == 1 and self.budget <= 1:
                raise FairforgetError(
                    "There is not enough memory to score even one text: close other programs or use a smaller model or dtype."
                ) from error
        else:
            return
        self.budget = max(1, self.budget // 2)
        half = max(1, len(batch) // 2)
        for part in (batch[:half], batch[half:]):
            if part:
                self._retry(run, part, advance)


def _answerable(request: Request) -> bool:
    """Whether any value of a request needs the model."""
    if isinstance(request, ContinuationRequest):
        return len(request.context) + len(request.continuation) > 1 and bool(request.continuation)
    return bool(request.positions)


def _empty(request: Request) -> NDArray[np.float64]:
    return np.full(request.size, np.nan)
