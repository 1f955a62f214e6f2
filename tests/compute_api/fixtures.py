"""For a test file: `from compute_api.fixtures import compute_api`, and name it as an argument."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compute_api.resources import Api
from compute_api.server import served


@pytest.fixture
def compute_api(tmp_path: Path) -> Iterator[Api]:
    with served(tmp_path) as api:
        yield api
