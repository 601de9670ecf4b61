"""Write a tiny random model, for trying commands in seconds: ``python tests/make_tiny_model.py llama runs/tiny``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny import tiny_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["llama", "gpt2", "bert", "roberta"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tiny_model(arguments.kind, arguments.seed).save(arguments.folder)


if __name__ == "__main__":
    main()
