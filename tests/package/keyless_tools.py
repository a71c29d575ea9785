"""Programs of the environment that TIGHTSHIP_INTEROP names: tightship with Sigstore's library, and model-signing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import tightship
from tests.package.local_sigstore.service import LocalSigstore

PYTHON = os.environ.get("TIGHTSHIP_INTEROP", "")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TIGHTSHIP_INTEROP names no Python with sigstore; see `make interop`"),
]
ALICE, WORKFLOW = "alice@example.com", "https://github.test/workflow@main"
DIGESTS = {"model.onnx": hashlib.sha256(b"model").hexdigest(), "a/b.bin": hashlib.sha256(b"weights").hexdigest()}
PATHS = f"import sys; sys.path.insert(0, {str(Path(tightship.__file__).parents[1])!r}); "
PATHS += f"sys.path.append({sysconfig.get_paths()['purelib']!r}); "
COMMAND = PATHS + "from tightship.cli import main; sys.exit(main(sys.argv[1:]))"
JUDGE = (
    PATHS
    + """
import json
from tightship.errors import SignatureError
from tightship.package.keyless import Identity, Sigstore
from tightship.package.signing import verify

asked = json.load(sys.stdin)
trusted = [Identity(asked["name"], asked["provider"], Sigstore(trust_config=asked["trust_config"]))]
ends = []
for bundle in asked["bundles"]:
    try:
        verify(bundle.encode(), asked["digests"], trusted)
        ends.append("held")
    except SignatureError as error:
        ends.append(f"refused: {error}")
    except BaseException as error:
        ends.append(f"{type(error).__name__}: {error}")
print(json.dumps(ends))
"""
)


def run(program: str, *words: str | Path, asked: str = "", **surroundings: str) -> subprocess.CompletedProcess[str]:
    lasting = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"}
    return subprocess.run(
        [PYTHON, "-c", program, *map(str, words)],
        input=asked, capture_output=True, text=True, timeout=300, check=False, env={**lasting, **surroundings},
    )  # fmt: skip


def ours(*words: str | Path, asked: str = "", **surroundings: str) -> subprocess.CompletedProcess[str]:
    return run(COMMAND, *words, asked=asked, **surroundings)


def theirs(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "model_signing", *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )


def expected(service: LocalSigstore, trust: Path, name: str = ALICE) -> tuple[str | Path, ...]:
    return ("--identity", name, "--identity-provider", service.provider.url, "--trust-config", trust)


def judged(
    bundles: list[dict[str, Any]], service: LocalSigstore, trust: Path, name: str = ALICE, provider: str = ""
) -> list[str]:
    """How each bundle ends, in one process."""
    asked = {
        "name": name,
        "provider": provider or service.provider.url,
        "trust_config": str(trust),
        "digests": DIGESTS,
        "bundles": [entry if isinstance(entry, str) else json.dumps(entry) for entry in bundles],
    }
    done = run(JUDGE, asked=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    ends: list[str] = json.loads(done.stdout)
    return ends
