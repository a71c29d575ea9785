"""Keys, certificates and counters of a server that runs: two workers, mutual TLS, HTTP and gRPC."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import onnx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.certificates import Authority
from tests.serve.live import LiveServer, serving
from tightship.api.accessing import add_key, revoke_key
from tightship.cli import main
from tightship.serve.grpc_service.messages import SERVICE, message
from tightship.serve.routing import place_of

DOUBLE = """
<ir_version: 9, opset_import: ["" : 20]>
double (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }
"""
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()


@dataclass
class Secured:
    """A server behind mutual TLS, and what its clients show it."""

    server: LiveServer
    authority: Authority
    context: ssl.SSLContext
    credentials: grpc.ChannelCredentials
    answered: int = 0
    """Requests for inference that were, since the server started."""

    def ask(
        self, method: str, path: str, body: bytes | None = None, key: str = "", context: ssl.SSLContext | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body, over a connection of its own."""
        port = self.server.http_port
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context or self.context, timeout=20)
        try:
            connection.request(method, path, body, {"authorization": f"Bearer {key}"} if key else {})
            answer = connection.getresponse()
            self.answered += path.endswith("/infer") and answer.status == 200
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def infer(self, key: str = "") -> int:
        return self.ask("POST", "/v2/models/double/infer", BODY, key)[0]

    def version(self, header: str, key: str = "") -> str:
        """Return the version that answers a request with this header."""
        name, _, value = header.partition(": ")
        headers = {name: value} | ({"authorization": f"Bearer {key}"} if key else {})
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.http_port, context=self.context, timeout=20)
        try:
            connection.request("POST", "/v2/models/double/infer", BODY, headers)
            return str(json.loads(connection.getresponse().read())["model_version"])
        finally:
            connection.close()

    def infer_until(self, wanted: int, key: str) -> None:
        """Ask until the workers have followed a change of keys."""
        until = time.monotonic() + 10
        while (statuses := {self.infer(key) for _ in range(6)}) != {wanted}:
            assert time.monotonic() < until, statuses

    def counted(self, name: str) -> float:
        """Return the sum of a counter of /metrics."""
        body = self.ask("GET", "/metrics", key=self.server.admin_key)[2].decode()
        families = text_string_to_metric_families(body)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder)
    ours, theirs = authority.issue("server"), authority.issue("client")
    onnx.save(onnx.parser.parse_model(DOUBLE), folder / "double.onnx")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(theirs.certificate, theirs.key)
    root = authority.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(root, theirs.key.read_bytes(), theirs.certificate.read_bytes())
    options = ["--tls-cert", str(ours.certificate), "--tls-key", str(ours.key)]
    options += ["--tls-clients", str(authority.certificate), "--workers", "2", "--log-json"]
    with serving(folder, [folder / "double.onnx"], *options, context=context) as server:
        yield Secured(server, authority, context, credentials)


def test_who_shows_no_certificate_is_not_even_heard(secured: Secured) -> None:
    bare = ssl.create_default_context(cafile=str(secured.authority.certificate))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        secured.ask("GET", "/v2/health/live", context=bare)
    channel = grpc.secure_channel(
        f"localhost:{secured.server.grpc_port}",
        grpc.ssl_channel_credentials(secured.authority.certificate.read_bytes()),
    )
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_who_shows_one_is_answered_over_both(secured: Secured) -> None:
    assert secured.ask("GET", "/v2/health/ready")[0] == 200
    channel = grpc.secure_channel(f"localhost:{secured.server.grpc_port}", secured.credentials)
    answer = channel.unary_unary(f"/{SERVICE}/ServerReady")(b"", timeout=20)
    assert message("ServerReadyResponse").FromString(answer).ready
    channel.close()


def test_administration_needs_a_key_also_with_a_certificate(secured: Secured) -> None:
    status, headers, _ = secured.ask("POST", "/v2/repository/models/double/unload")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert secured.ask("POST", "/v2/repository/index", key=secured.server.admin_key)[0] == 200


