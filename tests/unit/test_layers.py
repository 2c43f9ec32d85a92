"""Imports go down only: the table of who may import whom, and who may touch the outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import allasfs

TOP = Path(allasfs.__file__).parent
MODULES = sorted(path.relative_to(TOP.parent) for path in TOP.rglob("*.py"))

BOTTOM = ("allasfs.errors", "allasfs.config", "allasfs.deadline", "allasfs.heap")
# What the layers above see of the store: the protocol, and what is built on it alone.
STORE_PROTOCOL = (
    "allasfs.store.api",
    "allasfs.store.compact",
    "allasfs.store.large",
    "allasfs.store.marks",
)
TRANSFER = (*BOTTOM, *STORE_PROTOCOL, "allasfs.transfer")
FS = (*TRANSFER, "allasfs.fs")
APP = (*FS, "allasfs.store", "allasfs.app", "allasfs.__version__")

# The first row that a module's name begins with decides what of allasfs it may import: a module,
# or anything in a package.
ALLOWED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("allasfs.errors", ()),
    ("allasfs.config", ()),
    ("allasfs.deadline", ("allasfs.errors",)),
    ("allasfs.heap", ("allasfs.config",)),
    ("allasfs.store.api", ()),
    ("allasfs.store.pool", BOTTOM),
    ("allasfs.store.connection", ()),
    ("allasfs.store.wire", (*BOTTOM, "allasfs.store.api")),
    (
        "allasfs.store.answers",
        (*BOTTOM, "allasfs.store.api", "allasfs.store.connection", "allasfs.store.wire"),
    ),
    ("allasfs.store.large", (*BOTTOM, "allasfs.store.api", "allasfs.store.marks")),
    ("allasfs.store.marks", ("allasfs.store.api",)),
    ("allasfs.store.compact", ("allasfs.store.api",)),
    ("allasfs.store", (*BOTTOM, "allasfs.store")),
    ("allasfs.transfer", TRANSFER),
    ("allasfs.fs", FS),
    # The demo is a program of its own, which the command line can start.
    ("allasfs.app.demo", (*APP, "allasfs.demo")),
    ("allasfs.app.cli", (*APP, "allasfs.demo")),
    ("allasfs.app", APP),
    ("allasfs.demo", ("allasfs.demo", "allasfs.errors")),
    ("allasfs.__main__", ("allasfs.app.cli",)),
    ("allasfs", ()),
)

# Foreign packages that only these may import.
FOREIGN: dict[str, tuple[str, ...]] = {
    "fuse": ("allasfs.app.binding", "allasfs.app.fuse_ops"),
    "swiftclient": ("allasfs.store.connection",),
    "requests": ("allasfs.store.connection", "allasfs.store.answers"),
    "urllib3": ("allasfs.store.connection", "allasfs.store.answers"),
    "keystoneauth1": ("allasfs.store.auth", "allasfs.store.clouds", "allasfs.demo"),
    "openstack": ("allasfs.store.clouds",),
    "swift": ("allasfs.demo",),
    "keystone": ("allasfs.demo",),
    "configargparse": ("allasfs.app",),
}
ENVIRONMENT = ("allasfs.app.cli",)
# Child processes of the demo, which are given an environment of their own.
ENVIRONMENT_OF_THE_DEMO = ("allasfs.demo",)


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield what a module imports, wherever in it: ``package.name`` for each imported name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = module.split(".") if is_package else module.split(".")[:-1]
                above = above[: len(above) - node.level + 1]
                source = ".".join([*above, source] if source else above)
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in DYNAMIC
        ):
            yield from (str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


DYNAMIC = ("import_module", "__import__")


def offences(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what a module imports or reads and may not."""
    tree = ast.parse(source)
    allowed = next(row for prefix, row in ALLOWED if is_in(module, (prefix,)))
    found = []
    for imported in imports(tree, module, is_package=is_package):
        if is_in(imported, ("allasfs",)):
            if not is_in(imported, allowed):
                found.append(f"imports {imported}")
        elif (users := FOREIGN.get(imported.partition(".")[0])) and not is_in(module, users):
            found.append(f"imports {imported}")
    if not is_in(module, ENVIRONMENT + ENVIRONMENT_OF_THE_DEMO):
        for node in ast.walk(tree):
            names = {"environ", "environb", "getenv", "getenvb", "putenv"}
            if (
                isinstance(node, ast.Attribute)
                and node.attr in names
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
            ):
                found.append(f"reads os.{node.attr}")
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                found += [f"imports os.{a.name}" for a in node.names if a.name in names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    source = (TOP.parent / path).read_text()
    assert offences(name_of(path), source, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("allasfs.config", "from allasfs.errors import FsError"),
        ("allasfs.config", "import allasfs.errors"),
        ("allasfs.deadline", "from allasfs.config import Config"),
        ("allasfs.store.swift", "from allasfs.transfer.blocks import Memory"),
        ("allasfs.store.wire", "from allasfs.store.swift import SwiftStore"),
        ("allasfs.store.wire", "import requests"),
        ("allasfs.store.swift", "import requests"),
        ("allasfs.store.answers", "from allasfs.store.session import Session"),
        ("allasfs.transfer.reader", "from allasfs.store.swift import SwiftStore"),
        ("allasfs.transfer.reader", "from allasfs.store import swift"),
        ("allasfs.transfer.reader", "from ..store import swift"),
        ("allasfs.transfer.reader", "from allasfs.store.auth import load"),
        ("allasfs.transfer.reader", "def f():\n    from allasfs.fs.vfs import Vfs"),
        ("allasfs.transfer.reader", "import importlib\nimportlib.import_module('allasfs.fs')"),
        ("allasfs.fs.vfs", "from allasfs.app import cli"),
        ("allasfs.fs.vfs", "from allasfs.store.swift import SwiftStore"),
        ("allasfs.fs.vfs", "import fuse"),
        ("allasfs.fs.vfs", "import os\nos.environ['X']"),
        ("allasfs.fs.vfs", "from os import getenv"),
        ("allasfs.app.mount", "from allasfs.demo import Cloud"),
        ("allasfs.app.mount", "from keystoneauth1 import session"),
        ("allasfs.app.mount", "import os\nos.getenv('X')"),
        ("allasfs.demo.cloud", "from allasfs.store.swift import SwiftStore"),
        ("allasfs.__init__", "from allasfs.fs.vfs import Vfs"),
    ],
)
def test_any_other_import_is_found(module: str, source: str) -> None:
    assert len(offences(module, source)) == 1


def test_what_is_allowed_is_no_offence() -> None:
    source = "import os\nfrom allasfs.errors import FsError\nfrom allasfs.store import large\n"
    assert offences("allasfs.transfer.reader", source) == []


def test_every_row_of_the_table_is_about_something_that_exists() -> None:
    names = {name_of(path) for path in MODULES}
    for row, _ in ALLOWED:
        assert row in names
    for users in (*FOREIGN.values(), ENVIRONMENT):
        for user in users:
            assert user in names
