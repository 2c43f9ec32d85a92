"""README.md and docs/ name only what there is: options, exit codes, targets of make, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allasfs import errors
from allasfs.app.daemon import EXIT_INTERNAL, EXIT_INTERRUPTED
from allasfs.app.options import split_words

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_exit_code_is_in_the_readme_once() -> None:
    told = re.findall(r"^\| (\d+) \|", README, re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {kind.exit_code for kind in kinds if issubclass(kind, errors.SetupError)}
    assert sorted(map(int, told)) == sorted({0, *known, EXIT_INTERNAL, EXIT_INTERRUPTED})


def test_every_option_of_the_readme_is_one() -> None:
    table = README.partition("| option | |")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    found = [option for cell in cells for option in re.findall(r"`([^`]+)`", cell)]
    assert len(found) > 20
    for option in found:
        value = {"large-objects": "slo"}.get(name := option.partition("=")[0], "1")
        has_value = option.endswith("=") or "|" in option
        split_words(["-o", f"{name}={value}" if has_value else option])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_and_every_link_of_a_page_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    links = re.findall(r"\]\(([^)]+)\)", text)
    files = [link.partition("#")[0] for link in links if "://" not in link]
    assert [file for file in files if not (page.parent / file).exists()] == []
