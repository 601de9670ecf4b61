"""The catalogue: what it says, and how files come out of a data folder, the cache and a download."""

import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fairforget.data import catalogue
from fairforget.data.catalogue import Dataset, DatasetFile, dataset_names, fetch, get, get_dataset, git_blob_id
from fairforget.errors import DataError, UsageError

CONTENT = b"name,number\nfirst,1\nsecond,2\n" * 50


class Server:
    """A local web server that counts what it was asked for."""

    def __init__(self):
        self.answers, self.asked = {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                status, length, body = server.answers.get(self.path, (404, 0, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def toy(monkeypatch, own_cache, server, tmp_path):
    """A catalogue of one dataset with one file, and an empty data folder that is not named yet."""
    file = DatasetFile(
        path="toy/deep/rows.csv", sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT), rows=100, source="a/b@c:rows.csv",
        url=server.address + "/rows.csv",
    )
    dataset = Dataset("toy", "a toy", "CC0-1.0", "Nobody (2020).", False, 100, "rows", (file,))
    monkeypatch.setattr(catalogue, "_catalogue", lambda: {"toy": dataset})
    monkeypatch.delenv("FAIRFORGET_DATA", raising=False)
    (tmp_path / "stored" / "toy" / "deep").mkdir(parents=True)
    return dataset


@pytest.fixture
def stored(toy, monkeypatch, tmp_path):
    """Path under a named data folder where the toy file belongs."""
    monkeypatch.setenv("FAIRFORGET_DATA", str(tmp_path / "stored"))
    return tmp_path / "stored" / "toy" / "deep" / "rows.csv"


def test_a_plain_stored_file_is_served_where_it_lies(stored, server):
    stored.write_bytes(CONTENT)
    assert fetch("toy", "deep/rows.csv") == stored
    assert server.asked == []


def test_a_stored_file_is_hashed_again_only_when_it_has_changed(stored, monkeypatch):
    stored.write_bytes(CONTENT)
    hashed = []
    monkeypatch.setattr(catalogue, "sha256_file", lambda path: hashed.append(path) or hashlib.sha256(path.read_bytes()).hexdigest())
    for _ in range(3):
        fetch("toy", "deep/rows.csv")
    assert hashed == [stored]
    stored.write_bytes(CONTENT + b"more")
    with pytest.raises(DataError, match="sha256 differs"):
        fetch("toy", "deep/rows.csv")


def test_a_gzipped_stored_file_is_unpacked_into_the_cache_once(stored, own_cache):
    packed = stored.with_name("rows.csv.gz")
    packed.write_bytes(gzip.compress(CONTENT))
    path = fetch("toy", "deep/rows.csv")
    assert path == own_cache / "data" / "toy" / "deep" / "rows.csv"
    assert path.read_bytes() == CONTENT
    packed.write_bytes(b"never read again")
    assert fetch("toy", "deep/rows.csv").read_bytes() == CONTENT


def test_stored_bytes_that_differ_are_refused_and_nothing_is_cached(stored, own_cache, server):
    stored.with_name("rows.csv.gz").write_bytes(gzip.compress(CONTENT[:-1] + b"x"))
    with pytest.raises(DataError, match=r"rows\.csv\.gz is not the file of the dataset 'toy'.*restore it"):
        fetch("toy", "deep/rows.csv")
    stored.write_bytes(b"other")
    with pytest.raises(DataError, match=r"rows\.csv is not the file"):
        fetch("toy", "deep/rows.csv")
    assert not [path for path in (own_cache / "data").rglob("*") if path.is_file()]
    assert server.asked == []


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:12], lambda data: b"no gzip at all"])
def test_a_truncated_or_damaged_gzip_is_refused(stored, own_cache, damage):
    stored.with_name("rows.csv.gz").write_bytes(damage(gzip.compress(CONTENT)))
    with pytest.raises(DataError, match="cut off or damaged"):
        fetch("toy", "deep/rows.csv")
    assert not list((own_cache / "data").rglob("rows.csv*"))


def test_a_download_is_checked_cached_and_not_repeated(toy, server, own_cache):
    server.answers["/rows.csv"] = (200, len(CONTENT), CONTENT)
    path = fetch("toy", "deep/rows.csv")
    assert path.read_bytes() == CONTENT
    assert own_cache in path.parents
    assert fetch("toy", "deep/rows.csv") == path
    assert server.asked == ["/rows.csv"]


def test_a_damaged_file_in_the_cache_is_made_again(toy, server):
    server.answers["/rows.csv"] = (200, len(CONTENT), CONTENT)
    fetch("toy", "deep/rows.csv").write_bytes(b"damaged")
    assert fetch("toy", "deep/rows.csv").read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "length", "body", "words"),
    [
        (200, len(CONTENT), CONTENT[:-1] + b"x", "sha256 differs"),
        (200, len(CONTENT), CONTENT[:40], "could not be downloaded"),
        (404, 0, b"", r"could not be downloaded \(HTTPError\).*FAIRFORGET_DATA"),
    ],
)
def test_a_wrong_cut_off_or_missing_download_is_refused(toy, server, own_cache, status, length, body, words):
    server.answers["/rows.csv"] = (status, length, body)
    with pytest.raises(DataError, match=words):
        fetch("toy", "deep/rows.csv")
    assert not list((own_cache / "data").rglob("*rows.csv*"))


