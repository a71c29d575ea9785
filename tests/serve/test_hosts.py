"""Which names and whose pages are answered: against DNS rebinding, and against pages that ask a server on loopback."""

from __future__ import annotations

import http.client
import json
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import nets
from tests.serve.live import LiveServer, serving
from tightship.errors import UsageError
from tightship.serve.failures import ForeignOrigin, Misdirected
from tightship.serve.hosts import Hosts, hosts_of
from tightship.serve.settings import ServeSettings

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
INFER = "/v2/models/net/infer"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.:80", "app.localhost:1", "127.0.0.1", "127.9.9.9:8000", "[::1]:8000",
     "10.0.0.7:8000", "models.example", "Models.Example:443"],
)  # fmt: skip
def test_loopback_addresses_and_names_that_are_allowed_pass(host: str) -> None:
    Hosts(("Models.example",)).check(host.encode(), None)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
     "evillocalhost", "models.example.evil", "a.models.example", "", ":8000", "[::1", "2130706433", "\xff\x00", "*"],
)  # fmt: skip
def test_other_names_are_refused_every_time(host: str) -> None:
    hosts = Hosts(("models.example",))
    for _ in range(2):
        with pytest.raises(Misdirected, match="--allowed-host"):
            hosts.check(host.encode("latin-1"), None)


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("LocalHost:8000", "http://localhost:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("127.0.0.1:8000", "https://models.example", True),
        ("127.0.0.1:8000", "https://models.example:8443", True),
        ("127.0.0.1:8000", "http://evil.example", False),
        ("127.0.0.1:8000", "http://6.6.6.6", False),
        ("127.0.0.1:8000", "http://localhost:3000", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8000", "null", False),
        ("127.0.0.1:8000", "", False),
    ],
)
def test_only_pages_of_the_server_itself_or_of_allowed_hosts_may_ask(host: str, origin: str, passes: bool) -> None:
    hosts = Hosts(("models.example",))
    if passes:
        hosts.check(host.encode(), origin.encode())
    else:
        with pytest.raises(ForeignOrigin, match="a page of"):
            hosts.check(host.encode(), origin.encode())


def test_names_that_come_again_and_again_are_not_remembered_without_bound() -> None:
    hosts = Hosts()
    for number in range(2000):
        hosts.check(b"%d.localhost" % number, None)
    assert len(hosts._known) <= 256


def test_a_known_host_costs_less_than_a_microsecond() -> None:
    hosts, headers = Hosts(), {b"host": b"127.0.0.1:8000", b"content-type": b"application/json"}
    hosts.check(b"127.0.0.1:8000", None)
    best = min(timeit.repeat(lambda: hosts.check(headers.get(b"host"), headers.get(b"origin")), number=2000, repeat=20))
    assert best / 2000 < 1e-6  # 0.15 microseconds on an idle core


@pytest.mark.parametrize(
    ("host", "allowed", "checks"),
    [
        ("127.0.0.1", (), True),
        ("::1", (), True),
        ("localhost", ("a.example",), True),
        ("127.0.0.1", ("*",), False),
        ("0.0.0.0", (), False),
        ("0.0.0.0", ("a.example",), True),
    ],
)
def test_a_server_for_other_machines_checks_nothing_unless_names_are_allowed(
    tmp_path: Path, host: str, allowed: tuple[str, ...], checks: bool
) -> None:
    assert (hosts_of(ServeSettings(tmp_path, host=host, allowed_hosts=allowed)) is not None) == checks


@pytest.mark.parametrize("name", ["https://a.example", "a.example:8000", "a b", "", "*.example"])
def test_what_is_no_host_name_cannot_be_allowed(name: str) -> None:
    with pytest.raises(UsageError, match="no host name"):
        Hosts((name,))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("hosts")
    with serving(folder, [nets.save(nets.mlp(4), folder, "net.onnx")], "--allowed-host", "models.example") as running:
        yield running


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, json.loads(content) if content.startswith(b"{") else {}


def connected(server: LiveServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)


def test_inference_is_refused_under_another_name_also_again_and_again_on_one_connection(server: LiveServer) -> None:
    connection = connected(server)
    for _ in range(3):  # the second and third are answered by their likeness to the first
        assert ask(connection, INFER, BODY)[0] == 200
    for _ in range(3):
        status, answer = ask(connection, INFER, BODY, Host="evil.example:8000")
        assert status == 421
        assert "'evil.example'" in answer["error"] and "--allowed-host evil.example" in answer["error"]
    assert ask(connection, INFER, BODY, Host="models.example")[0] == 200


def test_the_console_administration_and_metrics_are_refused_under_another_name(server: LiveServer) -> None:
    key: dict[str, Any] = {"Authorization": f"Bearer {server.admin_key}"}
    for path, body in (
        ("/", None),
        ("/console/overview", None),
        ("/console/app.js", None),
        ("/metrics", None),
        ("/openapi.json", None),
        ("/v2", None),
        ("/v2/models/net", None),
        ("/admin/journal", None),
        ("/admin/rollouts/net/abort", b"{}"),
        ("/v2/repository/models/net/unload", b"{}"),
    ):
        assert ask(connected(server), path, body, Host="evil.example", **key)[0] == 421, path
    assert ask(connected(server), "/admin/journal", **key)[0] == 200


def test_health_is_told_under_any_name(server: LiveServer) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/net/ready"):
        assert ask(connected(server), path, Host="probe.example", Origin="http://probe.example")[0] == 200


def test_pages_of_other_sites_are_refused_and_the_servers_own_are_not(server: LiveServer) -> None:
    foreign: dict[str, Any] = {"Content-Type": "text/plain", "Origin": "http://evil.example"}
    connection = connected(server)
    for _ in range(3):
        status, answer = ask(connection, INFER, BODY, **foreign)
        assert status == 403 and "http://evil.example" in answer["error"]
    for origin in (server.url, "https://models.example"):
        assert ask(connection, INFER, BODY, Origin=origin)[0] == 200
    assert b'reason="ForeignOrigin"' in server.get("/metrics")[1]
