"""What tests share: where the real models and data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real models and data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("TIGHTSHIP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real models and data are not at {folder}; set TIGHTSHIP_DATA to the folder that holds them")
    return folder
