"""Demo clouds for the tests: they need the packages of allasfs[demo]."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from allasfs.demo.cloud import NEEDED_PACKAGES

from .support import connect

# What a path may contain and what configuration files, URLs and shells take for their own.
ODD_NAME = "a %41 cloud's #1 $HOME ä"


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """Skip where the demo's packages are missing, but never where everything must be tested."""
    missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(missing)}: install allasfs[demo]")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running cloud; a test that stops a part of it starts it again."""
    with Cloud(tmp_path_factory.mktemp("demo") / ODD_NAME) as cloud:
        yield cloud


@pytest.fixture
def swift(cloud: Cloud) -> Iterator[Connection]:
    """A client of the cloud's first user."""
    connection = connect(cloud.environ)
    yield connection
    connection.close()


@pytest.fixture
def bucket(swift: Connection, tmp_path: Path) -> str:
    """A new container, named after the test."""
    name = f"b-{tmp_path.name}"
    swift.put_container(name)
    return name


@pytest.fixture(scope="session")
def stopped_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cloud that was started once: other starts in it are quicker."""
    folder = tmp_path_factory.mktemp("demo") / "stopped"
    with Cloud(folder, workers=1) as cloud:
        connection = connect(cloud.environ)
        connection.put_container("kept")
        connection.put_object("kept", "data", b"from the first run")
        connection.close()
    return folder
