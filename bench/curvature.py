"""Seconds and memory of Lanczos against the number of vectors, beside the dense Hessian of the same loss.

What the figures mean and how they were taken: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fairforget.forgetting.hessian import Hessian
from fairforget.forgetting.lanczos import lanczos, random_vector
from fairforget.forgetting.row_loss import Loss, Part


def random_loss(width: int, layers: int, rows: int, length: int, scope: str) -> Loss:
    """Cross-entropy of a random Llama on random tokens."""
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, intermediate_size=2 * width,
        vocab_size=1000, max_position_embeddings=length, tie_word_embeddings=False,
    )).eval()
    texts = [torch.randint(0, 1000, (1, length)) for _ in range(rows)]
    parts = [Part(0, length - 1, lambda ids=ids: network(ids, labels=ids).loss * (length - 1)) for ids in texts]
    return Loss(network, parts, scope=scope)


def peak() -> float:
    """Highest resident size of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(options: argparse.Namespace) -> dict[str, float]:
    """One way of one size, in a process of its own; memory is what was added after the first product."""
    loss = random_loss(options.width, options.layers, options.rows, options.length, options.scope)
    hessian = Hessian(loss, options.product)
    start = random_vector(loss.zeros(), 0)
    hessian(start)
    before, began = peak(), time.process_time()
    if options.way == "dense":
        matrix = torch.stack([hessian(row) for row in torch.eye(loss.size)])
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()
        error = 0.0
        products = loss.size
    else:
        found = lanczos(hessian, start, vectors=options.vectors)
        values, error, products = found.values, float(max(found.errors[0], found.errors[-1])), found.products
    return {
        "parameters": loss.size, "products": products, "seconds": time.process_time() - began, "memory": peak() - before,
        "vectors": (peak() - before) * 2**20 / (4 * loss.size), "lowest": float(values[0]), "highest": float(values[-1]), "error": error,
    }


def run(arguments: list[str]) -> dict[str, float]:
    """A child with these options."""
    # freed memory goes back at once (glibc), so that the highest resident size is what is held
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Print tables; exit code 1 where Lanczos leaves the dense spectrum, or holds more than its vectors and ten more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--way", default="lanczos")
    parser.add_argument("--product", default="autograd")
    parser.add_argument("--scope", default="all")
    parser.add_argument("--vectors", type=int, default=30)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=32)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return 0
    failed = False
    small = ["--width", "32", "--layers", "1", "--rows", "4", "--length", "16", "--scope", "model.layers.0.self_attn.*"]
    dense = run(["--way", "dense", *small])
    radius = max(abs(dense["lowest"]), abs(dense["highest"]))
    print(f"{dense['parameters']} parameters, beside the dense Hessian\n")
    print("| way | products | processor (s) | λ_min | λ_max | ± residual |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    print(f"| dense | {dense['products']} | {dense['seconds']:.1f} | {dense['lowest']:.5f} | {dense['highest']:.5f} | |")
    for product in ("autograd", "finite-difference"):
        for vectors in (10, 30, 60):
            row = run(["--vectors", str(vectors), "--product", product, *small])
            print(f"| Lanczos, {product} | {vectors} | {row['seconds']:.2f} | {row['lowest']:.5f} | {row['highest']:.5f} | "
                  f"{row['error']:.1e} |")
            gap = max(abs(row["highest"] - dense["highest"]), abs(row["lowest"] - dense["lowest"]))
            failed |= vectors == 60 and not gap <= row["error"] + 1e-3 * radius
    sizes = {"width": options.width, "layers": options.layers, "rows": options.rows, "length": options.length}
    large = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    print("\n| vectors | parameters | processor (s) | a product (s) | added memory (MiB) | in vectors |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for vectors in (5, 15, 30, 60):
        row = run(["--vectors", str(vectors), *large])
        product = row["seconds"] / row["products"]
        print(f"| {vectors} | {row['parameters']:,} | {row['seconds']:.1f} | {product:.2f} | {row['memory']:.0f} | "
              f"{row['vectors']:.1f} |")
        failed |= row["vectors"] > vectors + 10
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} thread(s); failed: {failed}")
    return int(failed or not math.isfinite(radius))


if __name__ == "__main__":
    sys.exit(main())
