"""Tables in files, and the user's own data, with sentences for what is wrong."""

import gzip
import json
import subprocess
import sys
import types

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairforget.data.rows import read_rows
from fairforget.data.user_files import load_user_rows
from fairforget.errors import DataError, UsageError

ROWS = [{"post": 'first, with "quotes"\nand a line', "about": "north"}, {"post": "second — ünïcode", "about": "south"}]


def write(path, rows):
    frame = pl.DataFrame(rows)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.write_parquet(path)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(frame.write_csv(separator="\t" if name.endswith(".tsv") else ","), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz", "A.CSV"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    expected = [{"text": row["post"], "group": row["about"]} for row in ROWS]
    assert load_user_rows(str(path), {"text": "post", "group": "about"}) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_jsonl_gives_back_any_text(tmp_path, rows):
    path = write(tmp_path / "a.jsonl", [{"post": row} for row in rows])
    assert [row["text"] for row in load_user_rows(path, {"text": "post"})] == rows


def test_lists_and_numbers_become_tuples_and_strings(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"post": "x", "about": ["north", None, "old"], "n": 3}])
    [row] = load_user_rows(path, {"text": "post", "group": "about", "cluster": "n"})
    assert row == {"text": "x", "group": ("north", "old"), "cluster": "3"}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffpost,about\nx,y\n".encode())
    assert load_user_rows(path, {"text": "post"}) == [{"text": "x"}]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_missing_column_is_named_with_the_nearest(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    with pytest.raises(DataError, match=r"has no column 'posts': did you mean post\?"):
        load_user_rows(path, {"text": "posts"})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"\n \n" if name == "a.jsonl" else b"")
    with pytest.raises(DataError, match="is empty"):
        load_user_rows(path, {"text": "post"})


def test_a_header_alone_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("post,about\n")
    with pytest.raises(DataError, match="a header but no rows"):
        load_user_rows(tmp_path / "a.csv", {"text": "post"})


def test_a_blank_value_is_refused_with_its_row_unless_it_may_be_blank(tmp_path):
    path = write(tmp_path / "a.csv", [{"post": "x", "about": "y"}, {"post": "z", "about": " "}])
    with pytest.raises(DataError, match=r"a\.csv row 2: the column 'about' \(used as group\) is blank"):
        load_user_rows(path, {"text": "post", "group": "about"})
    assert load_user_rows(path, {"text": "post", "group": "about"}, may_be_blank=("group",))[1]["group"].strip() == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"post": "x"}\n{"post": "secret\n', "line 2 is not JSON"),
        ("a.jsonl", b'["x"]\n', "line 1 is not an object"),
        ("a.csv", b"post\n\xff\xfe\n", "not UTF-8 text"),
        ("a.csv", b"post\nsecret,b,c,d\n", "cannot be read as CSV"),
        ("a.parquet", b"PAR1 and then nothing of the kind", "cannot be read as PARQUET"),
        ("a.csv.gz", gzip.compress(b"post\nsecret\n" * 99, mtime=0)[:40], "cut off or damaged"),
        ("a.csv.gz", b"post\nsecret\n", "cut off or damaged"),
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as raised:
        read_rows(tmp_path / name, ["post"])
    assert "secret" not in str(raised.value)


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        load_user_rows(tmp_path / "no.csv", {"text": "post"})
    with pytest.raises(UsageError, match=r"no format that can be read: known are \.csv"):
        load_user_rows(tmp_path / "a.xlsx", {"text": "post"})


def test_without_the_datasets_package_an_id_is_refused_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs the package datasets: pip install 'fairforget\[datasets\]'"):
        load_user_rows("datasets:owner/name", {"text": "post"})


class Loaded:
    """What of `datasets.Dataset` is used."""

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(ROWS[0])

    def __len__(self):
        return len(self.rows)

    def select_columns(self, names):
        return [{name: row[name] for name in names} for row in self.rows]


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the `datasets` package; returns the calls made."""
    calls = []

    def load_dataset(name, config, *, split):
        calls.append((name, config, split))
        if name == "owner/gone":
            raise FileNotFoundError("Dataset 'owner/gone' doesn't exist on the Hub\nmore lines")
        return Loaded([] if split == "none" else ROWS)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_a_datasets_id_is_loaded_with_split_and_configuration(hub):
    rows = load_user_rows("datasets:owner/name", {"text": "post"}, split="validation", config="small")
    assert rows == [{"text": row["post"]} for row in ROWS]
    assert hub == [("owner/name", "small", "validation")]


def test_what_is_wrong_with_a_datasets_id_is_said(hub):
    with pytest.raises(DataError, match=r"'datasets:owner/gone' .* cannot be loaded: Dataset 'owner/gone' doesn't exist on the Hub$"):
        load_user_rows("datasets:owner/gone", {"text": "post"})
    with pytest.raises(DataError, match=r"has no column 'poste': did you mean post\?"):
        load_user_rows("datasets:owner/name", {"text": "poste"})
    with pytest.raises(DataError, match="split none has no rows"):
        load_user_rows("datasets:owner/name", {"text": "post"}, split="none")


def test_nothing_heavy_is_imported_with_the_catalogue_and_the_loaders():
    code = "import sys, fairforget.data.training; print({'datasets', 'torch', 'polars', 'pooch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
