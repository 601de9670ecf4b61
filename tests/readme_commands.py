"""Run every command and Python example of README.md with a smoke preset: a tiny random model, few steps, short text.

Each has 60 seconds (``SMOKE_SECONDS`` for a busy machine). Commands that use a run's folder run in the order of the page, in a folder of
their own, so that one may use what an earlier one wrote; the others run beside them, and what clears the cache runs last.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = float(os.environ.get("SMOKE_SECONDS", "60"))
STAND_INS = {"smollm2-135m": "tiny-causal", "./my-model": "tiny-causal", "minilm-mlm": "tiny-masked"}
SMALL_BENCHMARKS = {"stereoset": "stereoset:intrasentence", "perplexity": "perplexity:starter"}
SMOKE_SETTINGS = (
    "method.steps=2", "method.batch_size=4", "method.max_length=32", "search.bisections=1", "search.points=2", "resamples=200",
)


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The ``fairforget`` commands of a page, words split, continued lines joined."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [command for command in words if command[:1] == ["fairforget"]]


def smoke(command: list[str]) -> list[str]:
    """The same command in small."""
    words = [STAND_INS.get(word, word) for word in command]
    for place in (place for place, word in enumerate(words) if words[place - 1] == "--benchmarks"):
        words[place] = ",".join(SMALL_BENCHMARKS.get(name, name) for name in words[place].split(","))
    if words[1] == "debias":
        if "tiny-causal" not in words and "tiny-masked" not in words:
            words.insert(2, "tiny-causal")
        if "--recipe" in words:
            words += ["--benchmarks", ",".join(["crows-pairs", *SMALL_BENCHMARKS.values()])]
        words += [part for setting in SMOKE_SETTINGS for part in ("--set", setting)]
    if words[1] in ("audit", "compare"):
        words += ["--resamples", "200"]
    return words


def smoke_python(example: str) -> str:
    """The same example in small."""
    for name, stand_in in STAND_INS.items():
        example = example.replace(f'"{name}"', f'"{stand_in}"')
    small = "method={'name': 'task-vector', 'steps': 2, 'batch_size': 4}, resamples=200, search={'bisections': 1, 'points': 2}"
    for name, smaller in SMALL_BENCHMARKS.items():
        example = re.sub(rf'(benchmarks=\[[^]]*)"{name}"', rf'\1"{smaller}"', example)
    return example.replace("TaskVector(", "TaskVector(steps=2, batch_size=4, ").replace("ff.debias(model,", f"ff.debias(model, {small},")


def run(words: list[str], folder: Path, shown: str) -> bool:
    """Run one command and say how it went; its output only where it failed."""
    start = time.monotonic()
    try:
        result = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
        code, output = result.returncode, result.stdout + result.stderr
    except subprocess.TimeoutExpired as error:
        parts = [part for part in (error.stdout, error.stderr) if part]
        code, output = f"over {LIMIT_SECONDS:g} s", "".join(part.decode() if isinstance(part, bytes) else part for part in parts)
    print(f"{'ok ' if code == 0 else 'NOT'} {time.monotonic() - start:5.1f} s  {shown}", flush=True)
    if code != 0:
        print(f"    exit {code}\n" + "\n".join(f"    {line}" for line in output.splitlines()[-25:]), flush=True)
    return code == 0


def main() -> int:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted, examples = commands(page), blocks(page, "python")
    binary = Path(sys.executable).parent
    os.environ["PATH"] = f"{binary}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ.setdefault("FAIRFORGET_CACHE", str(folder / "cache"))
        (folder / "recipes").symlink_to(ROOT / "recipes")
        for kind, name in (("llama", "tiny-causal"), ("bert", "tiny-masked")):
            subprocess.run([sys.executable, ROOT / "tests" / "make_tiny_model.py", kind, folder / name], check=True, capture_output=True)
        in_order = [command for command in wanted if any("runs/" in word for word in command) or command[1] == "debias"]
        last = [command for command in wanted if command[1] == "cache"]
        beside = [command for command in wanted if command not in in_order and command not in last]

        def lane(some: list[list[str]]) -> list[bool]:
            return [run(smoke(command), folder, shlex.join(command)) for command in some]

        with ThreadPoolExecutor() as lanes:
            first, second = lanes.submit(lane, in_order), lanes.submit(lane, beside)
            outcomes = second.result()
            for number, example in enumerate(examples, start=1):
                outcomes.append(run([sys.executable, "-c", smoke_python(example)], folder, f"Python example {number}"))
            outcomes += first.result()
        outcomes += lane(last)
    print(f"{sum(outcomes)} of {len(outcomes)} commands of the README ran.")
    return 0 if outcomes and all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
