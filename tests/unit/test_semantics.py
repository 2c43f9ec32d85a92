"""docs/SEMANTICS.md is true: every paragraph has tests, and its table knows every operation."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import fuse
import pytest

from allasfs.app.fuse_ops import FuseOps
from tests.oracle import differences

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/SEMANTICS.md").read_text(encoding="utf-8")
LABEL = re.compile(r"- `([A-Z]\d+)` ")


def all_tests() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every test function with the file that it is in."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield str(path.relative_to(ROOT)), node


def labels_of(function: ast.FunctionDef) -> list[str]:
    """Return the labels of ``@pytest.mark.semantics("R1", ...)``."""
    return [
        ast.literal_eval(label)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".semantics")
        for label in decorator.args
    ]


TESTS = list(all_tests())
PROOFS: dict[str, list[str]] = defaultdict(list)
for file, function in TESTS:
    for each in labels_of(function):
        PROOFS[each].append(f"{file}::{function.name}")


def test_every_paragraph_of_the_promises_has_a_label_of_its_own() -> None:
    sections = TEXT.partition("\n## ")[2].partition("\n## FUSE operations")[0]
    paragraphs = [line for line in sections.splitlines() if line.startswith("- ")]
    found = [LABEL.match(line) for line in paragraphs]
    assert all(found), [line for line, label in zip(paragraphs, found, strict=True) if not label]
    labels = [label[1] for label in found if label]
    assert len(labels) == len(set(labels))
    # Nothing is promised outside of a paragraph with a label.
    rest = [line for line in sections.splitlines() if not re.match(r"(- |  |#|$)", line)]
    assert rest == [sections.splitlines()[0]]


@pytest.mark.parametrize("label", LABEL.findall(TEXT))
def test_every_paragraph_is_proven_by_a_test_that_names_it(label: str) -> None:
    assert PROOFS[label]


def test_every_label_that_a_test_names_is_a_paragraph() -> None:
    assert set(PROOFS) <= set(LABEL.findall(TEXT))


@pytest.mark.parametrize(
    "difference",
    [*differences.DIFFERENCES, differences.lost_by, differences.compared],
    ids=lambda function: function.__name__,
)
def test_every_known_difference_from_a_plain_directory_names_its_paragraph(
    difference: Callable[..., object],
) -> None:
    labels = re.findall(r"\b([A-Z]\d+)\b", difference.__doc__ or "")
    assert labels
    assert set(labels) <= set(LABEL.findall(TEXT))


ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.partition("\n## FUSE operations")[2].splitlines()
    if line.startswith("| `")
]


def operations() -> set[str]:
    """Return the names of libfuse's operations that fusepy knows."""
    return {name for name, kind, *_ in fuse.fuse_operations._fields_ if kind is not None}


def test_the_table_has_every_operation_of_libfuse_once() -> None:
    names = [name for row in ROWS for name in re.findall(r"`(\w+)`", row[0])]
    assert len(names) == len(set(names))
    flags = {"flag_nullpath_ok", "flag_nopath", "flag_utime_omit_ok", "flag_reserved"}
    assert operations() - flags <= set(names)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_table_says_of_each_operation_whether_it_is_defined_and_which_test_proves_it(
    row: list[str],
) -> None:
    for name in re.findall(r"`(\w+)`", row[0]):
        assert hasattr(FuseOps, name) != row[1].startswith("not defined"), name
    proofs = re.findall(r"`(test_\w+)`", row[2])
    assert proofs
    assert set(proofs) <= {function.name for _, function in TESTS}
