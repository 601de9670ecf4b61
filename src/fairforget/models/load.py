"""Loads a model from a hub id, a folder, a GGUF file, a PEFT adapter or a built-in name, and refuses what cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from fairforget.errors import DataError, FairforgetError, UsageError, nearest_names
from fairforget.models.builtin import builtin_folder, builtin_names
from fairforget.models.model import MODEL_RECORD, Family, Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    ref: str | Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    load_in_4bit: bool = False,
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    prefix: str | int = "auto",
    scoring_dtype: str = "auto",
) -> Model:
    """Load a causal or masked language model.

    Args:
        ref: hub id, local folder, ``.gguf`` file, folder of a PEFT adapter, or the name of a built-in model.
        device: ``auto`` (CUDA, then Apple's, then the processor) or a torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``. Scores are meant for float32: narrower types turn near-ties into ties.
        revision: hub revision.
        load_in_4bit: quantise the weights on load (bitsandbytes); only LoRA methods can train such a model.
        device_map: handed to transformers, for models larger than one device.
        trust_remote_code: run code from the hub repository; off unless the user asks for it.
        prefix: token before the first one of a causal sequence: ``auto``, ``bos``, ``eos``, ``none`` or a token id.
        scoring_dtype: arithmetic of scoring: ``auto`` is the weights' own; ``bfloat16`` with float32 weights scores under autocast, and
            items that come out close are scored again in float32.

    Raises:
        UsageError: an unknown name, an encoder-decoder, a checkpoint without its head, a wrong dtype.
        DataError: files that are damaged or incomplete.
    """
    if dtype not in DTYPES:
        raise UsageError(f"There is no dtype '{dtype}': {nearest_names(dtype, DTYPES)}")
    if scoring_dtype not in ("auto", "bfloat16") or (scoring_dtype == "bfloat16" and dtype != "float32"):
        raise UsageError(f"scoring_dtype = {scoring_dtype} with dtype = {dtype}: it is auto, or bfloat16 with weights in float32.")
    source = str(ref)
    location, gguf = _locate(source)
    tokens: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if (location_path := Path(location)).is_dir() and (location_path / "adapter_config.json").exists():
        return _load_adapter(
            location_path, device=device, dtype=dtype, load_in_4bit=load_in_4bit, device_map=device_map,
            trust_remote_code=trust_remote_code, prefix=prefix, scoring_dtype=scoring_dtype,
        )
    try:
        if gguf is not None:
            tokens["gguf_file"] = gguf
        config = AutoConfig.from_pretrained(location, **tokens)
        family = family_of(config, source)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, **tokens)
        arguments: dict[str, Any] = {**tokens, "dtype": DTYPES[dtype], "output_loading_info": True}
        if device_map is not None:
            arguments["device_map"] = device_map
        if load_in_4bit:
            arguments["quantization_config"] = _four_bit()
            arguments.setdefault("device_map", {"": choose_device(device)})  # quantised where it stays
        elif gguf is not None and (dequantize := gguf_config(gguf)) is not None:
            arguments["quantization_config"] = dequantize
        auto: Any = AutoModelForCausalLM if family == "causal" else AutoModelForMaskedLM
        hf, info = auto.from_pretrained(location, **arguments)
    except FairforgetError:
        raise
    except (SafetensorError, json.JSONDecodeError, EOFError) as error:
        raise DataError(f"The files of the model {source} are damaged ({_first_line(error)}): download or copy them again.") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _load_error(source, error) from error
    _refuse_missing_head(source, family, info)
    if device_map is None and not load_in_4bit:
        hf = hf.to(choose_device(device))
    record = read_model_record(location)
    model = Model(
        hf,
        tokenizer,
        family=family,
        name=source if source in builtin_names() else Path(source).name or source,
        source=source if source in builtin_names() or not Path(source).exists() else str(Path(source).resolve()),
        prefix_id=choose_prefix(tokenizer, prefix, record) if family == "causal" else None,
        revision=revision,
        bfloat16_scoring=scoring_dtype == "bfloat16",
    )
    if note := record.get("note"):
        model.notes.append(str(note))
    return model


def read_model_record(location: str | Path) -> dict[str, Any]:
    """What fairforget wrote beside a model that it saved; empty for any other model."""
    path = Path(location) / MODEL_RECORD
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def family_of(config: PreTrainedConfig, source: str) -> Family:
    """Causal or masked, from the configuration and the architecture classes it names.

    Raises:
        UsageError: the model is an encoder-decoder, or no language model at all.
    """
    if config.is_encoder_decoder:
        raise UsageError(
            f"{source} is an encoder-decoder model ({config.model_type}); fairforget works on causal and masked language models."
        )
    classes = config.architectures or []
    causal, masked = (_class_names(mapping) for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES))
    for name in classes:
        if name.endswith(("ForMaskedLM", "ForPreTraining")) or (name in masked and name not in causal):
            return "masked"
        if name in causal or name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
            return "causal"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "masked"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise UsageError(
        f"{source} is a {config.model_type} model ({', '.join(classes) or 'no architecture named'}), neither a causal nor a masked "
        "language model."
    )


def _class_names(mapping: Any) -> set[str]:
    names: set[str] = set()
    for value in mapping.values():
        names |= {value} if isinstance(value, str) else set(value)
    return names


def choose_device(device: str) -> torch.device:
    """Turn ``auto`` or a device string into a torch device.

    Raises:
        UsageError: torch knows no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"The device '{device}' cannot be used here ({_first_line(error)}): try auto, cpu or cuda.") from error
    return chosen


