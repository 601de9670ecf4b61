"""A linear head on one hidden state, trained with the model: labelled texts as a stream, the head's loss as an objective.

Masked models are read at their first token (``[CLS]``; there is no pooler in a language model's checkpoint), causal ones at the last token
of the text.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.models.hidden_sites import hidden_site, states_of
from fairforget.models.model import Model
from fairforget.scoring.planning import batches_by_length
from fairforget.scoring.scorer import CPU_BUDGET, CPU_FORWARD_COST, GPU_BUDGET, GPU_FORWARD_COST
from fairforget.training.objective import Batch, Objective, Role
from fairforget.training.streams import Collator, Row

DROPOUT = 0.1
"""Dropout before the head, as in BERT's classifiers (Devlin et al. 2019)."""
HEAD_DEVIATION = 0.02
"""Standard deviation of the head's first weights, as of BERT's."""


class LabelledStream:
    """One or two texts a row as token ids, with the row's number.

    Pairs are joined as the tokenizer of a masked model joins them, with its token types; for a causal model a line break stands between.
    Where a row is too long the longer text loses its last tokens first.

    Args:
        model: whose tokenizer and family decide the ids.
        texts: one or two texts a row.
        max_length: tokens of an input, special tokens or prefix included.

    Raises:
        UsageError: the tokenizer of a masked model does not mark where a pair begins.
    """

    def __init__(self, model: Model, texts: Sequence[Sequence[str]], *, max_length: int = 128) -> None:
        limit = min(max_length, model.max_length)
        make = _causal_row if model.family == "causal" else _masked_row
        self.rows: list[Row] = [make(model, row, limit) for row in texts]

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """``ids``, ``row`` (the number) and, where the tokenizer has them, ``type_ids``; every visit is the same."""
        del visit
        index %= len(self.rows)
        return {**self.rows[index], "row": [index]}


def _masked_row(model: Model, texts: Sequence[str], limit: int) -> Row:
    tokenizer: Any = model.tokenizer
    made = tokenizer(*texts, truncation="longest_first", max_length=limit, verbose=False)
    ids = list(made["input_ids"])
    first = tokenizer.cls_token_id
    if not ids or (first is not None and ids[0] != first):
        raise UsageError(f"The tokenizer of {model.name} has no template for a pair of texts, with its first token before both.")
    row: Row = {"ids": ids}
    if "token_type_ids" in made:
        row["type_ids"] = list(made["token_type_ids"])
    return row


def _causal_row(model: Model, texts: Sequence[str], limit: int) -> Row:
    first, second = model.join_ids(texts[0], f"\n{texts[1]}") if len(texts) > 1 else (model.token_ids(texts[0]), [])
    over = len(model.prefix) + len(first) + len(second) - limit
    for _ in range(over):
        longer = first if len(first) >= len(second) else second
        longer.pop()
    ids = [*model.prefix, *first, *second]
    return {"ids": ids or [model.pad_id]}  # a blank text without a prefix still needs a place to be read at


class HeadObjective(Objective):
    """Cross-entropy of a softmax head, or squared error of a head with one output, over rows.

    Args:
        labels: class (0, 1 ...) or score of each row of the stream.
        classes: number of classes; 0 for scores.
        seed: of the head's first weights.
        stream: name of the :class:`LabelledStream`.
    """

    role: ClassVar[Role] = "retain"

    def __init__(self, labels: Sequence[float], classes: int, *, seed: int, stream: str = "labelled") -> None:
        super().__init__(1.0, stream)
        self.labels = torch.tensor(labels, dtype=torch.float32)
        self.classes, self.seed = classes, seed

    def prepare(self, model: Model) -> None:
        """Make the head; a regression starts at the mean score."""
        width = int(model.hf.config.get_text_config().hidden_size)
        linear = nn.Linear(width, max(1, self.classes))
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            linear.weight.normal_(0, HEAD_DEVIATION, generator=generator)
            linear.bias.fill_(0.0 if self.classes else float(self.labels.mean()))
        self.module = nn.Sequential(nn.Dropout(DROPOUT), linear).to(model.device)

    def count(self, batch: Batch) -> int:
        """Rows."""
        return len(batch["ids"])

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed loss of the rows: nats, or squared error."""
        outputs = self.outputs(model, batch)
        labels = self.labels.to(outputs.device)[batch["row"][:, 0]]
        if self.classes:
            return nn.functional.cross_entropy(outputs, labels.long(), reduction="sum")
        return nn.functional.mse_loss(outputs[:, 0], labels, reduction="sum")

    def outputs(self, model: Model, batch: Batch) -> Tensor:
        """Logits (rows, classes), or scores (rows, 1), in float32."""
        assert self.module is not None
        ids, mask = batch["ids"], batch["mask"]
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if model.family == "causal":
            arguments["use_cache"] = False
        body = hidden_site(model, "final")
        if "type_ids" in batch and "token_type_ids" in inspect.signature(body.forward).parameters:
            arguments["token_type_ids"] = batch["type_ids"] * mask  # padding is of the first type
        states = states_of(body(**arguments))
        places = mask.sum(dim=1) - 1 if model.family == "causal" else torch.zeros_like(mask[:, 0])
        return self.module(states[torch.arange(len(ids), device=states.device), places].float()).float()


def head_outputs(model: Model, objective: HeadObjective, stream: LabelledStream) -> Tensor:
    """What the trained head says of each row of a stream: (rows, outputs), float64 on the processor.

    Args:
        model: tuned with the head.
        objective: holds the head.
        stream: rows to be judged.
    """
    assert objective.module is not None
    on_cpu = model.device.type == "cpu"
    budget, cost = (CPU_BUDGET, CPU_FORWARD_COST) if on_cpu else (GPU_BUDGET, GPU_FORWARD_COST)
    collate = Collator(model.pad_id)
    found = torch.empty((len(stream), max(1, objective.classes)), dtype=torch.float64)
    model.hf.eval()
    objective.module.eval()
    with torch.inference_mode():
        for numbers in batches_by_length(range(len(stream)), [len(row["ids"]) for row in stream.rows], budget, cost):
            batch = collate.batch([stream.example(number, 0) for number in numbers])
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            found[list(numbers)] = objective.outputs(model, batch).double().cpu()
    return found
