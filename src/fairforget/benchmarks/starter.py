"""The starter set: mild minimal pairs that ship with this package, for a first look and for offline tests."""

from __future__ import annotations

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._pairs import PairBenchmark


class Starter(PairBenchmark):
    """Share of starter pairs whose stereotypical sentence scores higher, and the mean signed margin, overall, by domain and by group.

    A pair counts for both of the groups it names, since only the pairs on either side of a group are balanced for how common its words
    are. Clusters are templates, strata are domains.
    """

    name = "starter"
    description = "Starter set of this package: mild pairs on gender, nationality, religion, age and disability; for a first look only."
    caution = "starter set: for a first look, not for claims about a model"

    def items(self, family: str, part: str) -> list[Item]:
        """Pairs of one part."""
        del family
        from fairforget.data.starter import load_starter

        return [
            Item(
                id=pair.id,
                task="starter",
                role="bias",
                part=part,
                cluster=pair.template,
                stratum=pair.domain,
                groups=(pair.domain, *pair.groups),
                texts=(pair.stereotype, pair.anti),
            )
            for pair in load_starter().pairs
            if part in ("all", pair.part)
        ]
