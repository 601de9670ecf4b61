"""Fixtures that every test may use: the data folder, a cache of its own, tiny random models."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import hypothesis
import pytest

# An example's first run may load a library, and machines are shared: how long one takes says nothing.
hypothesis.settings.register_profile("fairforget", deadline=None)
hypothesis.settings.load_profile("fairforget")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
if SHARED_DATA.is_dir():
    os.environ.setdefault("FAIRFORGET_DATA", str(SHARED_DATA))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real benchmark data; tests that need it are skipped where it is absent."""
    folder = os.environ.get("FAIRFORGET_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FAIRFORGET_DATA is not set: no real data on this machine")
    return Path(folder)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that only this test uses."""
    monkeypatch.setenv("FAIRFORGET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