def test_no_network_is_said_in_a_sentence(toy, server):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(DataError, match=r"could not be downloaded \(ConnectionError\): check the network"):
        fetch("toy", "deep/rows.csv")


def test_a_derived_file_is_never_downloaded(toy, monkeypatch, server):
    file = DatasetFile("toy/x.txt", "0" * 64, 1, 1, "a/b@c:many", url=None)
    monkeypatch.setattr(catalogue, "_catalogue", lambda: {"toy": Dataset("toy", "", "", "", False, 1, "rows", (file,))})
    with pytest.raises(DataError, match=r"derived from a/b@c:many and cannot be downloaded: set FAIRFORGET_DATA"):
        fetch("toy", "x.txt")
    assert server.asked == []


def test_the_upstream_of_a_rebuilt_file_is_accepted_by_its_git_blob(toy, monkeypatch, server, tmp_path):
    upstream = CONTENT + b"and more fields\n"
    (tmp_path / "upstream").write_bytes(upstream)
    file = DatasetFile(
        "toy/x.csv", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), 1, "a/b@c:many", server.address + "/x.csv",
        git_blob=git_blob_id(tmp_path / "upstream"),
    )
    monkeypatch.setattr(catalogue, "_catalogue", lambda: {"toy": Dataset("toy", "", "", "", False, 1, "rows", (file,))})
    server.answers["/x.csv"] = (200, len(upstream), upstream)
    assert fetch("toy", "x.csv").read_bytes() == upstream


def test_git_blob_ids_are_git_s(tmp_path):
    """As ``git hash-object`` prints for an empty file and for one line."""
    (tmp_path / "empty").touch()
    (tmp_path / "line").write_bytes(b"what is up, doc?")
    assert git_blob_id(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_blob_id(tmp_path / "line") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_get_puts_plain_stored_files_into_the_cache(stored, own_cache, monkeypatch):
    stored.write_bytes(CONTENT)
    [path] = get("toy")
    assert own_cache in path.parents
    monkeypatch.delenv("FAIRFORGET_DATA")
    assert fetch("toy", "deep/rows.csv") == path


def test_unknown_names_come_with_the_nearest(monkeypatch):
    with pytest.raises(UsageError, match="did you mean crows-pairs"):
        get_dataset("crowspairs")
    with pytest.raises(UsageError, match=r"no file of the dataset 'crows-pairs' named 'prompt\.csv': did you mean prompts\.csv"):
        fetch("crows-pairs", "prompt.csv")
    monkeypatch.setenv("FAIRFORGET_DATA", "/no/such/folder")
    with pytest.raises(UsageError, match="FAIRFORGET_DATA is set to /no/such/folder, which is not a folder"):
        fetch("crows-pairs", "prompts.csv")


def test_every_entry_is_complete():
    named = {"crows-pairs", "stereoset", "wikitext2", "edos", "hatecheck", "civil-comments", "word-lists", "lm-corpus-small", "eltec"}
    assert named <= set(dataset_names())
    paths = [file.path for name in dataset_names() for file in get_dataset(name).files]
    assert len(paths) == len(set(paths))
    for name in dataset_names():
        dataset = get_dataset(name)
        assert dataset.licence and dataset.citation and dataset.description and dataset.rows > 0 and dataset.files
        assert set(dataset.record()) == {"name", "licence", "citation", "content_warning", "sha256"}
        assert len(dataset.sha256) == 64
        for file in dataset.files:
            assert dataset.file(file.name) is file
            assert file.url is None or (file.url.startswith("https://raw.githubusercontent.com/") and " " not in file.url)
    assert get_dataset("stereoset").files[0].url.endswith("moinnadeem/StereoSet/ead7d086a64a192a1eca88e0dd2fd163de375218/data/dev.json")
    assert all(file.url is None for file in get_dataset("lm-corpus-small").files)
    warned = {name for name in dataset_names() if get_dataset(name).content_warning}
    assert warned == {
        "bbq", "crows-pairs", "stereoset", "edos", "hatecheck", "civil-comments", "ethics", "seat", "redditbias", "bold",
        "real-toxicity-prompts", "bbq-predictions", "unqover", "safenlp", "toxigen", "holistic-bias", "honest", "crows-pairs-multilingual",
    }


def test_the_catalogue_says_what_the_manifest_says(data_folder):
    manifest = {}
    for entry in json.loads((data_folder / "MANIFEST.json").read_text())["files"]:
        manifest[entry["stored_path"].removesuffix(".gz")] = entry
    for name in dataset_names():
        for file in get_dataset(name).files:
            entry = manifest[file.path]
            assert (file.sha256, file.bytes, file.rows) == (entry["sha256"], entry["bytes"], entry["rows"])
            assert file.source == f"{entry['repository'].removeprefix('https://github.com/')}@{entry['commit']}:{entry['upstream_path']}"
            assert (file.url is None) == (entry["derived"] and file.git_blob is None)


def test_every_real_file_is_served_with_its_original_bytes(data_folder, own_cache, monkeypatch):
    monkeypatch.setattr(catalogue, "_download", lambda *args: pytest.fail("the network was asked"))
    for name in dataset_names():
        dataset = get_dataset(name)
        for file, path in zip(dataset.files, get(name), strict=True):
            assert path.stat().st_size == file.bytes
            assert fetch(name, file.name).stat().st_size == file.bytes
