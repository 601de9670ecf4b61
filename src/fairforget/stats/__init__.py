"""Statistics on tables: intervals, paired tests, multiplicity, and the target of the strength search. NumPy and SciPy only."""

from fairforget.stats.bootstrap import Components, Interval, Statistic, cluster_bootstrap, paired_bootstrap, simultaneous
from fairforget.stats.multiplicity import benjamini_hochberg, holm
from fairforget.stats.paired import Equivalence, McNemar, SignFlipTest, mcnemar, sign_flip_permutation, tost
from fairforget.stats.target import DomainMargin, RmsTarget, domain_rms

__all__ = [
    "Components",
    "DomainMargin",
    "Equivalence",
    "Interval",
    "McNemar",
    "RmsTarget",
    "SignFlipTest",
    "Statistic",
    "benjamini_hochberg",
    "cluster_bootstrap",
    "domain_rms",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "sign_flip_permutation",
    "simultaneous",
    "tost",
]
