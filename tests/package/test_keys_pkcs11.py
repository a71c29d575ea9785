"""The cases of tokens, in a process of their own.

SoftHSM brings OpenSSL, TensorFlow and others bring copies of it that share names with it: a process that has loaded
both ends with a fault inside SoftHSM.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pkcs11", reason="needs the pkcs11 extra")

CASES = Path(__file__).with_name("pkcs11_cases.py")


def test_every_case_of_keys_in_a_token_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(CASES)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'cases'}"], env=environment, capture_output=True, text=True, timeout=600
    )
    if "skipped" in done.stdout and "passed" not in done.stdout:
        pytest.skip("softhsm2 is not installed")
    assert done.returncode == 0, done.stdout[-4000:]
