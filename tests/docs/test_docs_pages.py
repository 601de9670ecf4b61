"""Links of the pages lead somewhere, tables of contents are whole, and the catalogue's facts are the ones on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fairforget.benchmarks import registry
from fairforget.data.catalogue import dataset_names, get_dataset
from fairforget.methods import method_registry
from fairforget.models import builtin_names
from fairforget.models.builtin import minilm_data

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """All anchors of a page."""
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_guide_links_every_page() -> None:
    guide = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [name for name in method_registry().names() if f"(methods/{name}.md)" not in guide] == []
    assert [name for name in registry.names() if f"(benchmarks/{name}.md)" not in guide] == []


def test_the_page_of_data_has_the_catalogue() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    rows = {cells[0].strip("`"): cells for cells in table}
    assert sorted(rows) == sorted(dataset_names())
    for name, cells in rows.items():
        dataset = get_dataset(name)
        assert cells[1] == dataset.licence
        assert cells[2] == ("yes" if dataset.content_warning else "no")


def test_the_page_of_models_has_the_built_in_ones() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert [name for name in builtin_names() if f"### {name} " not in text] == []


def test_the_card_of_the_masked_model_says_what_its_training_record_says() -> None:
    card = minilm_data("README.md").read_text(encoding="utf-8")
    record = json.loads(minilm_data("training.json").read_text(encoding="utf-8"))
    assert "{{" not in card
    assert f"**{record['wikitext2_valid_loss_nats']} nats**" in card
    assert record["adapter_sha256"] in card
    for corpus in record["corpora"].values():
        assert f"| {corpus['tokens_seen']:,} |" in card
