"""Runs ``fairforget`` commands as processes of their own that start in a moment.

Importing torch and transformers takes seconds, and a system test starts dozens of commands. So one server process imports them once and
forks a child for each command: a real process with its own signals, working folder and environment, that can be killed at any time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

DEADLINE = 300.0


@dataclass
class Command:
    """A command that runs or has run."""

    server: CommandServer
    pid: int
    stdout_file: Path
    stderr_file: Path
    code: int | None = None
    """Exit code; minus the signal's number when one ended it; None while it runs."""

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid})["code"]
        return self.code

    def wait(self) -> int:
        end = time.monotonic() + DEADLINE
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"the command did not end:\n{self.stderr}")
            time.sleep(0.01)
        assert self.code is not None
        return self.code

    def wait_for(self, text: str) -> bool:
        """Wait until it has said something on stderr; False if it ended before."""
        while text not in self.stderr:
            if self.poll() is not None:
                return text in self.stderr
            time.sleep(0.005)
        return True

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@dataclass
class CommandServer:
    """Starts commands.

    Args:
        folder: for what the commands print.
        environment: on top of this process's.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", **self.environment},
        )

    def ask(self, question: dict) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> Command:
        self.count += 1
        files = [self.folder / f"{self.count}.{name}" for name in ("out", "err")]
        for file in files:
            file.touch()
        question = {"arguments": [str(argument) for argument in arguments], "cwd": str(cwd), "environment": environment or {}}
        pid = self.ask({**question, "stdout": str(files[0]), "stderr": str(files[1])})["pid"]
        return Command(self, pid, *files)

    def run(self, *arguments: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> Command:
        command = self.start(*arguments, cwd=cwd, environment=environment)
        command.wait()
        return command

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=30)


def _child(question: dict) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(question[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(question["environment"])
    os.chdir(question["cwd"])
    sys.argv = ["fairforget", *question["arguments"]]
    from fairforget.cli import main

    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    from fairforget.cli import prepare_environment

    prepare_environment()
    import altair as alt
    import jinja2
    import peft
    import scipy.stats
    import transformers.models.bert.modeling_bert
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.llama.modeling_llama
    import transformers.trainer

    import fairforget.cli.application
    import fairforget.methods.task_vector
    import fairforget.workflows.compare
    import fairforget.workflows.debias
    import fairforget.workflows.doctor

    del alt, jinja2, peft, scipy, transformers, fairforget
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may be printed where the answers go
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                os.close(channel.fileno())
                try:
                    _child(question)
                finally:
                    os._exit(99)
            answer = {"pid": pid}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    _serve()
