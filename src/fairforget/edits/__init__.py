"""Changes of a model with a strength dial: put on and taken off exactly, saved, merged, combined and exported."""

from fairforget.edits.arithmetic import arithmetic, average, dare, ties
from fairforget.edits.base import Edit, EditRecord
from fairforget.edits.combine import add, combine, inner_product, project
from fairforget.edits.deltas import Delta, Dense, LowRank
from fairforget.edits.export_peft import export_peft
from fairforget.edits.from_ia3 import from_ia3
from fairforget.edits.from_training import copy_parameters, difference, from_lora, restore_parameters
from fairforget.edits.loading import load_edit
from fairforget.edits.merge import merged, merged_tensors, undo
from fairforget.edits.projection import ProjectionEdit
from fairforget.edits.runtime_edit import RuntimeEdit
from fairforget.edits.self_debias import SelfDebiasEdit
from fairforget.edits.sharded import ShardedModel, is_sharded
from fairforget.edits.storage import EDIT_FILE, EDIT_RECORD
from fairforget.edits.streamed import stream_merged, stream_undone
from fairforget.edits.weight_edit import WeightEdit

__all__ = [
    "EDIT_FILE",
    "EDIT_RECORD",
    "Delta",
    "Dense",
    "Edit",
    "EditRecord",
    "LowRank",
    "ProjectionEdit",
    "RuntimeEdit",
    "SelfDebiasEdit",
    "ShardedModel",
    "WeightEdit",
    "add",
    "arithmetic",
    "average",
    "combine",
    "copy_parameters",
    "dare",
    "difference",
    "export_peft",
    "from_ia3",
    "from_lora",
    "inner_product",
    "is_sharded",
    "load_edit",
    "merged",
    "merged_tensors",
    "project",
    "restore_parameters",
    "stream_merged",
    "stream_undone",
    "ties",
    "undo",
]
