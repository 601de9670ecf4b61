"""Export a low-rank edit as an adapter that plain PEFT loads at weight 1, with no word of ours."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from fairforget.edits.deltas import LowRank
from fairforget.edits.sites import linear_axes
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import UsageError
from fairforget.files import atomic_path, write_text

if TYPE_CHECKING:
    from peft import LoraConfig

    from fairforget.models.model import Model


def export_peft(edit: WeightEdit, model: Model, folder: Path | str) -> Path:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Sign, strength and scale are folded into the one factor B, and lora_alpha equals the rank, so that
    ``PeftModel.from_pretrained(base, folder)`` computes what the edit's hooks compute.

    Args:
        edit: a low-rank edit, exported at its strength.
        model: its base, which tells the layout of each weight.
        folder: made where it is absent; must not be a model's own folder.

    Returns:
        The folder.

    Raises:
        UsageError: the edit has dense changes, does not fit the model, or the folder holds a model.
        FairforgetError: the disk is full or the folder cannot be written.
    """
    from peft import LoraConfig, TaskType

    if not isinstance(edit, WeightEdit):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise UsageError(f"An edit of kind '{edit.kind}' works at run time, and no adapter can hold it: save it as an edit.")
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} holds a model; an adapter beside it would change how it loads: choose another folder.")
    edit.check_fits(model)
    sites = edit.sites(model.hf)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    conv = False
    for name, delta in edit.deltas.items():
        if not isinstance(delta, LowRank):
            raise UsageError(f"'{name}' has a dense change, which a LoRA adapter cannot hold: use merge, which saves an ordinary model.")
        site = sites[name]
        axes = linear_axes(site.module)
        conv = conv or (axes is not None and axes.transposed)
        ranks[site.module_name] = delta.rank
        stem = f"base_model.model.{site.module_name}"
        tensors[f"{stem}.lora_A.weight"] = delta.A.to("cpu", torch.float32, copy=True).contiguous()
        tensors[f"{stem}.lora_B.weight"] = delta.folded_b(edit.strength, torch.float32, torch.device("cpu")).contiguous()
    rank = max(ranks.values())
    others = {module: other for module, other in ranks.items() if other != rank}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if edit.record.family == "causal" else None,
        base_model_name_or_path=edit.record.base_source,
        revision=edit.record.base_revision,
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=_exact_targets(list(ranks), model),
        fan_in_fan_out=conv,
        lora_dropout=0.0,
    )
    with atomic_path(folder / "adapter_model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    _write_config(config, folder)
    return folder


def _exact_targets(modules: list[str], model: Model) -> list[str]:
    """The modules by full name. PEFT also takes every module whose name ends in ``.`` and a listed name, so that is refused."""
    names = [name for name, _ in model.hf.named_modules()]
    for module in modules:
        caught = [name for name in names if name.endswith(f".{module}") and name not in modules]
        if caught:
            raise UsageError(f"PEFT cannot tell the module '{module}' from '{caught[0]}', so this edit cannot be exported: use merge.")
    return modules


def _write_config(config: LoraConfig, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # PEFT knows best which of its fields go into the file and how
        config.save_pretrained(temporary)
        text = (Path(temporary) / "adapter_config.json").read_text(encoding="utf-8")
    value = json.loads(text)
    value["target_modules"] = sorted(value["target_modules"])  # PEFT keeps a set, whose order changes from run to run
    write_text(folder / "adapter_config.json", json.dumps(value, indent=2, sort_keys=True) + "\n")
