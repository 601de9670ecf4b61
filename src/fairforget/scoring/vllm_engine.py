"""Generation by vLLM, where it is installed: the model's state is written to a folder, which vLLM serves."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fairforget.edits.base import dtype_name
from fairforget.edits.merge import merged
from fairforget.errors import UsageError
from fairforget.models.model import Model

if TYPE_CHECKING:
    from fairforget.scoring.generation import Decoding

FREE_SHARE = 0.9
"""Share of the free memory of the device that vLLM may take, beside the model that is loaded already."""


def vllm_tokens(
    model: Model, prompts: Sequence[Sequence[int]], seeds: Sequence[int], decoding: Decoding, ends: Sequence[int]
) -> list[list[int]]:
    """New tokens of each prompt.

    vLLM seeds every request by itself, so that here too an answer does not depend on the others.

    Args:
        model: in its present state; edits of weights are merged into the folder that vLLM reads.
        prompts: token ids.
        seeds: one for each prompt.
        decoding: how answers are chosen.
        ends: tokens that end an answer.

    Raises:
        UsageError: vLLM is not installed, or an edit works at run time and cannot be merged.
        FairforgetError: the disk is full.
    """
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise UsageError("The engine vllm needs vLLM: pip install 'fairforget[vllm]', or use the engine transformers.") from error
    with tempfile.TemporaryDirectory(prefix="fairforget-vllm-") as root:
        folder = Path(root) / "model"
        _write(model, folder)
        memory: dict[str, float] = {}
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            memory["gpu_memory_utilization"] = round(FREE_SHARE * free / total, 3)
        # "vllm" as generation config: none of the model's own defaults, which would be mixed into what is asked for.
        engine = vllm.LLM(
            model=str(folder), tokenizer=str(folder), dtype=dtype_name(model), generation_config="vllm", seed=decoding.seed, **memory
        )
        parameters = [
            vllm.SamplingParams(
                temperature=decoding.temperature, top_p=decoding.top_p, max_tokens=decoding.max_new_tokens, seed=seed,
                stop=list(decoding.stop) or None, stop_token_ids=list(ends) or None,
            )
            for seed in seeds
        ]
        outputs = engine.generate([{"prompt_token_ids": list(ids)} for ids in prompts], parameters, use_tqdm=False)
    return [[int(token) for token in output.outputs[0].token_ids] for output in outputs]


def _write(model: Model, folder: Path) -> None:
    """The present state as an ordinary model folder; edits come off for as long as the base is read."""
    edits = list(model.edits)
    if not edits:
        model.save(folder)
        return
    for edit in reversed(edits):
        edit.detach(model)
    try:
        merged(model, edits, folder)
    finally:
        for edit in edits:
            edit.attach(model)
