"""Other people's clients against our server as a user starts it: tritonclient, KServe's SDK, schemathesis.

They live in an environment of their own: TIGHTSHIP_CLIENTS is its python (`make test` makes it, in .clients).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.serve.live import LiveServer, serving

CLIENTS = Path(__file__).parent / "clients"
PYTHON = os.environ.get("TIGHTSHIP_CLIENTS", "")  # as it is given from where the tests are started
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="the real clients are in an environment of their own; set TIGHTSHIP_CLIENTS to its python"
)

TYPES = {"f": "float[n, 2]", "d": "double[n]", "h": "float16[n]", "i": "int64[n]", "u": "uint8[n]", "b": "bool[n]"}


def gives_back(name: str, types: dict[str, str]) -> onnx.ModelProto:
    """Return a model that gives every input back as an output."""
    given = ", ".join(f"{kind} {tensor}" for tensor, kind in types.items())
    taken = ", ".join(f"{kind} {tensor}_out" for tensor, kind in types.items())
    body = " ".join(f"{tensor}_out = Identity({tensor})" for tensor in types)
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> {name} ({given}) => ({taken}) {{ {body} }}'
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("served")
    onnx.save(gives_back("every", {**TYPES, "s": "string[n]"}), folder / "every.onnx")
    onnx.save(gives_back("second", {"f": "float[n, 2]"}), folder / "second.onnx")
    with serving(folder, [folder / "every.onnx", folder / "second.onnx"], "--workers", "2") as running:
        yield running


def run_client(*arguments: str) -> str:
    ended = subprocess.run(
        [Path(PYTHON).absolute(), *arguments], capture_output=True, text=True, cwd=CLIENTS, timeout=900
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-3000:]
    return ended.stdout


def test_tritonclient_speaks_with_us_over_http(server: LiveServer) -> None:
    assert "all is well" in run_client("triton_http.py", f"127.0.0.1:{server.http_port}", server.admin_key)


def test_tritonclient_speaks_with_us_over_grpc(server: LiveServer) -> None:
    assert "all is well" in run_client("triton_grpc.py", f"127.0.0.1:{server.grpc_port}", server.admin_key)


def test_kserves_clients_speak_with_us_over_both(server: LiveServer) -> None:
    assert "all is well" in run_client("kserve_both.py", server.url, f"127.0.0.1:{server.grpc_port}")


def run_schemathesis(server: LiveServer, *options: str) -> None:
    """Have schemathesis make requests from our OpenAPI document and judge the answers by it."""
    header = f"Authorization: Bearer {server.admin_key}"
    # Not every request that fits the document can be answered: which tensors a model takes stands in its metadata.
    checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
    run_client(
        *("-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"{server.url}/openapi.json"),
        *("--header", header, "--generation-deterministic", *checks, *options),
    )


def test_schemathesis_finds_nothing_that_our_openapi_does_not_say(server: LiveServer) -> None:
    run_schemathesis(server, "--phases", "fuzzing", "--max-examples", "6")


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_its_other_phases_either(server: LiveServer) -> None:
    run_schemathesis(server, "--phases", "coverage,fuzzing,stateful", "--max-examples", "40")
