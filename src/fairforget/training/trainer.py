"""The one Trainer subclass: any composition of objectives over streams, on transformers' loop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from fairforget.errors import FairforgetError, UsageError
from fairforget.models.model import Model
from fairforget.progress import task
from fairforget.training.averaging import ParameterAverage
from fairforget.training.monitor import FiniteLoss, Monitor, MonitorCallback, PassCallback, ProgressCallback
from fairforget.training.objective import Batch, Objective
from fairforget.training.sharpness import Perturbation, SharpnessCallback
from fairforget.training.streams import Collator, StreamDataset

TRAINABLE_FILE = "trainable.safetensors"
OBJECTIVES_FILE = "objectives.safetensors"
AVERAGE_FILE = "average.safetensors"


class _Composition(nn.Module):
    """The model as a function from a step's batches to its loss, so that wrappers for many processes see a plain forward."""

    def __init__(self, model: Model, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.hf = model.hf
        self.wrapped = (model,)  # in a tuple: nn.Module would not hold it, and must not register the model twice
        self.objectives = tuple(objectives)
        self.terms = nn.ModuleList([objective.module for objective in objectives if objective.module is not None])
        self.last: list[Tensor | None] = []  # what each term came to, weighted, in the last forward

    def forward(self, batches: dict[str, Batch], totals: Sequence[float]) -> Tensor:
        with contextlib.ExitStack() as steps:
            for objective in self.objectives:
                steps.enter_context(objective.step(self.wrapped[0]))
            terms = [
                (objective.weight / total * objective.sum(self.wrapped[0], batch_of(objective, batches))).float() if total else None
                for objective, total in zip(self.objectives, totals, strict=True)
            ]
        self.last = [None if term is None else term.detach() for term in terms]
        return torch.stack([term for term in terms if term is not None]).sum()


class ObjectiveTrainer(Trainer):
    """Trains the parameters that require gradient on a sum of objectives.

    Each term is its sum over all units of the accumulated batch and all processes divided by their count, so that 16 x 1 and 4 x 4 rows
    give the same step. Under SAM too: its perturbation is by the gradient of the whole step. What is logged with the loss is each term's
    part of it, as ``loss_`` and the term's name.
    """

    def __init__(self, model: Model, objectives: Sequence[Objective], **arguments: Any) -> None:
        self.composition_objectives = tuple(objectives)
        self._composition = _Composition(model, objectives)
        super().__init__(model=self._composition, **arguments)  # type: ignore[arg-type]
        # The loss below is already divided by the whole batch's count; the names of this switch differ over transformers' versions.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.average: ParameterAverage | None = None
        self._step_batches: list[Any] = []
        self._step_counts: Any = None
        self._parts = torch.zeros(len(self.composition_objectives), device=self.args.device)  # of the loss, summed since they were logged
        self._parts_steps = 0
        self._losses_before: list[Tensor] = []  # of the step's micro-batches at the weights themselves, where SAM takes two looks

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Take the micro-batches of one step and count each objective's units over all of them and all processes."""
        batches: list[Any] = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        counts = torch.tensor(
            [sum(objective.count(batch_of(objective, batch)) for batch in batches) for objective in self.composition_objectives],
            dtype=torch.float64 if device.type != "mps" else torch.float32,
            device=device,
        )
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts, "sum")
        self._step_batches, self._step_counts = batches, counts
        self._parts_steps += 1
        return batches, counts

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a micro-batch; the loss that is logged is that of the weights, also under SAM."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._losses_before:
            return self._losses_before.pop(0)
        self._note_parts()
        return loss

    def _note_parts(self) -> None:
        for place, part in enumerate(self._composition.last):
            if part is not None:
                self._parts[place] += part

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Log what each term came to beside their sum, a mean over the same steps."""
        if "loss" in logs and self._parts_steps:
            if len(self.composition_objectives) > 1:
                parts: Any = self._parts
                if self.accelerator.num_processes > 1:
                    parts = self.accelerator.reduce(parts, "sum")
                names = _distinct([objective.label for objective in self.composition_objectives])
                logs.update({f"loss_{name}": part / self._parts_steps for name, part in zip(names, parts.tolist(), strict=True)})
            self._parts, self._parts_steps = torch.zeros_like(self._parts), 0
        super().log(logs, *arguments, **options)

    def ascend(self, perturbation: Perturbation) -> None:
        """Put a perturbation on by the gradient of the whole step: all its micro-batches, over all processes.

        What follows sees the same dropout, and the terms' memories, as if there had been no first look.
        """
        model, memories = self.model_wrapped, [_copied(objective.state()) for objective in self.composition_objectives]
        assert isinstance(model, nn.Module)
        last = len(self._step_batches) - 1
        with torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []):
            self._losses_before = []
            for number, batch in enumerate(self._step_batches):
                with contextlib.nullcontext() if number == last else self.accelerator.no_sync(model=model):
                    self._losses_before.append(super().training_step(model, batch, self._step_counts))
                    self._note_parts()
        for objective, memory in zip(self.composition_objectives, memories, strict=True):
            objective.load_state(memory)
        perturbation.put_on(model.parameters())

    def keep_average(self, decay: float) -> ParameterAverage:
        """Begin to average what is trained."""
        assert self.model is not None
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self.average = ParameterAverage(trained, decay)
        return self.average

    def check_whole_weights(self, what: str) -> None:
        """Refuse what needs whole weights where processes hold shards.

        Raises:
            UsageError: under FSDP or DeepSpeed.
        """
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UsageError(f"{what} needs the whole weights in every process: train without FSDP and DeepSpeed, or leave it out.")

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The step's share of the total loss; processes average gradients, hence the factor of their number."""
        del return_outputs
        return model(inputs, num_items_in_batch.tolist()) * self.accelerator.num_processes

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save what is trained and nothing else: the base is on disk already."""
        del state_dict
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        assert self.model is not None
        trained = {name: parameter.detach().contiguous() for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        save_file(trained, folder / TRAINABLE_FILE)
        kept = {
            f"{number}.{name}": tensor
            for number, objective in enumerate(self.composition_objectives)
            for name, tensor in _copied(objective.state()).items()
        }
        if kept:
            save_file(kept, folder / OBJECTIVES_FILE)
        if self.average is not None:
            save_file({name: value.contiguous() for name, value in self.average.values.items()}, folder / AVERAGE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        stored = load_file(Path(resume_from_checkpoint) / TRAINABLE_FILE)
        target = model or self.model
        assert target is not None
        parameters = dict(target.named_parameters())
        with torch.no_grad():
            for name, tensor in stored.items():
                parameters[name].copy_(tensor)
        kept = Path(resume_from_checkpoint) / OBJECTIVES_FILE
        states = load_file(kept) if kept.is_file() else {}
        for number, objective in enumerate(self.composition_objectives):
            mine = f"{number}."
            objective.load_state({name.removeprefix(mine): tensor for name, tensor in states.items() if name.startswith(mine)})
        if self.average is not None:
            self.average.load(load_file(Path(resume_from_checkpoint) / AVERAGE_FILE))

    def take_finished(self, checkpoint: str | None) -> float | None:
        """Take the weights of a training that was stopped after its last step; transformers would do one more.

        Returns:
            Mean logged loss; None where steps are left.
        """
        if checkpoint is None:
            return None
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if state.global_step < self.args.max_steps:
            return None
        self._load_from_checkpoint(checkpoint)
        self.state = state
        logged = [(int(entry["step"]), float(entry["loss"])) for entry in state.log_history if "loss" in entry]
        before = [0, *(step for step, _ in logged)]
        return sum(loss * (step - last) for last, (step, loss) in zip(before, logged, strict=False)) / max(before[-1], 1)

    def go_back(self, folder: Path, reason: str) -> str:
        """Take the last checkpoint's weights after a loss that was not finite, and say so.

        Raises:
            FairforgetError: there is none.
        """
        last = _last_whole_checkpoint(folder)
        if last is None:
            raise FairforgetError(f"Training diverged: {reason}. Lower method.learning_rate; the base model is unchanged.")
        self._load_from_checkpoint(last)
        return f"{reason}; the state of step {last.rpartition('-')[2]} is kept"


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a term remembers, in tensors of its own."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def check_reach(model: Model, objectives: Sequence[Objective], batches: Mapping[str, Batch]) -> None:
    """Refuse a term that cannot change anything, on a first few rows.

    Raises:
        UsageError: with the name of the term.
    """
    model.hf.eval()
    place = model.device
    for objective in objectives:
        batch = {name: tensor.to(place) for name, tensor in batch_of(objective, batches).items()}
        with torch.random.fork_rng():
            reaches = objective.sum(model, batch).requires_grad
        if not reaches:
            raise UsageError(
                f"The gradient of {type(objective).__name__} reaches no parameter that is trained: tune other modules (method.tuning, "
                "method.targets), or leave the term out."
            )


def batch_of(objective: Objective, batches: Mapping[str, Batch]) -> Batch:
    """The stream's batch that a term is computed on; empty for a term of the parameters."""
    return {} if objective.stream is None else batches[objective.stream]