def choose_prefix(tokenizer: PreTrainedTokenizerBase, prefix: str | int, record: dict[str, Any]) -> int | None:
    """Id of the token put before a causal sequence.

    ``auto`` is what the model's own record says, else BOS, else EOS. A BOS that opens every chat turn marks a speaker, not the start of
    a text, and costs tens of nats on a sentence; then ``<|endoftext|>`` is used where the vocabulary has it.

    Raises:
        UsageError: the tokenizer has no such token.
    """
    if isinstance(prefix, int) or prefix.isdigit():
        if int(prefix) >= len(tokenizer):
            raise UsageError(f"The prefix id {prefix} is outside the vocabulary of {len(tokenizer)} tokens.")
        return int(prefix)
    if prefix == "none":
        return None
    if prefix == "auto":
        if "prefix_id" in record:
            return record["prefix_id"]
        end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        opens_turns = bool(tokenizer.bos_token) and f"'{tokenizer.bos_token}' +" in str(tokenizer.chat_template or "").replace('"', "'")
        if opens_turns and isinstance(end, int) and end != tokenizer.unk_token_id:
            return end
        return special_id(tokenizer, "bos") if tokenizer.bos_token_id is not None else special_id(tokenizer, "eos")
    if prefix not in ("bos", "eos"):
        raise UsageError(f"The prefix '{prefix}' is not known: use auto, bos, eos, none or a token id.")
    chosen = special_id(tokenizer, prefix)
    if chosen is None:
        raise UsageError(f"The tokenizer has no {prefix.upper()} token: choose another --prefix (auto, none or a token id).")
    return chosen


def special_id(tokenizer: PreTrainedTokenizerBase, kind: str) -> int | None:
    """Id of a special token (``bos``, ``eos``, ``pad``, ``mask``), or None where the tokenizer has none."""
    found: Any = getattr(tokenizer, f"{kind}_token_id")
    return None if found is None else int(found)


def _locate(source: str) -> tuple[str, str | None]:
    """Folder or hub id to load from, and the GGUF file name in it, if it is one."""
    if source in builtin_names():
        return str(builtin_folder(source)), None
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UsageError(f"There is no GGUF file at {path}.")
        return str(path.parent), path.name
    looks_local = path.is_absolute() or source.startswith((".", "~")) or path.exists()
    if looks_local and not path.is_dir():
        raise UsageError(f"There is no model folder at {path}.")
    if looks_local and not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
        raise UsageError(f"The folder {path} holds no model: there is no config.json in it.")
    if not looks_local and "/" not in source:
        raise UsageError(
            f"There is no model named '{source}': {nearest_names(source, builtin_names())} A hub model is written owner/name, a folder "
            "./name."
        )
    return source, None


def _load_adapter(folder: Path, **options: Any) -> Model:
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    base = config.base_model_name_or_path
    if not base:
        raise UsageError(f"The adapter {folder} does not name its base model: set base_model_name_or_path in its adapter_config.json.")
    model = load(base, **options)
    wrapped = PeftModel.from_pretrained(model.hf, str(folder))
    merged: PreTrainedModel = wrapped if options.get("load_in_4bit") else wrapped.merge_and_unload()  # type: ignore[assignment]
    return Model(
        merged, model.tokenizer, family=model.family, name=folder.name, source=str(folder.resolve()), prefix_id=model.prefix_id,
        revision=model.revision, bfloat16_scoring=model.bfloat16_scoring,
    )


def gguf_config(file: str) -> Any:
    """What makes transformers hand out plain weights from a GGUF file; a model that counts as quantised can be neither tuned nor saved."""
    try:
        from transformers import GgufConfig
    except ImportError:  # before it existed, GGUF files were always dequantised
        return None
    return GgufConfig(gguf_file=file, dequantize=True)


def check_four_bit(asked: str) -> None:
    """Refuse what needs bitsandbytes where it is not installed; it computes in 4 bits on processors too.

    Args:
        asked: the option that needs it, for the sentence.

    Raises:
        UsageError: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{asked} needs bitsandbytes: pip install 'fairforget[quantized]'.")


def _four_bit() -> Any:
    from transformers import BitsAndBytesConfig

    check_four_bit("--load-in-4bit")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_type="nf4")


def _refuse_missing_head(source: str, family: Family, info: dict[str, Any]) -> None:
    missing = sorted(info.get("missing_keys", ()))
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing or mismatched:
        names = ", ".join([*missing, *mismatched][:3])
        what = "its prediction head" if family == "masked" else "some of its weights"
        raise UsageError(
            f"The checkpoint {source} lacks {what} ({names} …): transformers would fill them with random numbers and every score would be "
            "meaningless. "
            f"Use a checkpoint saved from a model for {'masked' if family == 'masked' else 'causal'} language modelling."
        )


def _load_error(source: str, error: Exception) -> FairforgetError:
    text = _first_line(error)
    if Path(source).exists():
        return DataError(f"The model in {source} cannot be loaded ({text}).")
    if "couldn't connect" in text.lower() or "offline" in text.lower() or "connection" in text.lower():
        return FairforgetError(
            f"The model {source} is not on this machine and the hub cannot be reached: check the name and the network, or use one of "
            f"{', '.join(builtin_names())} or a local folder."
        )
    return UsageError(
        f"The model {source} cannot be loaded: {text} A hub model is written owner/name, a local folder ./name; built in are "
        f"{', '.join(builtin_names())}."
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
