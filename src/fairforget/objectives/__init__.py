"""Differentiable terms of a training loss, one file per family; methods are compositions of them."""

from fairforget.objectives.drift import HiddenMatch, KLToBase, kl_divergence
from fairforget.objectives.elastic import ElasticWeightConsolidation, L2ToBase
from fairforget.objectives.likelihood import CrossEntropy, token_log_probabilities

__all__ = ["CrossEntropy", "ElasticWeightConsolidation", "HiddenMatch", "KLToBase", "L2ToBase", "kl_divergence", "token_log_probabilities"]