def choose_precision(precision: str, device: torch.device) -> bool:
    """Whether training runs under bfloat16 autocast; ``auto`` means where the processor or card computes it natively."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return device.type == "cpu" and bool(native and native())


def train(
    model: Model,
    objectives: Sequence[Objective],
    dataset: StreamDataset,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    folder: Path,
    accumulation: int = 1,
    warmup_steps: int = 0,
    scheduler: str = "linear",
    weight_decay: float = 0.0,
    max_gradient_norm: float = 1.0,
    sam: float = 0.0,
    sam_adaptive: bool = False,
    ema: float = 0.0,
    precision: str = "auto",
    seed: int = 0,
    report_to: str = "none",
    monitor: Monitor | None = None,
    description: str = "training",
) -> dict[str, Any]:
    """Train the parameters of `model` that require gradient; goes on from the last checkpoint in `folder`.

    Args:
        model: the model; its parameters are changed in place.
        objectives: terms of the loss.
        dataset: rows of the streams the objectives name.
        steps: optimiser steps.
        batch_size: rows in a micro-batch.
        learning_rate: peak learning rate of AdamW.
        folder: checkpoints go here.
        accumulation: micro-batches in a step.
        warmup_steps: steps of linear warm-up.
        scheduler: name of a transformers schedule.
        weight_decay: AdamW's decoupled decay.
        max_gradient_norm: gradients are clipped to this norm.
        sam: radius ρ of sharpness-aware minimisation; 0 is without it. See :class:`fairforget.training.sharpness.Perturbation`.
        sam_adaptive: scale SAM's step by the weights (ASAM).
        ema: decay of the average of the weights that the model ends with; 0 is without it. See
            :class:`fairforget.training.averaging.ParameterAverage`.
        precision: ``auto``, ``float32`` or ``bfloat16`` (autocast over float32 weights).
        seed: order of rows, dropout.
        report_to: experiment tracker known to transformers, or ``none``.
        monitor: may stop the run early.
        description: what the progress display says.

    Returns:
        ``steps`` done, mean ``loss`` over the run, ``seconds``, and ``stopped``: the monitor's reason or None.

    Raises:
        UsageError: nothing can be trained, a term's gradient reaches no trainable parameter, a term that compares the rows of a batch
            is asked for with accumulation or on several processes, or SAM or an average on sharded weights.
        FairforgetError: the loss is no longer finite, and there is no checkpoint to go back to.
    """
    if not any(parameter.requires_grad for parameter in model.hf.parameters()):
        raise UsageError("Nothing can be trained: no parameter of the model requires a gradient.")
    split = "accumulation" if accumulation > 1 else "several processes" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    for objective in objectives:
        if objective.in_batch and split:
            raise UsageError(f"{type(objective).__name__} compares the rows of a batch with each other and cannot be split by {split}.")
        objective.prepare(model)
        objective.begin_pass(model, 0)
    collator = Collator(model.pad_id)
    check_reach(model, objectives, collator([dataset[index] for index in range(min(2, len(dataset)))]))
    on_processor = model.device.type == "cpu"
    logging_steps = max(1, min(10, steps // 5))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        lr_scheduler_type=scheduler,
        weight_decay=weight_decay,
        max_grad_norm=max_gradient_norm,
        bf16=choose_precision(precision, model.device),
        use_cpu=on_processor,
        seed=seed,
        data_seed=seed,
        save_steps=logging_steps * -(-max(10, steps // 8) // logging_steps),  # a loss is looked at before it is saved
        save_total_limit=1,
        logging_steps=logging_steps,
        report_to=report_to,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_processor,
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )
    with task(description, steps) as advance:
        finite = FiniteLoss()
        passes = PassCallback(model, objectives, dataset.rows / (batch_size * accumulation))
        trainer = ObjectiveTrainer(model, objectives, args=arguments, train_dataset=dataset, data_collator=collator)
        trainer.remove_callback(_printer())
        average = trainer.keep_average(ema) if ema else None
        watcher = MonitorCallback(monitor, model, average.shown if average else contextlib.nullcontext) if monitor is not None else None
        callbacks: list[Any] = [ProgressCallback(advance), passes, average, watcher, finite]  # the average is new when the monitor looks
        if sam:
            perturbation = Perturbation(sam, adaptive=sam_adaptive)
            callbacks.append(SharpnessCallback(lambda: trainer.ascend(perturbation), perturbation))
        for name, wanted in (("SAM", sam), ("An average of the weights", ema)):
            if wanted:
                trainer.check_whole_weights(name)
        for callback in callbacks:
            if callback is not None:
                trainer.add_callback(callback)
        last = _last_whole_checkpoint(folder)
        loss, seconds = trainer.take_finished(last), 0.0
        if loss is None:
            result = trainer.train(resume_from_checkpoint=last)
            loss, seconds = float(result.training_loss), float(result.metrics.get("train_runtime", 0.0))
        stopped = watcher.reason if watcher else None
        if finite.reason:
            stopped = trainer.go_back(folder, finite.reason)
        if average is not None:
            average.put_on()
    model.hf.eval()
    return {
        "steps": trainer.state.global_step,
        "loss": round(loss, 4),
        "seconds": round(seconds, 1),
        "precision": "bfloat16 autocast" if arguments.bf16 else "float32",
        "stopped": stopped,
        "diverged": finite.reason is not None,
    }


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where several are the same."""
    return [name if names.count(name) == 1 else f"{name}_{names[: place + 1].count(name)}" for place, name in enumerate(names)]


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; what a kill left half written is removed."""
    while folder.is_dir() and (last := get_last_checkpoint(str(folder))) is not None:
        try:
            json.loads((Path(last) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))  # the Trainer writes this file last
        except (OSError, ValueError):
            shutil.rmtree(last)
        else:
            return last
    return None


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback
