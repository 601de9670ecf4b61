"""Edits in files: what is saved comes back, and what is damaged is refused with a sentence."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fairforget.edits import EDIT_FILE, EDIT_RECORD, Dense, EditRecord, LowRank, WeightEdit
from fairforget.errors import DataError, FairforgetError, UsageError


@pytest.mark.parametrize("kind", ["make_low_rank", "make_dense"])
def test_round_trip(kind, model, request, tmp_path, logits):
    edit = request.getfixturevalue(kind)(model).at(0.1 + 0.2)
    edit.save(tmp_path / "edit")
    assert sorted(path.name for path in (tmp_path / "edit").iterdir()) == [EDIT_RECORD, EDIT_FILE]
    again = WeightEdit.load(tmp_path / "edit")
    assert again.state_fragment() == edit.state_fragment()
    assert again.record == edit.record
    with edit.applied(model):
        expected = logits(model)
    with again.applied(model):
        assert torch.equal(logits(model), expected)
    again.save(tmp_path / "edit")  # over the file it is mapped from
    assert WeightEdit.load(tmp_path / "edit" / EDIT_FILE).content_hash == edit.content_hash


def test_mixed_types_shared_and_strided_tensors(make_model, tmp_path):
    record = EditRecord.for_model(make_model("llama"), "test", provenance={"texts": ["a", 1, None]})
    shared = torch.randn(2, 4)
    edit = WeightEdit(
        {
            "a.weight": LowRank(shared, torch.randn(2, 3).T.bfloat16(), 0.1),
            "b.weight": LowRank(shared, torch.randn(3, 2)),
            "c": Dense(torch.randn(3, 2).T),
        },
        record,
    )
    edit.save(tmp_path)
    again = WeightEdit.load(tmp_path)
    assert again.content_hash == edit.content_hash
    assert again.deltas["a.weight"].B.dtype == torch.bfloat16
    assert again.deltas["a.weight"].scale == 0.1
    assert again.record.provenance == {"texts": ["a", 1, None]}


def test_record_is_readable_without_torch_and_says_what_it_belongs_to(make_model, make_low_rank, tmp_path):
    model = make_model("llama")
    make_low_rank(model).save(tmp_path)
    record = json.loads((tmp_path / EDIT_RECORD).read_text())
    assert record["record"]["base_hash"] == model.base_hash
    assert record["record"]["base_dtype"] == "float32"
    with safe_open(tmp_path / EDIT_FILE, "np") as file:
        assert json.loads(file.metadata()["record"]) == record["record"]


def test_other_files_in_the_folder_stay(make_model, make_low_rank, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    make_low_rank(make_model("llama")).save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.999])
def test_truncated_file_is_refused(share, make_model, make_low_rank, tmp_path):
    make_low_rank(make_model("llama")).save(tmp_path)
    path = tmp_path / EDIT_FILE
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="damaged or cut short"):
        WeightEdit.load(tmp_path)


def test_flipped_bit_is_refused(make_model, make_low_rank, tmp_path):
    make_low_rank(make_model("llama")).save(tmp_path)
    path = tmp_path / EDIT_FILE
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="changed after it was written"):
        WeightEdit.load(tmp_path)


def test_what_is_no_edit_is_refused(make_model, make_low_rank, tmp_path):
    with pytest.raises(UsageError, match="There is no edit"):
        WeightEdit.load(tmp_path)
    (tmp_path / "edit.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UsageError, match="never from pickles"):
        WeightEdit.load(tmp_path / "edit.bin")
    save_file({"x": torch.zeros(1)}, tmp_path / EDIT_FILE)
    with pytest.raises(DataError, match="not one that fairforget wrote"):
        WeightEdit.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("kind", "runtime", "of kind 'runtime'"),
        ("fairforget_edit", "99", "update fairforget"),
        ("record", "{}", "header"),
        ("strength", "strong", "header"),
        ("scales", "{}", "not a whole edit"),
    ],
)
def test_wrong_header_is_refused(field, value, sentence, make_model, make_low_rank, tmp_path):
    make_low_rank(make_model("llama")).save(tmp_path)
    path = tmp_path / EDIT_FILE
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()}, path, metadata={**metadata, field: value})
    with pytest.raises(DataError, match=sentence):
        WeightEdit.load(tmp_path)


def test_full_disk_is_a_sentence_and_the_old_edit_stays(make_model, make_low_rank, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    old = make_low_rank(make_model("llama"))
    old.save(tmp_path)

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("fairforget.edits.storage.save_file", full)
    with pytest.raises(FairforgetError, match="no space left"):
        make_low_rank(make_model("llama"), seed=1).save(tmp_path)
    assert WeightEdit.load(tmp_path).content_hash == old.content_hash
    assert sorted(path.name for path in tmp_path.iterdir()) == [EDIT_RECORD, EDIT_FILE]
