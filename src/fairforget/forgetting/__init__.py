"""Forgetting: the ledger of audits, item by item, and every figure that is a function of it. Tables only; no torch."""

from fairforget.data.lm_eval_logs import items_from_lm_eval
from fairforget.forgetting.biased import BiasedForgetting, biased_forgetting
from fairforget.forgetting.continuous import continuous_forgetting, kl_divergence
from fairforget.forgetting.ledger import LEDGER_SCHEMA, Step, balance, build_ledger, summary
from fairforget.forgetting.order import EndState, OrderEffect, end_state, order_effect
from fairforget.forgetting.selective import (
    CompletionChange,
    OverallForgetting,
    completion_change,
    overall_forgetting,
    selective_forgetting,
    tokens_per_text,
)
from fairforget.forgetting.stages import chain_ledger, join_ledgers, span
from fairforget.forgetting.task_matrix import (
    Share,
    TaskMatrix,
    gain_normalised,
    gain_normalised_table,
    recovery,
    recovery_table,
    task_matrix,
)
from fairforget.forgetting.transfer import TransferRatio, mean_transfer, transfer_ratio, transfer_table
from fairforget.forgetting.transitions import (
    ChanceAdjusted,
    Transitions,
    chance_adjusted,
    harmon_adjusted,
    net_forgetting,
    transition_paths,
    transitions,
)

__all__ = [
    "LEDGER_SCHEMA",
    "BiasedForgetting",
    "ChanceAdjusted",
    "CompletionChange",
    "EndState",
    "OrderEffect",
    "OverallForgetting",
    "Share",
    "Step",
    "TaskMatrix",
    "TransferRatio",
    "Transitions",
    "balance",
    "biased_forgetting",
    "build_ledger",
    "chain_ledger",
    "chance_adjusted",
    "completion_change",
    "continuous_forgetting",
    "end_state",
    "gain_normalised",
    "gain_normalised_table",
    "harmon_adjusted",
    "items_from_lm_eval",
    "join_ledgers",
    "kl_divergence",
    "mean_transfer",
    "net_forgetting",
    "order_effect",
    "overall_forgetting",
    "recovery",
    "recovery_table",
    "selective_forgetting",
    "span",
    "summary",
    "task_matrix",
    "tokens_per_text",
    "transfer_ratio",
    "transfer_table",
    "transition_paths",
    "transitions",
]
