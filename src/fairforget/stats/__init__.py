"""Statistics on tables: intervals, paired tests, multiplicity, and the target of the strength search. NumPy and SciPy only."""

from fairforget.stats.bootstrap import Components, Interval, Statistic, cluster_bootstrap, linearise, paired_bootstrap, simultaneous
from fairforget.stats.contrasts import GuardedRatio, guarded_ratio, independent_difference
from fairforget.stats.dispersion import Dispersion, dispersion
from fairforget.stats.linearised import Linearised
from fairforget.stats.multiplicity import benjamini_hochberg, holm
from fairforget.stats.over_seeds import SeededInterval, over_seeds, with_seeds
from fairforget.stats.paired import Equivalence, McNemar, SignFlipTest, mcnemar, sign_flip_permutation, tost
from fairforget.stats.target import DomainMargin, RmsTarget, domain_rms

__all__ = [
    "Components",
    "Dispersion",
    "DomainMargin",
    "Equivalence",
    "GuardedRatio",
    "Interval",
    "Linearised",
    "McNemar",
    "RmsTarget",
    "SeededInterval",
    "SignFlipTest",
    "Statistic",
    "benjamini_hochberg",
    "cluster_bootstrap",
    "dispersion",
    "domain_rms",
    "guarded_ratio",
    "holm",
    "independent_difference",
    "linearise",
    "mcnemar",
    "over_seeds",
    "paired_bootstrap",
    "sign_flip_permutation",
    "simultaneous",
    "tost",
    "with_seeds",
]
