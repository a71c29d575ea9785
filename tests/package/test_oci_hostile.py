"""A registry that lies: each lie is answered by one RegistryError, in bounded time and memory, and nothing is left."""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.package.registries import Liar, lying
from tightship.errors import OutputError, RegistryError
from tightship.package import oci
from tightship.package.modelpack import MANIFEST_MEDIA_TYPE, Descriptor, parse_manifest, write_manifest
from tightship.package.oci import Access, transport
from tightship.package.oci import download as downloading
from tightship.package.oci.download import partial_path

DATA = bytes(range(256)) * 1024
LAYER = Descriptor(f"sha256:{hashlib.sha256(DATA).hexdigest()}", len(DATA))
MANIFEST = write_manifest("model.ship", LAYER)[0]
AS_MANIFEST = {"Content_Type": MANIFEST_MEDIA_TYPE}


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of time, so short that a test can wait for them; no credentials of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transport, "ANSWER_S", 1.0)
    monkeypatch.setattr(transport, "STALL_S", 1.0)
    monkeypatch.setattr(downloading, "PAUSE_S", 0.01)
    monkeypatch.setattr("tightship.package.oci.connection.PAUSES_S", (0.01, 0.01))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the file would appear: in bounded time and memory nothing does, whatever the registry sends."""
    path = tmp_path / "out"
    path.mkdir()
    tracemalloc.start()
    started = time.monotonic()
    yield path
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - started < 120, "seconds; less than 5 where the machine has nothing else to do"
    assert peak < 32 << 20, "bytes"
    assert not list(path.iterdir()), "something was left behind"


def manifest(**changes: Any) -> bytes:
    value = json.loads(MANIFEST)
    return json.dumps({**value, **changes}).encode()


def layer(**changes: Any) -> bytes:
    value = json.loads(MANIFEST)
    return json.dumps({**value, "layers": [{**value["layers"][0], **changes}]}).encode()


def ping(liar: Liar) -> None:
    liar.answer(200)


def gives_manifest(data: bytes = MANIFEST) -> Callable[[Liar], None]:
    return lambda liar: liar.answer(200, data, **AS_MANIFEST)


def refused(folder: Path, *rules: tuple[str, Callable[[Liar], None]], match: str = ".", digest: str = "") -> list[Any]:
    """Pull from a registry that answers by these rules; it has to end in a RegistryError. Return what it has seen."""
    with lying(*rules, ("/v2/", ping)) as (host, seen), pytest.raises(RegistryError, match=match) as caught:
        oci.pull(f"oci://{host}/model:1", folder / "model.ship", digest)
    assert str(caught.value).isprintable()
    return seen


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{" * 100_000, "no JSON"),
        (b'{"a":' * 100_000, "no JSON"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "twice"),
        (b"\xff\xfe", "no JSON"),
        (b"<html>log in</html>", "no JSON"),
        (manifest(mediaType="application/vnd.oci.image.index.v1+json"), "media type of the manifest"),
        (manifest(artifactType="application/vnd.example.virus"), "artifact type"),
        (manifest(manifests=[]), "read in two ways"),
        (manifest(config=None), "config"),
        (manifest(config={"mediaType": "application/vnd.oci.image.config.v1+json"}), "media type of the config"),
        (manifest(layers=[]), "one layer"),
        (manifest(layers=json.loads(MANIFEST)["layers"] * 2), "one layer"),
        (manifest(layers="many"), "one layer"),
        (layer(mediaType="application/vnd.cncf.model.weight.v1.tar"), "media type of the layer"),
        (layer(digest="sha256:../../../../etc/passwd"), "64 hex digits"),
        (layer(digest="sha256:" + "A" * 64), "64 hex digits"),
        (layer(digest="md5:" + "0" * 32), "64 hex digits"),
        (layer(digest=7), "64 hex digits"),
        (layer(size=-1), "size in bytes"),
        (layer(size=2**63), "size in bytes"),
        (layer(size=1.5), "size in bytes"),
        (layer(size=True), "size in bytes"),
        (layer(size="9"), "size in bytes"),
    ],
)
def test_a_manifest_that_is_none_of_a_package_is_refused(data: bytes, match: str, folder: Path) -> None:
    refused(folder, ("/manifests/", gives_manifest(data)), match=match)


def test_every_manifest_that_is_written_is_read_back() -> None:
    found = parse_manifest(MANIFEST, f"{MANIFEST_MEDIA_TYPE}; charset=utf-8", "here")
    assert (found.layer, found.name) == (LAYER, "model.ship")


def test_a_manifest_sent_under_another_media_type_is_refused(folder: Path) -> None:
    index = "application/vnd.oci.image.index.v1+json"
    rule = ("/manifests/", lambda liar: liar.answer(200, MANIFEST, Content_Type=index))
    refused(folder, rule, match="Content-Type")


def test_a_manifest_of_another_digest_than_the_pinned_one_is_refused(folder: Path) -> None:
    refused(folder, ("/manifests/", gives_manifest()), match="expected the manifest", digest=f"sha256:{'1' * 64}")


def test_a_manifest_of_another_digest_than_the_registry_says_is_refused(folder: Path) -> None:
    headers = {**AS_MANIFEST, "Docker_Content_Digest": f"sha256:{'1' * 64}"}
    refused(folder, ("/manifests/", lambda liar: liar.answer(200, MANIFEST, **headers)), match="expected the manifest")


@pytest.mark.parametrize("path", ["/manifests/", "/v2/"])
@pytest.mark.parametrize("status", [200, 401, 404, 500])
def test_an_answer_without_end_is_given_up(path: str, status: int, folder: Path) -> None:
    def endless(liar: Liar) -> None:
        liar.send_response(status)
        liar.send_header("Content-Type", MANIFEST_MEDIA_TYPE)
        liar.send_header("Connection", "close")
        liar.end_headers()
        liar.endless(b" " * 65536)

    refused(folder, (path, endless), match="larger than 4 MiB")


def test_an_answer_in_chunks_without_end_is_given_up(folder: Path) -> None:
    def endless(liar: Liar) -> None:
        liar.send_response(200)
        liar.send_header("Transfer-Encoding", "chunked")
        liar.end_headers()
        liar.endless(b"10000\r\n" + b" " * 65536 + b"\r\n")

    refused(folder, ("/manifests/", endless), match="larger than 4 MiB")


def test_headers_without_end_are_given_up(folder: Path) -> None:
    def endless(liar: Liar) -> None:
        liar.wfile.write(b"HTTP/1.1 200 OK\r\n")
        liar.endless(b"X-Filler: " + b"x" * 60_000 + b"\r\n")

    refused(folder, ("/manifests/", endless))


def trickle(head: bytes) -> Callable[[Liar], None]:
    def answer(liar: Liar) -> None:
        try:
            liar.wfile.write(head)
            while True:
                liar.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            return

    return answer


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"],
    ids=["status", "header", "body"],
)
def test_an_answer_that_trickles_in_is_given_up(head: bytes, folder: Path) -> None:
    refused(folder, ("/manifests/", trickle(head)))


def test_interim_answers_without_end_are_given_up(folder: Path) -> None:
    refused(folder, ("/manifests/", lambda liar: liar.endless(b"HTTP/1.1 100 Continue\r\n\r\n")))


def test_a_registry_that_says_nothing_is_given_up(folder: Path) -> None:
    refused(folder, ("/manifests/", lambda liar: time.sleep(8)), match="cannot be reached")


def test_a_compressed_answer_that_nobody_asked_for_is_refused(folder: Path) -> None:
    rule = ("/manifests/", lambda liar: liar.answer(200, MANIFEST, Content_Encoding="gzip", **AS_MANIFEST))
    refused(folder, rule, match="compressed")


@pytest.mark.parametrize(
    "blob",
    [DATA[:-1] + b"x", DATA[::-1], b"\x00" * len(DATA)],
    ids=["last byte", "other order", "zeros"],
)
def test_a_blob_of_other_bytes_is_refused_and_removed(blob: bytes, folder: Path) -> None:
    rules = ("/manifests/", gives_manifest()), ("/blobs/", lambda liar: liar.answer(200, blob))
    refused(folder, *rules, match="something else")


@pytest.mark.parametrize("blob", [DATA + b"x", DATA[:-1], b""], ids=["longer", "shorter", "empty"])
def test_a_blob_of_another_size_is_refused(blob: bytes, folder: Path) -> None:
    rules = ("/manifests/", gives_manifest()), ("/blobs/", lambda liar: liar.answer(200, blob))
    refused(folder, *rules, match=f"expected {len(DATA)} bytes, the registry announces {len(blob)}")


def test_of_a_blob_without_end_no_more_is_taken_than_the_manifest_says(folder: Path) -> None:
    def endless(liar: Liar) -> None:
        liar.send_response(200)
        liar.send_header("Connection", "close")
        liar.end_headers()
        liar.endless(b"x" * 65536)

    refused(folder, ("/manifests/", gives_manifest()), ("/blobs/", endless), match="something else")


def test_a_blob_that_would_fill_the_disk_is_not_begun(tmp_path: Path) -> None:
    rules = ("/manifests/", gives_manifest(layer(size=2**62))), ("/v2/", ping)
    with lying(*rules) as (host, seen), pytest.raises(OutputError, match="are free"):
        oci.pull(f"oci://{host}/model:1", tmp_path / "model.ship")
    assert not [path for _, path, _ in seen if "/blobs/" in path] and not list(tmp_path.glob("*model*"))


@pytest.mark.parametrize("told", ["bytes 0-9/10", "bytes 1000-2000/3", "lines 1-2", "bytes 9-1/*", ""])
def test_another_range_than_the_one_asked_for_is_refused_and_what_came_is_kept(told: str, tmp_path: Path) -> None:
    kept = partial_path(tmp_path / "model.ship", LAYER.digest)
    kept.write_bytes(DATA[:1000])
    rest = DATA[1000:]
    rules = (
        ("/manifests/", gives_manifest()),
        ("/blobs/", lambda liar: liar.answer(206, rest, **({"Content_Range": told} if told else {}))),
        ("/v2/", ping),
    )
    with lying(*rules) as (host, seen), pytest.raises(RegistryError, match="expected the bytes from 1000 on"):
        oci.pull(f"oci://{host}/model:1", tmp_path / "model.ship")
    assert seen[-1][2]["Range"] == f"bytes=1000-{len(DATA) - 1}"
    assert kept.read_bytes() == DATA[:1000] and not (tmp_path / "model.ship").exists()


def test_a_registry_that_knows_no_ranges_is_read_from_the_beginning(tmp_path: Path) -> None:
    partial_path(tmp_path / "model.ship", LAYER.digest).write_bytes(DATA[:1000])
    rules = ("/manifests/", gives_manifest()), ("/blobs/", lambda liar: liar.answer(200, DATA)), ("/v2/", ping)
    with lying(*rules) as (host, _):
        oci.pull(f"oci://{host}/model:1", tmp_path / "model.ship")
    assert (tmp_path / "model.ship").read_bytes() == DATA


def test_a_registry_that_breaks_off_again_and_again_is_given_up_and_what_came_is_kept(tmp_path: Path) -> None:
    def broken(liar: Liar) -> None:
        liar.send_response(200)
        liar.send_header("Content-Length", str(len(DATA)))
        liar.end_headers()
        liar.wfile.write(DATA[:1000])
        liar.close_connection = True

    rules = ("/manifests/", gives_manifest()), ("/blobs/", broken), ("/v2/", ping)
    with lying(*rules) as (host, seen), pytest.raises(RegistryError, match=r"1000 of .* continues from there"):
        oci.pull(f"oci://{host}/model:1", tmp_path / "model.ship")
    assert partial_path(tmp_path / "model.ship", LAYER.digest).read_bytes() == DATA[:1000]
    assert len([path for _, path, _ in seen if "/blobs/" in path]) <= 8


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "//169.254.169.254/x",
        "http://",
        "",
        "\u0000",
        "http://[",
        "http://127.0.0.1:99999999/",
        "data:application/json,{}",
    ],
)
@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
def test_a_redirect_to_what_is_no_registry_is_refused(path: str, place: str, folder: Path) -> None:
    rules = (path, lambda liar: liar.answer(307, Location=place)), ("/manifests/", gives_manifest())
    refused(folder, *rules)


@pytest.mark.parametrize(
    "url", ["http://registry.example.com/v2/", "http://127.0.0.1/v2/", "HTTP://registry.example.com/"]
)
def test_a_registry_with_tls_cannot_lead_to_plain_http(url: str) -> None:
    with pytest.raises(RegistryError, match="expected https"):
        transport.GuardedSession().get(url)


def test_redirects_without_end_are_given_up(folder: Path) -> None:
    rule = ("/manifests/", lambda liar: liar.answer(307, Location=f"{liar.path}x"))
    refused(folder, rule, match="more than 5 redirects")


def test_credentials_go_to_no_other_host(tmp_path: Path) -> None:
    basic = ("/v2/", lambda liar: liar.answer(401, WWW_Authenticate='Basic realm="r"'))
    with lying(("/stolen", lambda liar: liar.answer(200, DATA))) as (other, stolen):
        rules = (
            ("/manifests/", gives_manifest()),
            ("/blobs/", lambda liar: liar.answer(307, Location=f"http://{other}/stolen")),
            basic,
        )
        with lying(*rules) as (host, seen):
            oci.pull(f"oci://{host}/m:1", tmp_path / "model.ship", access=Access(username="ann", password="horse"))
    assert (tmp_path / "model.ship").read_bytes() == DATA
    assert all("Authorization" in headers for _, path, headers in seen if "/m/" in path)
    assert [path for _, path, _ in stolen] == ["/stolen"] and "Authorization" not in stolen[0][2]


def test_credentials_of_netrc_go_to_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login ann password horse\n")
    rules = ("/manifests/", gives_manifest()), ("/blobs/", lambda liar: liar.answer(200, DATA)), ("/v2/", ping)
    with lying(*rules) as (host, seen):
        oci.pull(f"oci://{host}/m:1", tmp_path / "model.ship")
    assert seen and not any("Authorization" in headers for _, _, headers in seen)


@pytest.mark.parametrize(
    "realm", ["file:///etc/passwd", "http://169.254.169.254/token", "basic-realm", "", "http://[", "\u20ac"]
)
def test_a_token_service_that_is_none_is_asked_for_nothing(realm: str, folder: Path) -> None:
    challenge = f'Bearer realm="{realm}",service="s"'.encode().decode("latin-1")
    refused(folder, ("/v2/", lambda liar: liar.answer(401, WWW_Authenticate=challenge)))


@pytest.mark.parametrize("token", [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": "a\\r\\nX-Evil: 1"}', b"\xff"])
def test_a_token_that_is_none_ends_in_an_error(token: bytes, folder: Path) -> None:
    def challenge(liar: Liar) -> None:
        liar.answer(401, WWW_Authenticate=f'Bearer realm="http://{liar.headers["Host"]}/token",service="s"')

    refused(folder, ("/token", lambda liar: liar.answer(200, token)), ("/v2/", challenge))


def test_a_token_without_end_is_given_up(folder: Path) -> None:
    def challenge(liar: Liar) -> None:
        liar.answer(401, WWW_Authenticate=f'Bearer realm="http://{liar.headers["Host"]}/token",service="s"')

    def endless(liar: Liar) -> None:
        liar.send_response(200)
        liar.send_header("Connection", "close")
        liar.end_headers()
        liar.endless(b"x" * 65536)

    refused(folder, ("/token", endless), ("/v2/", challenge), match="larger than 4 MiB")


def test_a_token_is_fetched_with_the_password_and_sent_in_its_place(tmp_path: Path) -> None:
    def guarded(then: Callable[[Liar], None]) -> Callable[[Liar], None]:
        def answer(liar: Liar) -> None:
            if liar.headers.get("Authorization") == "Bearer good":
                return then(liar)
            realm = f"http://{liar.headers['Host']}/token"
            return liar.answer(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s",scope="repository:m:pull"')

        return answer

    rules = (
        ("/token", lambda liar: liar.answer(200, b'{"token": "good"}')),
        ("/manifests/", guarded(gives_manifest())),
        ("/blobs/", guarded(lambda liar: liar.answer(200, DATA))),
        ("/v2/", guarded(ping)),
    )
    with lying(*rules) as (host, seen):
        oci.pull(f"oci://{host}/m:1", tmp_path / "model.ship", access=Access(username="ann", password="horse"))
    tokens = [headers["Authorization"] for _, path, headers in seen if path.startswith("/token")]
    assert tokens == ["Basic YW5uOmhvcnNl"]
    assert not [1 for _, path, headers in seen if "/m/" in path and "Basic" in headers.get("Authorization", "")]


def test_what_a_registry_says_cannot_reach_the_terminal(folder: Path) -> None:
    words = json.dumps({"errors": [{"code": "\x1b[2J", "message": "\x1b]0;owned\x07" + "x" * 10_000}]}).encode()
    seen = refused(folder, ("/manifests/", lambda liar: liar.answer(403, words)), match="403")
    assert seen


@pytest.mark.parametrize("location", ["http://169.254.169.254/up", "file:///tmp/up", "", "//other.example.com/up"])
def test_a_package_is_uploaded_to_the_registry_alone(location: str, tmp_path: Path) -> None:
    def answer(liar: Liar) -> None:
        liar.answer(404) if liar.command == "HEAD" else liar.answer(202, Location=location)

    (tmp_path / "model.ship").write_bytes(DATA)
    with (
        lying(("/blobs/", answer), ("/v2/", ping)) as (host, seen),
        pytest.raises(RegistryError, match=r"another host|did not say"),
    ):
        oci.push(tmp_path / "model.ship", f"oci://{host}/m:1", state=tmp_path / "state")
    assert {command for command, _, _ in seen} == {"GET", "HEAD", "POST"}


def test_a_registry_that_stores_something_else_is_told(tmp_path: Path) -> None:
    def blobs(liar: Liar) -> None:
        liar.rfile.read(int(liar.headers.get("Content-Length") or 0))
        if liar.command == "PUT":
            liar.answer(201, Docker_Content_Digest=f"sha256:{'0' * 64}")
        else:
            liar.answer(404) if liar.command == "HEAD" else liar.answer(202, Location="/v2/m/blobs/uploads/1")

    (tmp_path / "model.ship").write_bytes(DATA)
    with (
        lying(("/blobs/", blobs), ("/v2/", ping)) as (host, _),
        pytest.raises(RegistryError, match="the registry stored"),
    ):
        oci.push(tmp_path / "model.ship", f"oci://{host}/m:1", state=tmp_path / "state")


def test_a_registry_that_takes_no_chunks_gets_the_package_in_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, bytes] = {}

    def answer(liar: Liar) -> None:
        body = liar.rfile.read(int(liar.headers.get("Content-Length") or 0))
        if liar.command == "PUT":
            got[liar.path.rpartition("/")[2].partition("?")[0]] = body
            return liar.answer(201)
        return liar.answer({"HEAD": 404, "POST": 202, "PATCH": 405}[liar.command], Location="/v2/m/blobs/uploads/1")

    monkeypatch.setattr("tightship.package.oci.upload.CHUNK", 1000)
    (tmp_path / "model.ship").write_bytes(DATA)
    with lying(("/m/", answer), ("/v2/", ping)) as (host, seen):
        oci.push(tmp_path / "model.ship", f"oci://{host}/m:tag", state=tmp_path / "state")
    first = next(headers for command, path, headers in seen if command == "PUT" and "blobs" in path)
    assert int(first["Content-Length"]) == len(DATA)
    assert got["tag"] == MANIFEST
