"""How much do finders of harmful words agree, and one finder with itself under other seeds? Finders of mlm-unlearning.

python recipes/forget/span_agreement.py minilm-mlm --texts 200

Jaccard index over characters: marked by both over marked by either. EDOS contains sexist text; none of it is printed.
"""

from __future__ import annotations

import argparse

import fairforget as ff
from fairforget.data.training import TrainingSource, training_source
from fairforget.methods import MlmUnlearning
from fairforget.methods._spans import Span, random_spans, span_jaccard

FINDERS = {"lexicon": (0,), "attribution": (0, 1, 2), "contrast": (0, 1, 2)}
"""Seeds of each finder; the lexicon has nothing to draw."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--texts", type=int, default=200, help="posts of EDOS's train part, the first ones")
    arguments = parser.parse_args()
    model = ff.load(arguments.model)
    whole = training_source("edos")  # by its name the finders look for posts without harm
    source = TrainingSource(whole.name, whole.texts[: arguments.texts], whole.provenance)
    texts = [row.text for row in source.texts]
    found: dict[str, list[list[Span]]] = {}
    for finder, seeds in FINDERS.items():
        for seed in seeds:
            name = f"{finder}, seed {seed}" if len(seeds) > 1 else finder
            found[name] = MlmUnlearning(finder=finder).harmful_spans(model, source, seed=seed)
    found["as many random words"] = random_spans(texts, found["lexicon"], 0)
    print("| | " + " | ".join(found) + " |")
    print("|" + " --- |" * (len(found) + 1))
    for name, spans in found.items():
        print(f"| {name} | " + " | ".join(f"{span_jaccard(spans, others):.2f}" for others in found.values()) + " |")


if __name__ == "__main__":
    main()
