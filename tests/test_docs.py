"""The documentation leads where it says, and docs/README.md names every page."""

import re

import yaml

from tests.system.command import ROOT

_PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("scripts/**/*.md")])


def _links(page):
    """Those to files of ours: (text, path) of each."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            yield target, page.parent / target.partition("#")[0]


def test_links_lead_to_what_is_there():
    assert len(_PAGES) > 20
    broken = [
        f"{page}: {text}" for page in _PAGES for text, path in _links(page) if not path.exists()
    ]
    assert broken == []


def test_the_index_names_every_page():
    index = ROOT / "docs" / "README.md"
    named = {path.resolve() for _, path in _links(index)}
    pages = {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")} - {index}
    pages.add(ROOT / "docs" / "recipes" / "README.md")
    assert {page.resolve() for page in pages} <= named


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert citation["license"] == "Apache-2.0"
    arxiv = {entry["url"].rpartition("/")[2] for entry in citation["references"]}
    readme = (ROOT / "README.md").read_text()
    assert arxiv == {"2109.04504", "2002.12928"}
    assert all(number in readme for number in arxiv)