def test_keys_hold_at_once_and_end_at_once_in_every_worker(secured: Secured) -> None:
    assert secured.infer() == 200
    made = add_key(secured.server.state, "phone")
    secured.infer_until(200, made.key)
    secured.infer_until(401, "")
    status, _, body = secured.ask("POST", "/v2/repository/models/double/unload", key=made.key)
    assert status == 403 and b"scope admin" in body
    revoke_key(secured.server.state, "phone")
    secured.infer_until(401, made.key)


def test_who_asks_too_often_is_told_when_to_come_back(secured: Secured) -> None:
    slow = add_key(secured.server.state, "slow", rate_per_s=0.01, burst=4).key
    until, seen = time.monotonic() + 10, []
    while 429 not in seen and time.monotonic() < until:
        status, headers, _ = secured.ask("POST", "/v2/models/double/infer", BODY, slow)
        seen.append(status)
    assert 429 in seen and seen.count(200) <= 4
    assert 1 <= int(headers["retry-after"]) <= 200


def test_counters_go_on_counting_when_a_worker_is_killed(secured: Secured) -> None:
    key = add_key(secured.server.state, "counted").key
    secured.infer_until(200, key)
    name, counts, until = "tightship_inference_requests_total", [0.0], time.monotonic() + 10
    while counts[-1] < secured.answered and time.monotonic() < until:
        counts.append(secured.counted(name))
    assert counts[-1] == secured.answered > 0
    workers = [
        child
        for child in psutil.Process(secured.server.process.pid).children()
        if "resource_tracker" not in " ".join(child.cmdline())
    ]
    os.kill(workers[0].pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            counts.append(secured.counted(name))
            if secured.counted("tightship_workers") == 2 and len(counts) > 5:
                break
        except OSError:  # what was on its way to the killed worker
            continue
    assert counts == sorted(counts) and counts[-1] == secured.answered
    assert secured.counted("tightship_workers") == 2


def test_a_caller_stays_with_a_version_however_the_key_is_shown(secured: Secured) -> None:
    keys = [add_key(secured.server.state, f"caller {number}") for number in range(4)]
    secured.infer_until(200, keys[-1].key)
    folder, admin = secured.server.state.parent, secured.server.admin_key
    onnx.save(onnx.parser.parse_model(DOUBLE.replace("Add(x, x)", "Sum(x, x)")), folder / "sum.onnx")
    order = {"model": "double", "path": str(folder / "sum.onnx"), "steps": [50, 100], "shadow": 0, "by_key": True}
    status, _, answer = secured.ask("POST", "/admin/rollouts", json.dumps(order).encode(), admin)
    assert status == 201
    salt = str(json.loads(answer)["rollout"]["id"])
    until = time.monotonic() + 20
    while len({secured.version(f"X-Sticky-Key: {n}", keys[0].key) for n in range(12)}) < 2:
        assert time.monotonic() < until
    time.sleep(0.5)  # the other worker follows within a fifth of a second
    channel = grpc.secure_channel(f"localhost:{secured.server.grpc_port}", secured.credentials)
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    request = message("ModelInferRequest")(model_name="double", raw_input_contents=[bytes(12)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    for one in keys:
        key, expected = one.key, "2" if place_of(one.id.encode(), salt) < 0.5 else "1"
        forms = (f"Authorization: Bearer {key}", f"authorization: bearer {key}", f"X-API-Key: {key}")
        assert {secured.version(form) for form in forms for _ in range(4)} == {expected}
        for metadata in (("authorization", f"Bearer {key}"), ("x-api-key", key)):
            answer = call(request.SerializeToString(), timeout=20, metadata=[metadata])
            assert message("ModelInferResponse").FromString(answer).model_version == expected
    channel.close()
    assert secured.ask("POST", "/admin/rollouts/double/abort", b"{}", admin)[0] == 200


def test_the_log_is_json_and_holds_no_key(secured: Secured) -> None:
    secured.infer("ts_000000000000_" + "0" * 64)
    text = secured.server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert any(line.get("status") == "401" and line["request_id"] for line in lines)
    assert "0" * 64 not in text and secured.server.admin_key not in text


def test_a_server_for_other_machines_is_not_started_without_keys(
    tmp_path: Path, secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    model = secured.server.state.parent / "double.onnx"
    assert main(["serve", str(model), "--host", "0.0.0.0", "--state", str(tmp_path)]) == 15
    assert "reachable from other machines" in capsys.readouterr().err
