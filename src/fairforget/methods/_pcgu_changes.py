"""What PCGU has changed so far, vector by vector, so that memory is paid for touched vectors only and a run can stop and go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairforget.edits import Delta, Dense
from fairforget.errors import FairforgetError
from fairforget.files import atomic_path
from fairforget.methods._pcgu_vectors import VectorPartition, VectorTensor

CHECKPOINT = "pcgu.safetensors"


class VectorChanges:
    """Changes of vectors of a model in place, with the base's values kept for the touched ones.

    A parameter is always θ₀ + δ with δ summed in float32, rounded once to the parameter's own type: steps that are too small for bfloat16
    add up all the same, and the model in training computes what the finished edit will.

    Args:
        partition: the vectors.
    """

    def __init__(self, partition: VectorPartition) -> None:
        self.partition = partition
        self._slot: dict[str, Tensor] = {}
        self._original: dict[str, Tensor] = {}
        self._delta: dict[str, Tensor] = {}
        self.chosen: dict[str, int] = {tensor.name: 0 for tensor in partition}
        """How often vectors of a tensor were chosen, summed over updates."""

    @torch.no_grad()
    def add(self, tensor: VectorTensor, numbers: Tensor, change: Tensor) -> None:
        """Add a change to some vectors.

        Args:
            tensor: where they are.
            numbers: int64 (m,), their numbers within the tensor, each once.
            change: (m, length), floating.
        """
        numbers = numbers.cpu()
        self.chosen[tensor.name] += len(numbers)
        slots = self._slots(tensor, numbers)
        delta = self._delta[tensor.name]
        delta[slots] += change.to("cpu", torch.float32)
        self._write(tensor, numbers, slots)

    def _slots(self, tensor: VectorTensor, numbers: Tensor) -> Tensor:
        """Rows of the stores that hold these vectors, made where they are new."""
        name = tensor.name
        if name not in self._slot:
            length = tensor.parameter.shape[tensor.along]
            self._slot[name] = torch.full((tensor.count,), -1)
            self._original[name] = torch.empty((0, length), dtype=tensor.parameter.dtype)
            self._delta[name] = torch.empty((0, length))
        slot = self._slot[name]
        new = numbers[slot[numbers] < 0]
        if len(new):
            held = self._original[name]
            slot[new] = torch.arange(len(held), len(held) + len(new))
            fresh = self._gather(tensor, new)
            self._original[name] = torch.cat([held, fresh])
            self._delta[name] = torch.cat([self._delta[name], torch.zeros(fresh.shape)])
        return slot[numbers]

    @staticmethod
    def _gather(tensor: VectorTensor, numbers: Tensor) -> Tensor:
        return tensor.rows(tensor.parameter.detach())[tensor.places(numbers.to(tensor.parameter.device))].cpu()

    def _write(self, tensor: VectorTensor, numbers: Tensor, slots: Tensor | None) -> None:
        """Put θ₀ + δ into the parameter; θ₀ alone where there are no slots to read δ from."""
        parameter = tensor.parameter.detach()
        original = self._original[tensor.name]
        values = original if slots is None else (original[slots].float() + self._delta[tensor.name][slots]).to(original.dtype)
        tensor.rows(parameter)[tensor.places(numbers.to(parameter.device))] = values.to(parameter.device)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the base's values back, to the last bit."""
        for tensor in self.partition:
            if tensor.name in self._slot:
                self._write(tensor, self._touched(tensor.name), None)

    @contextlib.contextmanager
    def off(self) -> Generator[None]:
        """The base's values are in the model while the block runs."""
        self.restore()
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor in self.partition:
                    if tensor.name in self._slot:
                        numbers = self._touched(tensor.name)
                        self._write(tensor, numbers, self._slot[tensor.name][numbers])

    def _touched(self, name: str) -> Tensor:
        """Numbers of the touched vectors of a tensor, in the order of the stores."""
        slot = self._slot[name]
        numbers = (slot >= 0).nonzero().flatten()
        return numbers[slot[numbers].argsort()]

    def deltas(self) -> dict[str, Delta]:
        """The changes as dense ones, for the tensors that were touched."""
        deltas: dict[str, Delta] = {}
        for tensor in self.partition:
            if tensor.name in self._slot:
                dense = torch.zeros(tensor.parameter.shape)
                tensor.rows(dense)[tensor.places(self._touched(tensor.name))] = self._delta[tensor.name]
                deltas[tensor.name] = Dense(dense)
        return deltas

    def report(self, updates: int) -> list[dict[str, Any]]:
        """Where the change lies: a row per tensor with its vectors, the share chosen in an update, the touched ones and ‖δ‖."""
        return [
            {
                "parameter": tensor.name,
                "vectors": tensor.count,
                "selected_share": round(self.chosen[tensor.name] / (tensor.count * max(updates, 1)), 6),
                "touched": int((self._slot[tensor.name] >= 0).sum()) if tensor.name in self._slot else 0,
                "norm": float(self._delta[tensor.name].norm()) if tensor.name in self._delta else 0.0,
            }
            for tensor in self.partition
        ]

    # stopping and going on ------------------------------------------------------------------------------------------------

    def save(self, folder: Path, run: str, progress: dict[str, Any]) -> None:
        """Write the changes to a folder, whole or not at all.

        Args:
            folder: made where it is absent.
            run: identity of the run they belong to.
            progress: JSON values that :meth:`load` gives back.
        """
        tensors = {f"numbers/{name}": self._touched(name) for name in self._slot}
        tensors |= {f"delta/{name}": delta for name, delta in self._delta.items()}
        facts = {"run": run, "progress": json.dumps(progress), "chosen": json.dumps(self.chosen)}
        with atomic_path(folder / CHECKPOINT) as temporary:
            save_file(tensors, temporary, metadata=facts)

    @torch.no_grad()
    def load(self, folder: Path, run: str) -> dict[str, Any] | None:
        """Take back what :meth:`save` wrote, in place of the changes so far, and put it on the model; None where there is nothing.

        Raises:
            FairforgetError: it belongs to another run, or is damaged.
        """
        path = folder / CHECKPOINT
        if not path.is_file():
            return None
        self.restore()
        self._slot, self._original, self._delta = {}, {}, {}
        try:
            with safe_open(path, framework="pt") as file:
                facts: dict[str, str] = file.metadata() or {}
                if facts.get("run") != run:
                    raise FairforgetError(f"{path} belongs to other settings, data or weights: take it away, or choose another folder.")
                for tensor in self.partition:
                    if f"delta/{tensor.name}" in file.keys():  # noqa: SIM118  (not a mapping)
                        numbers = file.get_tensor(f"numbers/{tensor.name}")
                        self.add(tensor, numbers, file.get_tensor(f"delta/{tensor.name}"))
        except (SafetensorError, OSError) as error:
            raise FairforgetError(f"{path} is damaged ({error}): take it away and run the same command again.") from error
        self.chosen = json.loads(facts["chosen"])
        return json.loads(facts["progress"])
