"""Changes of a model with a strength dial: put on and taken off exactly, saved, merged, combined and exported."""

from fairforget.edits.base import Edit, EditRecord
from fairforget.edits.combine import add, combine, inner_product, project
from fairforget.edits.deltas import Delta, Dense, LowRank
from fairforget.edits.export_peft import export_peft
from fairforget.edits.from_training import copy_parameters, difference, from_lora, restore_parameters
from fairforget.edits.merge import merged, merged_tensors, undo
from fairforget.edits.storage import EDIT_FILE, EDIT_RECORD
from fairforget.edits.weight_edit import WeightEdit

__all__ = [
    "EDIT_FILE",
    "EDIT_RECORD",
    "Delta",
    "Dense",
    "Edit",
    "EditRecord",
    "LowRank",
    "WeightEdit",
    "add",
    "combine",
    "copy_parameters",
    "difference",
    "export_peft",
    "from_lora",
    "inner_product",
    "merged",
    "merged_tensors",
    "project",
    "restore_parameters",
    "undo",
]
