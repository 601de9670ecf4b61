"""A model folder read tensor by tensor: names, shapes, ties and layouts come from a skeleton without weights, weights from the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from fairforget.edits.sites import find_sites
from fairforget.errors import DataError, UsageError, nearest_names
from fairforget.models.builtin import builtin_names
from fairforget.models.hashing import distinct_tensors, sorted_tensors_hash
from fairforget.models.load import DTYPES, choose_prefix, family_of, read_model_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fairforget.models.model import Family


_IN_MEMORY = "load it whole instead (--no-stream)"


def is_sharded(ref: str | Path) -> bool:
    """Whether this is a local folder whose weights lie in several safetensors files."""
    return str(ref) not in builtin_names() and (Path(ref) / SAFE_WEIGHTS_INDEX_NAME).is_file()


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: file, and its name in it."""

    file: str
    key: str


class ShardedModel:
    """A local folder of safetensors, of which no more than one tensor (or one file, by :meth:`shard`) is in memory.

    Args:
        folder: an ordinary model folder, in one safetensors file or in several with an index.
        dtype: floating type in which the model is meant to be loaded; tensors are cast to it as they are read.
        prefix: as in :func:`fairforget.models.load`.

    Attributes:
        folder: the folder, resolved.
        hf: the model's skeleton on the meta device; tied parameters are tied in it.
        family: ``causal`` or ``masked``.
        tokenizer: of the model.
        prefix_id: token before a causal sequence.
        files: names of the weight files, in order.

    Raises:
        UsageError: no such folder, a quantised checkpoint, a wrong dtype.
        DataError: files that are damaged, or whose tensors have other names than the model's parameters.
    """

    def __init__(self, folder: Path | str, *, dtype: str = "float32", prefix: str | int = "auto") -> None:
        if dtype not in DTYPES:
            raise UsageError(f"There is no dtype '{dtype}': {nearest_names(dtype, DTYPES)}")
        self.folder, self.dtype = Path(folder).resolve(), dtype
        try:
            config = AutoConfig.from_pretrained(self.folder)
            if getattr(config, "quantization_config", None):
                raise UsageError(f"The checkpoint in {folder} is quantised; edits go onto plain weights: name the model it was made from.")
            self.family: Family = family_of(config, str(folder))
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder)
            auto: Any = AutoModelForCausalLM if self.family == "causal" else AutoModelForMaskedLM
            with torch.device("meta"):
                self.hf: PreTrainedModel = auto.from_config(config, dtype=DTYPES[dtype])
        except (OSError, ValueError, KeyError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"The model in {folder} cannot be read ({first}): {_IN_MEMORY}.") from error
        self.prefix_id = choose_prefix(self.tokenizer, prefix, read_model_record(self.folder)) if self.family == "causal" else None
        self._wanted = self.hf.state_dict(keep_vars=True)
        self._canonical = {name: site.name for name, site in find_sites(self.hf).items()}
        self.files = self._list_files()
        self._places = self._find_places()

    @property
    def source(self) -> str:
        """What to load the model from again."""
        return str(self.folder)

    @property
    def name(self) -> str:
        """Short name of the model."""
        return self.folder.name

    def base_hash(self) -> str:
        """The hash that the loaded model has (:attr:`fairforget.models.Model.base_hash`), from one reading of the files."""
        return sorted_tensors_hash(self._in_order())

    def shard(self, file: str) -> dict[str, Tensor]:
        """The tensors of one file under their names in the model, in the model's type; each tied tensor once over all files.

        Tensors that need no cast stay mapped from the file.
        """
        wanted = [(name, place.key) for name, place in self._places.items() if place.file == file]
        with self._open(file) as opened:
            return {name: self._cast(name, opened.get_tensor(key)) for name, key in wanted}

    def canonical(self, name: str) -> str:
        """The first of the names of a parameter, by which edits know it."""
        return self._canonical.get(name, name)

    def save_frame(self, folder: Path) -> None:
        """Write configuration, generation defaults and tokenizer: everything but the weights."""
        self.hf.config.dtype = self.dtype  # type: ignore[assignment]
        self.hf.config.architectures = [type(self.hf).__name__]
        self.hf.config.save_pretrained(folder)
        if self.hf.can_generate():
            if (self.folder / "generation_config.json").is_file():
                self.hf.generation_config = type(self.hf.generation_config).from_pretrained(self.folder)
            self.hf.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _in_order(self) -> Iterator[tuple[str, Tensor]]:
        by_canonical = {self.canonical(name): (name, place) for name, place in self._places.items()}
        current, opened = "", None
        for first, _ in distinct_tensors(self.hf):
            name, place = by_canonical[self.canonical(first)]
            if place.file != current:
                current, opened = place.file, self._open(place.file)  # the mapping of the file before goes with its handle
            assert opened is not None
            yield first, self._cast(name, opened.get_tensor(place.key))

    def _open(self, file: str) -> Any:
        try:
            return safe_open(self.folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.folder / file} is damaged or missing ({error}): copy or download it again.") from error

    def _cast(self, name: str, tensor: Tensor) -> Tensor:
        wanted = self._wanted[name]
        if tensor.shape != wanted.shape:
            raise DataError(
                f"'{name}' has shape {tuple(tensor.shape)} in {self.folder}, the model's configuration asks for {tuple(wanted.shape)}."
            )
        return tensor.to(wanted.dtype) if tensor.is_floating_point() else tensor

    def _list_files(self) -> dict[str, list[str]]:
        """Names of the tensors in each weight file."""
        index = self.folder / SAFE_WEIGHTS_INDEX_NAME
        if index.is_file():
            try:
                weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError) as error:
                raise DataError(f"{index} is damaged ({error}): copy or download it again.") from error
            files: dict[str, list[str]] = {}
            for key, file in weight_map.items():
                if Path(file).name != file:
                    raise DataError(f"{index} points out of its folder ({file}), where no weights are read from.")
                files.setdefault(file, []).append(key)
            return dict(sorted(files.items()))
        if not (self.folder / SAFE_WEIGHTS_NAME).is_file():
            raise UsageError(f"{self.folder} holds no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}: {_IN_MEMORY}.")
        with self._open(SAFE_WEIGHTS_NAME) as opened:
            return {SAFE_WEIGHTS_NAME: list(opened.keys())}

    def _find_places(self) -> dict[str, _Place]:
        """Where every parameter and persistent buffer lies, tied ones once; tensors that the model has no use for are left out.

        A checkpoint of the body alone (names without the model's own prefix) is understood; one that transformers converts while it
        loads is not.
        """
        places: dict[str, _Place] = {}
        by_canonical: dict[str, str] = {}
        for file, keys in self.files.items():
            for key in keys:
                name = next((known for known in (key, f"{self.hf.base_model_prefix}.{key}") if known in self._wanted), None)
                if name is None:
                    continue
                held = by_canonical.get(self.canonical(name))
                if held is not None:
                    self._check_tied(held, places[held], name, _Place(file, key))
                    continue
                by_canonical[self.canonical(name)] = name
                places[name] = _Place(file, key)
        missing = [name for name, _ in distinct_tensors(self.hf) if self.canonical(name) not in by_canonical]
        if missing:
            raise DataError(
                f"The files of {self.folder} lack '{missing[0]}' ({len(missing)} tensors in all) or call it otherwise than transformers "
                f"does: {_IN_MEMORY}."
            )
        return places

    def _check_tied(self, first: str, at: _Place, second: str, other: _Place) -> None:
        """Tied tensors may be written twice; transformers unties them where they differ, and so they are two tensors."""
        with self._open(at.file) as one, self._open(other.file) as two:
            if not torch.equal(one.get_tensor(at.key), two.get_tensor(other.key)):
                raise DataError(
                    f"'{first}' and '{second}' are tied in the configuration of {self.folder} and differ in its files: set "
                    f"tie_word_embeddings to false in its config.json, or {_IN_MEMORY}."
                )
