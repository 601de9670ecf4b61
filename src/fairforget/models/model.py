"""The one wrapper of a Hugging Face language model; the only place that knows how heads, caches and tied weights work.

A :class:`Model` offers what the rest of the package needs and no more: token ids under an explicit prefix policy, hidden states, the
vocabulary head applied to chosen positions, unique parameters, and an identity (``state_id``) that everything cached or reported is
keyed by.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from fairforget.errors import UsageError
from fairforget.files import write_json
from fairforget.models.hashing import content_hash

if TYPE_CHECKING:
    from fairforget.edits.base import Edit

Family = Literal["causal", "masked"]
MODEL_RECORD = "fairforget.json"
"""File beside a saved model that keeps what transformers has no field for: the prefix token, the base and the edits."""


class HeadInput(BaseModelOutputWithPastAndCrossAttentions):
    """What the body seems to return while the head runs alone; edits that change hidden states are in these states already."""


class Model:
    """A causal or masked language model with its tokenizer.

    Args:
        hf: the transformers model, in evaluation mode.
        tokenizer: its tokenizer.
        family: ``causal`` or ``masked``, read from configuration and class, never from the name.
        name: short name for people.
        source: what to load it from again: hub id, folder, file or built-in name.
        prefix_id: id put before the first token of a causal sequence so that this token can be scored; None scores it not at all.
        revision: hub revision, if any.
        bfloat16_scoring: whether scores are computed under bfloat16 autocast, and close ones again in the weights' own type.

    Attributes:
        pad_id: id used for right padding; padded places are masked out, so any id serves.
        mask_id: id of the mask token (masked models only).
        tied_head: whether input and output embeddings are one tensor.
        edits: edits attached now, in order.
        notes: facts about loading that a report should print.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        family: Family,
        name: str,
        source: str,
        prefix_id: int | None = None,
        revision: str | None = None,
        bfloat16_scoring: bool = False,
    ) -> None:
        self.bfloat16_scoring = bfloat16_scoring
        self.hf = hf.eval()
        self.tokenizer = tokenizer
        self.family: Family = family
        self.name, self.source, self.revision = name, source, revision
        self.prefix_id = prefix_id
        mask_id: Any = tokenizer.mask_token_id
        self.mask_id: int | None = mask_id if family == "masked" else None
        if family == "masked" and self.mask_id is None:
            raise UsageError(
                f"The tokenizer of {name} has no mask token, so a masked model cannot be scored: set tokenizer.mask_token and save it."
            )
        self.pad_id: int = _first_id(tokenizer.pad_token_id, tokenizer.eos_token_id, hf.config.get_text_config().pad_token_id, 0)
        self.edits: list[Edit] = []
        self.notes: list[str] = []
        output, inputs = hf.get_output_embeddings(), hf.get_input_embeddings()
        self.tied_head = output is not None and output.weight is inputs.weight
        # Taken now where weights are quantised: on a processor bitsandbytes packs them anew when they are first multiplied.
        self._base_hash: str | None = content_hash(hf) if getattr(hf, "is_quantized", False) else None
        self._accepts_positions = "position_ids" in inspect.signature(self._base.forward).parameters
        self._separate_head = self._base is not hf and self._head_agrees()

    # identity -------------------------------------------------------------------------------------------------------------

    @property
    def base_hash(self) -> str:
        """Hex sha256 over all tensors of the base model; computed once, before any edit is attached."""
        if self._base_hash is None:
            if self.edits:
                raise RuntimeError("the base hash must be taken before an edit is attached")
            self._base_hash = content_hash(self.hf)
        return self._base_hash

    @contextlib.contextmanager
    def rebased(self) -> Generator[None]:
        """While the block runs its weights are a base of their own, whose hash is taken anew; the caller puts the weights back."""
        before = self._base_hash
        self._base_hash = None
        try:
            yield
        finally:
            self._base_hash = before

    @property
    def state_id(self) -> str:
        """Base hash, and content hash and exact strength of each attached edit."""
        return "+".join([self.base_hash, *(edit.state_fragment() for edit in self.edits)])

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """16 hexadecimal digits of the tokenizer: its whole pipeline, or its vocabulary and special tokens where it has no fast form."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            whole = json.loads(backend.to_str())
            described = {name: value for name, value in whole.items() if name not in ("truncation", "padding")}  # set call by call
        else:
            described = [self.tokenizer.get_vocab(), self.tokenizer.special_tokens_map]
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def template_hash(self) -> str | None:
        """16 hexadecimal digits of the chat template; None without one."""
        template = getattr(self.tokenizer, "chat_template", None)
        return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16] if template else None

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return self.hf.dtype

    @property
    def parameter_count(self) -> int:
        """Number of parameters, tied weights once."""
        return sum(parameter.numel() for parameter in self.hf.parameters())

    @property
    def attention_kernel(self) -> str:
        """Attention implementation in use, e.g. ``sdpa``."""
        return str(getattr(self.hf.config, "_attn_implementation", "unknown"))

    @property
    def max_length(self) -> int:
        """Longest input in tokens that the positions of the model allow."""
        config = self.hf.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1_000_000
        # RoBERTa counts positions from the padding id, so that pad + 1 of them cannot be used.
        offset = getattr(getattr(self._base, "embeddings", None), "padding_idx", None)
        return int(limit) - (int(offset) + 1 if offset else 0)

    @property
    def sliding_window(self) -> int | None:
        """Attention window of the local layers, where the model has any."""
        return getattr(self.hf.config.get_text_config(), "sliding_window", None)

    @property
    def prefix_policy(self) -> str:
        """The prefix in words, as tables and pages print it."""
        if self.family == "masked":
            return "special tokens of the tokenizer"
        return "none" if self.prefix_id is None else f"id {self.prefix_id}"

    # text to ids ----------------------------------------------------------------------------------------------------------

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text without any special token."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def sequence_ids(self, text: str) -> list[int]:
        """Ids of a text as one input: with ``[CLS]`` and ``[SEP]`` for masked models, bare for causal ones."""
        if self.family == "causal":
            return self.token_ids(text)
        return list(self.tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])

    def join_ids(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of what follows it, cut where the context's own ids end in the ids of the joined text.

        White space at the end of the context goes to the continuation, as in the evaluation harness.
        """
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        start = self.token_ids(context)
        whole = self.token_ids(context + continuation)
        return whole[: len(start)], whole[len(start) :]

    def enclosing_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the tokenizer of a masked model puts before and after a text."""
        probe = "a"
        core, whole = self.token_ids(probe), self.sequence_ids(probe)
        for start in range(len(whole) - len(core) + 1):
            if whole[start : start + len(core)] == core:
                return tuple(whole[:start]), tuple(whole[start + len(core) :])
        raise ValueError("the tokenizer's special tokens change the ids between them")

    @property
    def prefix(self) -> tuple[int, ...]:
        """The prefix as a tuple of zero or one id, ready to be put in front of a context."""
        return () if self.prefix_id is None else (self.prefix_id,)

    # computing ------------------------------------------------------------------------------------------------------------

    @property
    def _base(self) -> nn.Module:
        return self.hf.base_model

    @property
    def shares_prefixes(self) -> bool:
        """Whether a computed prefix can be continued from its cache, with positions given explicitly."""
        return self.family == "causal" and self._accepts_positions and self._separate_head and _has_plain_cache(self.hf)

    def hidden(
        self, ids: Tensor, mask: Tensor, *, positions: Tensor | None = None, cache: DynamicCache | None = None
    ) -> Tensor:
        """Final hidden states, the input of :meth:`head`.

        Args:
            ids: int64 (batch, length), right padded.
            mask: int64 (batch, cached length + length), 1 where a token is.
            positions: int64 (batch, length), position of each token; needed when `cache` holds padded prefixes.
            cache: keys and values of what came before; extended in place.

        Returns:
            (batch, length, width); where the head cannot be separated from the body, the logits (batch, length, vocabulary).
        """
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if positions is not None and self._accepts_positions:
            arguments["position_ids"] = positions
        if self.family == "causal":
            arguments["use_cache"] = cache is not None
            if cache is not None:
                arguments["past_key_values"] = cache
        if self._separate_head:
            return self._base(**arguments)[0]
        return self.hf(**arguments).logits

    def hidden_layers(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states at every depth: what the embeddings give, and what each layer gives.

        Args:
            ids: int64 (batch, length), right padded.
            mask: int64 (batch, length), 1 where a token is.

        Returns:
            (layers + 1, batch, length, width).

        Raises:
            UsageError: the model does not give them.
        """
        output = self._base(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = getattr(output, "hidden_states", None)
        if states is None:
            raise UsageError(f"{self.name} does not give the hidden states of its layers.")
        return torch.stack(tuple(states))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of chosen hidden states.

        The model's own forward runs with its body replaced by these states, so that every quirk between body and logits (transforms,
        scaling, soft caps) is the model's own code.

        Args:
            hidden: (n, width).

        Returns:
            (n, vocabulary), in the model's type.
        """
        if not self._separate_head:
            return hidden
        with _stubbed(self._base, hidden.unsqueeze(0)):
            return self.hf(input_ids=torch.zeros((1, hidden.shape[0]), dtype=torch.long, device=hidden.device)).logits[0]

    @torch.no_grad()
    def _head_agrees(self) -> bool:
        ids = torch.arange(1, 5, device=self.device).unsqueeze(0) % self.hf.config.get_text_config().vocab_size
        mask = torch.ones_like(ids)
        try:
            whole = self.hf(input_ids=ids, attention_mask=mask).logits[0].float()
            states = self._base(input_ids=ids, attention_mask=mask)[0][0]
            with _stubbed(self._base, states.unsqueeze(0)):
                parts = self.hf(input_ids=ids).logits[0].float()
        except (TypeError, AttributeError, KeyError, IndexError):
            return False
        return whole.shape == parts.shape and torch.allclose(whole, parts, atol=1e-3, rtol=1e-3)

    # saving ---------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, record: dict[str, Any] | None = None) -> None:
        """Write weights (safetensors), configuration, tokenizer and our record; loads with plain ``from_pretrained``."""
        self.hf.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / MODEL_RECORD, {"name": self.name, "prefix_id": self.prefix_id, **(record or {})})


def _first_id(*candidates: Any) -> int:
    return next(int(candidate) for candidate in candidates if candidate is not None)


def _has_plain_cache(hf: PreTrainedModel) -> bool:
    """Whether keys and values of every layer are plain tensors that rows can be picked from (no recurrent or hybrid state)."""
    config = hf.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    return not getattr(hf, "_is_stateful", False) and kinds <= {"full_attention", "sliding_attention"}


@contextlib.contextmanager
def _stubbed(base: nn.Module, states: Tensor) -> Generator[None]:
    """While the block runs, calling `base` returns `states` as its last hidden states."""
    output = HeadInput(last_hidden_state=states)  # type: ignore[arg-type]
    wrapped = vars(base).get("forward")  # accelerate puts its own there
    base.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if wrapped is None:
            del base.forward
        else:
            base.forward = wrapped
