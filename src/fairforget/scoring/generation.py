"""The engine that everything generated goes through: prompts in, answers out, each paid for once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from fairforget.edits.self_debias import active_self_debias
from fairforget.edits.self_debias_processor import SelfDebiasProcessor
from fairforget.errors import FairforgetError, UsageError
from fairforget.models.model import Model
from fairforget.progress import Advance, task
from fairforget.scoring.memory import ran_out_of_memory
from fairforget.scoring.planning import batches_by_length
from fairforget.scoring.sampling import SeededSampling, StopStrings
from fairforget.scoring.scorer import CPU_FORWARD_COST, GPU_FORWARD_COST
from fairforget.scoring.store import ScoreStore

Engine: TypeAlias = Literal["transformers", "vllm"]

CPU_BUDGET = 4096
GPU_BUDGET = 32768
"""Tokens, prompts and answers together, whose keys and values are held at once; halved when memory runs out."""
GENERATION_VERSION = 1
"""Raised whenever an answer can come out differently for the same request."""


@dataclass(frozen=True)
class Decoding:
    """How a continuation is chosen.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        temperature: logits are divided by it; 0 takes the likeliest token each time.
        top_p: mass of the nucleus that tokens are drawn from; 1 is the whole distribution.
        stop: strings at whose first occurrence an answer ends, themselves left out.
        seed: of the drawing; with the prompt and the number of the sample it gives each sequence a stream of its own.

    Raises:
        UsageError: a value out of range.
    """

    max_new_tokens: int = 20
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"The temperature must be 0 (greedy) or above, not {self.temperature:g}.")
        if not 0 < self.top_p <= 1 or self.max_new_tokens < 1 or not all(self.stop):
            raise UsageError("Generation needs 0 < top_p <= 1, at least one new token, and no empty stop string.")


@dataclass(frozen=True)
class Answer:
    """What a model wrote, or why it wrote nothing."""

    text: str
    """Without special tokens, and without what follows a stop string."""
    skipped: str | None = None


@dataclass(frozen=True)
class _Request:
    ids: tuple[int, ...]
    sample: int

    def digest(self, facts: str) -> bytes:
        packed = np.asarray(self.ids, dtype=np.int32).tobytes()
        return hashlib.blake2b(f"generation {self.sample} {facts} ".encode() + packed, digest_size=16).digest()

    def seed(self, seed: int) -> int:
        return int.from_bytes(self.digest(f"seed {seed}")[:8], "big") >> 1


class Generator:
    """Continues prompts with one causal model in its present state; edits that are on it, Self-Debias too, are part of that state.

    An answer depends on model, prompt, decoding and number of the sample, not on the batch it was in or the order of the prompts (up to the
    rounding of a batched forward): see :class:`fairforget.scoring.sampling.SeededSampling`. Equal prompts get equal answers. The batch plan
    is a function of the list of prompts, and a batch any of whose answers is missing from the store is run whole, so that an interrupted
    run goes on where it stopped and ends in the same answers. Weights compute in their own type; there is no bfloat16 autocast.

    Args:
        model: a causal model.
        decoding: how answers are chosen.
        engine: ``transformers``, or ``vllm`` where it is installed, which draws other samples from the same distribution.
        store: keep answers on disk (as token ids, beside the scores) and take them from there; ``False`` generates all anew.
        token_budget: tokens whose keys and values are held at once.

    Raises:
        UsageError: the model is masked.
    """

    def __init__(
        self, model: Model, decoding: Decoding, *, engine: Engine = "transformers", store: bool = True, token_budget: int | None = None
    ) -> None:
        if model.family != "causal":
            raise UsageError(f"{model.name} is a masked model and writes no text: generation needs a causal one.")
        self.model, self.decoding, self.engine, self.use_store = model, decoding, engine, store
        on_cpu = model.device.type == "cpu"
        self.budget = token_budget or (CPU_BUDGET if on_cpu else GPU_BUDGET)
        self.forward_cost = CPU_FORWARD_COST if on_cpu else GPU_FORWARD_COST
        self.batches = 0
        """Batches run so far; answers from the store cost none."""

    def generate(
        self, prompts: Sequence[Sequence[int]], *, samples: int = 1, description: str = "generating"
    ) -> list[tuple[Answer, ...]]:
        """Answers to prompts.

        Args:
            prompts: token ids of each, with prefix token or chat template.
            samples: answers to each prompt.
            description: what the progress display says.

        Returns:
            For each prompt its answers; one that leaves no room for the new tokens is skipped with a sentence.

        Raises:
            UsageError: several samples of a greedy decoding, which are all equal; an engine that is missing or cannot run the edits.
            FairforgetError: there is not enough memory for a single prompt.
        """
        if samples < 1 or (samples > 1 and self.decoding.temperature == 0):
            raise UsageError(f"samples = {samples}: it is at least 1, and above 1 only with a temperature above 0.")
        facts = json.dumps(asdict(self.decoding), sort_keys=True)
        asked = [[_Request(tuple(ids), sample) for sample in range(samples)] for ids in prompts]
        reasons = {tuple(ids): self._refusal(ids) for ids in prompts}
        wanted = {
            request.digest(facts): request for requests in asked for request in requests if reasons[request.ids] is None
        }
        store = ScoreStore(self._facts()) if self.use_store else None
        try:
            found = {key: value.astype(np.int64).tolist() for key, value in (store.get(wanted) if store else {}).items()}
            self._run(wanted, found, store, description)
        finally:
            if store is not None:
                store.close()
        texts = {key: self._text(tokens) for key, tokens in found.items()}

        def answer(request: _Request) -> Answer:
            reason = reasons[request.ids]
            return Answer(texts[request.digest(facts)]) if reason is None else Answer("", reason)

        return [tuple(answer(request) for request in requests) for requests in asked]

    def _refusal(self, ids: Sequence[int]) -> str | None:
        if not ids:
            return "an empty prompt needs a prefix token to start from"
        edit = active_self_debias(self.model)
        room = self.model.max_length - (edit.longest if edit else 0)
        if len(ids) + self.decoding.max_new_tokens <= room:
            return None
        place = "that its biasing prefix leaves" if edit else "of the model"
        return f"the prompt of {len(ids)} tokens and {self.decoding.max_new_tokens} new ones are more than the {room} positions {place}"

    def _facts(self) -> dict[str, str]:
        model = self.model
        return {
            "kind": "generation", "version": str(GENERATION_VERSION), "engine": self.engine, "state": model.state_id,
            "dtype": str(model.dtype), "attention": model.attention_kernel, "device": model.device.type,
        }

    def _run(self, wanted: dict[bytes, _Request], found: dict[bytes, list[int]], store: ScoreStore | None, description: str) -> None:
        """Add the answers that are missing."""
        missing = wanted.keys() - found.keys()
        work = [batch for batch in self._batches(wanted) if missing.intersection(batch)]

        def run(batch: Sequence[bytes], advance: Advance) -> None:
            requests = [wanted[key] for key in batch]
            answers = self._whole(requests) if self.engine == "vllm" else self._batch(requests)
            fresh = dict(zip(batch, answers, strict=True))
            found.update(fresh)
            if store is not None:
                store.put({key: _stored(tokens) for key, tokens in fresh.items()})
            advance(len(batch))

        with task(description, sum(map(len, work))) as advance:
            for batch in work:
                self._retry(run, batch, advance)

    def _batches(self, wanted: dict[bytes, _Request]) -> list[list[bytes]]:
        keys, new = list(wanted), self.decoding.max_new_tokens
        if self.engine == "vllm":
            return [keys] if keys else []
        # A model that takes no positions, or keeps a state, would see padding: its batches hold prompts of one length.
        alike: defaultdict[int, list[bytes]] = defaultdict(list)
        for key in keys:
            alike[0 if self.model.shares_prefixes else len(wanted[key].ids)].append(key)
        return [
            batch
            for part in alike.values()
            for batch in batches_by_length(part, [len(wanted[key].ids) + new for key in part], self.budget, self.forward_cost * new)
        ]

    def _retry(self, run: Callable[[Sequence[bytes], Advance], None], batch: Sequence[bytes], advance: Advance) -> None:
        """Run a batch; when memory runs out, run its halves."""
        try:
            run(batch, advance)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise FairforgetError(
                    "There is not enough memory to continue even one prompt: close other programs or use a smaller model or dtype."
                ) from error
        else:
            return
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            self._retry(run, part, advance)

    def _batch(self, requests: Sequence[_Request]) -> list[list[int]]:
        """New tokens of each request, by transformers, padded on the left."""
        self.batches += 1
        model, decoding = self.model, self.decoding
        width = max(len(request.ids) for request in requests)
        ids = torch.tensor([[model.pad_id] * (width - len(one.ids)) + list(one.ids) for one in requests], device=model.device)
        mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in requests], device=model.device)
        edit = active_self_debias(model)
        processors = LogitsProcessorList([SelfDebiasProcessor(model, edit, mask)] if edit else [])
        if decoding.temperature > 0:
            seeds = [request.seed(decoding.seed) for request in requests]
            processors.append(SeededSampling(seeds, decoding.temperature, decoding.top_p, model.device))
        ends = end_tokens(model)
        stops = StopStrings(model.tokenizer, decoding.stop, width) if decoding.stop else None
        config = GenerationConfig(
            do_sample=False, max_new_tokens=decoding.max_new_tokens, pad_token_id=model.pad_id, eos_token_id=list(ends) or None
        )
        with torch.inference_mode(), _no_defaults(model.hf):
            output = model.hf.generate(  # type: ignore[operator]
                ids, attention_mask=mask, generation_config=config, logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([stops] if stops else []),
            )
        rows: list[list[int]] = output[:, width:].tolist()
        lengths = stops.lengths if stops else {}
        return [_before_end(tokens[: lengths.get(row, len(tokens))], ends) for row, tokens in enumerate(rows)]

    def _whole(self, requests: Sequence[_Request]) -> list[list[int]]:
        """New tokens of each request, by vLLM, which makes its own batches."""
        from fairforget.scoring.vllm_engine import vllm_tokens

        self.batches += 1
        ends = end_tokens(self.model)
        seeds = [request.seed(self.decoding.seed) for request in requests]
        found = vllm_tokens(self.model, [request.ids for request in requests], seeds, self.decoding, ends)
        return [_before_end(tokens, ends) for tokens in found]

    def _text(self, tokens: list[int]) -> str:
        text = str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))
        return text[: min((place for stop in self.decoding.stop if (place := text.find(stop)) >= 0), default=len(text))]


def end_tokens(model: Model) -> tuple[int, ...]:
    """Tokens that end a text: those of the generation configuration (several in chat models) and of the tokenizer."""
    own = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = [*(own if isinstance(own, list) else [own]), model.tokenizer.eos_token_id]
    return tuple(sorted({int(end) for end in ends if isinstance(end, int)}))


def _before_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]


def _stored(tokens: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(tokens, dtype=np.float64)  # ids are far below 2 ** 53


@contextlib.contextmanager
def _no_defaults(hf: PreTrainedModel) -> Iteration[None]:
    """While the block runs, the model's own defaults (repetition penalty, top-k ...) are off: they would fill what is not said."""
    own = hf.generation_config
    hf.generation_config = GenerationConfig()
    try:
        yield
    finally:
        hf.generation_config = own
