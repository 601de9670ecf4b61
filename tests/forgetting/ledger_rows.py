"""Ledgers made by hand for the tests of figures over them."""

import numpy as np

from fairforget.forgetting import Step, build_ledger
from fairforget.tables import item_table


def row(item, *, role="ability", task="quiz", cluster=None, stratum="s", groups=(), texts=("one", "two", "three", "four"), **figures):
    return {
        "benchmark": "toy", "protocol": "sum", "task": task, "role": role, "part": "test", "item": str(item),
        "cluster": cluster or f"c{item}", "stratum": stratum, "groups": list(groups), "texts": list(texts), "prefix": "id 0",
        "prompt_format": "plain", **figures,
    }


def choices(before, after, *, groups=None, cluster=None, stratum=None, step=None, task="quiz", figure="correct", **options):
    """A ledger of items that were right or wrong before and after, in order."""
    count = len(before)
    places = [
        {
            "task": task, "groups": groups[i] if groups is not None else (), "cluster": None if cluster is None else str(cluster[i]),
            "stratum": "s" if stratum is None else str(stratum[i]),
        }
        for i in range(count)
    ]
    tables = [
        item_table([row(i, **places[i], **{figure: float(values[i])}) for i in range(count)]) for values in (before, after)
    ]
    return build_ledger(*tables, step=step or Step(), **options)


def counted(kept, lost, gained, never, **more):
    """A ledger with so many items of each transition."""
    codes = [(1, 1)] * kept + [(1, 0)] * lost + [(0, 1)] * gained + [(0, 0)] * never
    return choices([code[0] for code in codes], [code[1] for code in codes], **more)


def by_group(sizes, right_before, right_after):
    """A ledger of groups x, y, z ... with so many items, right before and right after."""
    before, after, groups = [], [], []
    for name, size, first, second in zip("xyzuvw", sizes, right_before, right_after, strict=False):
        before += [float(i < first) for i in range(size)]
        after += [float(i < second) for i in range(size)]
        groups += [[name]] * size
    return choices(before, after, groups=groups)


def windows(nll_before, nll_after, tokens, *, groups=None, cluster=None, task="corpus", kl=None):
    """A ledger of corpus windows."""
    tables = [
        item_table([
            row(i, task=task, texts=(), groups=groups[i] if groups is not None else (), nll=float(values[i]), tokens=int(tokens[i]),
                cluster=None if cluster is None else str(cluster[i]))
            for i in range(len(tokens))
        ])
        for values in (nll_before, nll_after)
    ]
    drift = None if kl is None else tables[0].select("benchmark", "task", "item").with_columns(kl=np.asarray(kl, dtype=float))
    return build_ledger(*tables, drift=drift)


def pairs(before, after, *, groups=None, task="pairs"):
    """A ledger of bias items with scores of two or three texts."""
    tables = [
        item_table([
            row(i, role="bias", task=task, texts=[f"t{j}" for j in range(len(scores[i]))], groups=groups[i] if groups is not None else (),
                scores=list(scores[i]), margin=scores[i][0] - scores[i][1], prefers_stereotype=float(scores[i][0] > scores[i][1]))
            for i in range(len(scores))
        ])
        for scores in (before, after)
    ]
    return build_ledger(*tables)
