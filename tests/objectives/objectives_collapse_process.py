"""Runs the (U)NC3 term in two processes of a gloo group, half of the rows in each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

MEANS = "means"


def run_two_processes(folder: Path, texts: list[str], words: list[int]) -> dict[str, Tensor]:
    """Averaged gradients by name, and the running means, as the first process has them."""
    out = folder / "found.pt"
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder / "group"), str(out), repr(texts), repr(words)])
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return torch.load(out, weights_only=True)


def main() -> None:
    """One of the two."""
    import ast

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tiny import tiny_model

    from fairforget.objectives import Collapse
    from fairforget.training.streams import Collator

    rank, group, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    texts, words = (ast.literal_eval(text) for text in sys.argv[4:6])
    torch.distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    model = tiny_model("llama")
    objective = Collapse(words, 1.0, gradient="both")
    objective.prepare(model)
    rows = [{"ids": [*model.prefix, *model.sequence_ids(text)]} for text in texts[rank::2]]
    with objective.step(model):
        # as the trainer: each term is divided by the count over all processes, and gradients are averaged
        (objective.sum(model, Collator(model.pad_id).batch(rows)) / 2 * 2).backward()
    found = {name: parameter.grad for name, parameter in model.hf.named_parameters() if parameter.grad is not None}
    for gradient in found.values():
        torch.distributed.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save({**found, MEANS: objective.means}, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
