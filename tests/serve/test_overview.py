"""What the console reads and how its files are served, asked for in this process."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

import tightship.serve.console as console
from tightship.api import packing
from tightship.package.opening import Keys
from tightship.serve.catalogue import Catalogue
from tightship.serve.endpoints import endpoints
from tightship.serve.loaded import Opener
from tightship.serve.metrics import Metrics
from tightship.serve.overview import Overviews
from tightship.serve.routing import Routes
from tightship.serve.service import Service
from tightship.serve.settings import Limits, ServeSettings

DOUBLE = '<ir_version: 9, opset_import: ["" : 20]> d (float[N, 3] x) => (float[N, 3] y) { y = Add (x, x) }'
STATIC = Path(console.__file__).parent / "static"


def package(folder: Path, name: str, **options: Any) -> Path:
    onnx.save(parser.parse_model(DOUBLE), folder / f"{name}.onnx")
    (folder / f"{name}.report.html").write_text("<p>report</p>")
    packing.pack([folder / f"{name}.onnx"], folder / f"{name}.ship", intended_use="doubles", **options)
    return folder / f"{name}.ship"


def service_of(path: Path, keys: Keys, folder: Path) -> Service:
    metrics = Metrics()
    catalogue = Catalogue(Opener(Limits(), keys), metrics)
    catalogue.load("double", "1", path)
    catalogue.route("double", Routes("1"))
    return Service(ServeSettings(folder, keys=keys), catalogue, metrics)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = service_of(package(tmp_path, "double"), Keys(), tmp_path)
    yield made
    made.catalogue.close()


def get(service: Service, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask the application as a server would, without one."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(endpoints(service)(scope, receive, send))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])


def test_the_overview_tells_what_is_served_and_how_it_does(service: Service) -> None:
    service.metrics.observe("double", "1", 0.004)
    service.metrics.observe("double", "1", 0.004, "BadRequest")
    status, _, body = get(service, "/console/overview")
    found = json.loads(body)
    (model,) = found["models"]
    (version,) = model["versions"]
    assert (status, model["name"], model["ready"], model["routes"]["stable"]) == (200, "double", True, "1")
    assert (version["role"], version["state"], version["takes"]) == ("stable", "ready", "")
    assert version["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3]}]
    assert (version["requests"], version["failures"]) == (2, {"BadRequest": 1})
    assert sum(version["latency"]) == 2
    assert len(version["latency"]) == len(found["latency_bounds_s"]) + 1
    assert (version["package"]["intended_use"], version["package"]["report"]) == ("doubles", True)


def test_a_plain_file_is_shown_without_what_packages_say(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(DOUBLE), tmp_path / "d.onnx")
    plain = service_of(tmp_path / "d.onnx", Keys(), tmp_path)
    (model,) = Overviews(plain).overview().models
    assert (model.ready, model.versions[0].package.intended_use, model.versions[0].package.report) == (True, "", False)
    plain.catalogue.close()


def test_what_is_sealed_in_a_package_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("opens the package")
    (tmp_path / "secret").chmod(0o600)
    path = package(tmp_path, "double", passphrase=str(tmp_path / "secret"))
    sealed = service_of(path, Keys(passphrase=str(tmp_path / "secret")), tmp_path)
    facts = Overviews(sealed).overview().models[0].versions[0].package
    assert (facts.sealed, facts.intended_use, facts.report) == (True, "", False)
    assert get(sealed, "/console/report/double/1")[0] == 404
    sealed.catalogue.close()


def test_a_report_may_draw_and_nothing_else(service: Service) -> None:
    status, head, body = get(service, "/console/report/double/1")
    assert (status, body) == (200, b"<p>report</p>")
    assert head["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert get(service, "/console/report/double/2")[0] == get(service, "/console/report/other/1")[0] == 404


def test_the_page_allows_nothing_from_elsewhere(service: Service) -> None:
    status, head, body = get(service, "/")
    policy = dict(part.split(" ", 1) for part in head["content-security-policy"].split("; "))
    assert (status, policy["default-src"], policy["frame-ancestors"]) == (200, "'self'", "'none'")
    assert "unsafe" not in head["content-security-policy"]
    assert head["x-content-type-options"] == "nosniff"
    assert b"https://" not in body


def test_a_file_that_the_browser_has_is_not_sent_again(service: Service) -> None:
    _, head, body = get(service, "/console/app.js")
    assert (head["content-type"].split(";")[0], body) == ("text/javascript", (STATIC / "app.js").read_bytes())
    assert get(service, "/console/app.js", if_none_match=head["etag"])[::2] == (304, b"")


@pytest.mark.parametrize("path", ["/console/pages.py", "/console/../pages.py", "/console/%2e%2e/pages.py", "/console/"])
def test_only_files_of_the_page_are_sent(service: Service, path: str) -> None:
    assert get(service, path)[0] == 404


def test_the_page_names_only_files_that_are_there() -> None:
    names = {path.name for path in STATIC.iterdir()}
    page = (STATIC / "index.html").read_text()
    assert set(re.findall(r'"/console/([a-z.]+)"', page)) <= names
    for script in STATIC.glob("*.js"):
        assert set(re.findall(r'from "\./([a-z.]+)"', script.read_text())) <= names
        assert "innerHTML" not in script.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_its_ground(scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 for text; 1.4.11: of 3 for the lines of charts."""
    blocks = re.findall(r":root \{(.*?)\}", (STATIC / "style.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0 if scheme == "light" else 1]))
    grounds = ("page", "paper", "sunk")
    texts = [(text, ground) for text in ("ink", "muted", "link") for ground in grounds]
    texts += [("on-link", "link"), *((kind, f"{kind}-wash") for kind in ("good", "bad", "wait")), ("ink", "bad-wash")]
    for text, ground in texts:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for line in range(1, 7):
        assert contrast(colours[f"s{line}"], colours["paper"]) >= 3.0, line


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
