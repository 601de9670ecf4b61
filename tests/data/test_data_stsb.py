"""STS-B in upstream's form."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairforget.data.stsb import load_stsb
from fairforget.errors import DataError, UsageError


def test_every_part_has_its_rows(data_folder: Path) -> None:
    del data_folder
    assert [len(load_stsb(part)) for part in ("train", "select", "test")] == [5749, 1500, 1379]
    assert all(0 <= pair.score <= 5 for pair in load_stsb("train"))


def test_what_is_no_row_is_told(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text('"a, b",c,5.0\na,b,five\n', encoding="utf-8")
    with pytest.raises(DataError, match="row 2"):
        load_stsb("train", file)
    file.write_text('"a, b",c,5.0\n', encoding="utf-8")
    assert load_stsb("train", file)[0].first == "a, b"
    with pytest.raises(UsageError, match="part of STS-B"):
        load_stsb("dev", file)
