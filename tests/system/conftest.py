"""What the system tests share: a server of commands, tiny models on disk, and one finished run."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from command_server import Command, CommandServer
from tiny import tiny_model

from fairforget.data.starter import load_starter

QUICK = ("--set", "method.steps=10", "--set", "method.batch_size=4", "--set", "resamples=1000", "--set", "search.bisections=2")
"""A run that takes seconds."""
EDITED = (*QUICK, "--set", "method.learning_rate=0.3", "--set", "method.targets=all-linear", "--budget", "perplexity=900%")
"""One that finds a strength above 0 on the biased model: it breaks what little the model knows, at a price that is allowed here."""


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Starts commands that share one cache."""
    folder = tmp_path_factory.mktemp("commands")
    server = CommandServer(folder / "output", {"FAIRFORGET_CACHE": str(folder / "cache"), "FAIRFORGET_DEBUG": "", "HF_HUB_OFFLINE": "1"})
    yield server
    server.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with tiny models: ``llama`` (taught to prefer the stereotypes of the starter pairs), ``gpt2`` and ``bert``."""
    folder = tmp_path_factory.mktemp("models")
    biased = tiny_model("llama")
    teach_bias(biased)
    biased.save(folder / "llama")
    for kind in ("gpt2", "bert"):
        tiny_model(kind).save(folder / kind)
    return folder


def teach_bias(model, steps=60, batch=16, learning_rate=5e-3):
    """Raise the likelihood of stereotypes over that of their counterparts; a random model has no bias to take away."""
    pairs = load_starter().pairs
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.hf.parameters(), lr=learning_rate)
    for _ in range(steps):
        chosen = [pairs[place] for place in torch.randperm(len(pairs), generator=generator)[:batch].tolist()]
        texts = [*(pair.stereotype for pair in chosen), *(pair.anti for pair in chosen)]
        rows = [[model.prefix_id, *model.token_ids(text)] for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        logits = model.hf(input_ids=ids, attention_mask=mask).logits[:, :-1]
        scores = (torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum(1)
        loss = -torch.nn.functional.logsigmoid(scores[:batch] - scores[batch:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.hf.eval()


@dataclass(frozen=True)
class FinishedRun:
    """A debiasing run that went through, and what it printed."""

    command: Command
    arguments: tuple[str, ...]
    cwd: Path
    folder: Path


@pytest.fixture(scope="session")
def finished(commands, models, tmp_path_factory) -> FinishedRun:
    """``fairforget debias ./llama`` with few steps, in an empty folder; tests only read it."""
    cwd = tmp_path_factory.mktemp("work")
    shutil.copytree(models / "llama", cwd / "llama")
    arguments = ("debias", "./llama", *EDITED)
    command = commands.run(*arguments, cwd=cwd)
    assert command.code == 0, command.stderr
    return FinishedRun(command, arguments, cwd, cwd / "runs" / "llama-task-vector")
