"""A batch's input and output, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch_file.files import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)
