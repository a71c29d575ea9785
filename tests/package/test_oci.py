"""Push and pull against Debian's docker-registry: with and without passwords and TLS, broken off and continued."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.package import registries
from tests.package.registries import Server
from tightship.cli import main
from tightship.core.progress import Advance
from tightship.errors import ArtifactNotFound, MissingExtra, OutputError, RegistryError, UsageError
from tightship.package import oci
from tightship.package.oci import Access, Reference, download, upload
from tightship.package.oci.download import partial_path

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with registries.running(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credentials and no uploads of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "home"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "model.ship"
    path.write_bytes(os.urandom(3 * MIB + 17))
    return path


class Breaking:
    """A progress that breaks off the step named so once it has done `n_bytes`."""

    def __init__(self, step: str, n_bytes: int) -> None:
        self.name, self.n_bytes = step, n_bytes

    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Advance]:
        done = 0

        def advance(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if description.startswith(self.name) and done >= self.n_bytes:
                raise KeyboardInterrupt

        yield advance

    def note(self, text: str) -> None:
        return None


def test_what_is_pushed_is_pulled_to_the_last_byte(server: Server, package: Path, tmp_path: Path) -> None:
    pushed = oci.push(package, server.place("team/model:1.0"))
    pulled = oci.pull(server.place("team/model:1.0"), tmp_path / "out.ship")
    assert (tmp_path / "out.ship").read_bytes() == package.read_bytes()
    assert pulled.digest == pushed.digest and pushed.sent_bytes == package.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir() if "ship" in path.name) == ["model.ship", "out.ship"]


def test_a_pull_by_digest_gets_what_was_pushed_then(server: Server, package: Path, tmp_path: Path) -> None:
    first, old = oci.push(package, server.place("pinned:1")), package.read_bytes()
    package.write_bytes(b"something newer")
    oci.push(package, server.place("pinned:1"))
    oci.pull(first.pinned, tmp_path / "old.ship")
    oci.pull(server.place("pinned:1"), tmp_path / "older.ship", digest=first.digest)
    assert (tmp_path / "old.ship").read_bytes() == (tmp_path / "older.ship").read_bytes() == old
    oci.pull(server.place("pinned:1"), tmp_path / "old.ship")
    assert (tmp_path / "old.ship").read_bytes() == b"something newer"


def test_the_same_package_has_the_same_digest_under_every_name_and_on_every_day(server: Server, package: Path) -> None:
    digests = {oci.push(package, server.place(name)).digest for name in ("one:1", "other/place:2")}
    assert len(digests) == 1


def test_what_the_registry_has_is_not_sent_again(server: Server, package: Path) -> None:
    oci.push(package, server.place("twice:1"))
    assert oci.push(package, server.place("twice:2")).sent_bytes == 0


@pytest.mark.parametrize("n_bytes", [0, 1])
def test_the_smallest_packages_are_shared_too(n_bytes: int, server: Server, tmp_path: Path) -> None:
    (tmp_path / "small.ship").write_bytes(b"x" * n_bytes)
    oci.push(tmp_path / "small.ship", server.place("small:1"))
    assert oci.pull(server.place("small:1"), tmp_path / "out.ship").size_bytes == n_bytes
    assert (tmp_path / "out.ship").stat().st_size == n_bytes


def test_skopeo_reads_the_manifest_and_copies_the_blob(server: Server, package: Path, tmp_path: Path) -> None:
    skopeo = shutil.which("skopeo") or pytest.skip("skopeo is not installed")
    pushed = oci.push(package, server.place("judged:1"))
    place = f"docker://{server.host}/judged:1"
    words = [skopeo, "inspect", "--raw", "--tls-verify=false", place]
    manifest = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert manifest["layers"][0]["annotations"]["org.cncf.model.filepath"] == "model.ship"
    subprocess.run([skopeo, "copy", "--src-tls-verify=false", place, f"dir:{tmp_path / 'copy'}"], check=True)
    blob = tmp_path / "copy" / pushed.package_digest.partition(":")[2]
    assert blob.read_bytes() == package.read_bytes()


def test_the_oras_client_itself_pulls_the_file(server: Server, package: Path, tmp_path: Path) -> None:
    import oras.client

    oci.push(package, server.place("oras:1"))
    client = oras.client.OrasClient(insecure=True)
    files = client.pull(f"{server.host}/oras:1", outdir=str(tmp_path / "got"))
    assert [Path(file).name for file in files] == ["model.ship"]
    assert Path(files[0]).read_bytes() == package.read_bytes()


def test_a_pull_that_was_broken_off_continues_with_the_bytes_it_has(
    server: Server, package: Path, tmp_path: Path
) -> None:
    pushed = oci.push(package, server.place("broken:1"))
    out = tmp_path / "out.ship"
    with pytest.raises(KeyboardInterrupt):
        oci.pull(pushed.pinned, out, progress=Breaking("pulling", 2 * MIB))
    kept = partial_path(out, pushed.package_digest)
    assert kept.stat().st_size >= 2 * MIB and not out.exists()
    n_kept = kept.stat().st_size
    assert oci.pull(pushed.pinned, out).resumed_bytes == n_kept
    assert out.read_bytes() == package.read_bytes() and not kept.exists()


@pytest.mark.parametrize("left", [b"other bytes than the package begins with", b"x" * (4 * MIB)])
def test_what_an_earlier_pull_left_and_is_wrong_is_fetched_again(
    left: bytes, server: Server, package: Path, tmp_path: Path
) -> None:
    pushed = oci.push(package, server.place("wrong:1"))
    partial_path(tmp_path / "out.ship", pushed.package_digest).write_bytes(left)
    oci.pull(pushed.pinned, tmp_path / "out.ship")
    assert (tmp_path / "out.ship").read_bytes() == package.read_bytes()


def test_what_is_left_of_another_package_at_the_same_place_is_removed(
    server: Server, package: Path, tmp_path: Path
) -> None:
    pushed = oci.push(package, server.place("stale:1"))
    stale = partial_path(tmp_path / "out.ship", f"sha256:{'0' * 64}")
    stale.write_bytes(b"some of it")
    oci.pull(pushed.pinned, tmp_path / "out.ship")
    assert not stale.exists()


def test_two_pulls_of_one_package_to_one_place_do_not_mix(server: Server, package: Path, tmp_path: Path) -> None:
    pushed = oci.push(package, server.place("both:1"))
    out = tmp_path / "out.ship"
    with download._held(partial_path(out, pushed.package_digest)), pytest.raises(OutputError, match="another pull"):
        oci.pull(pushed.pinned, out)
    assert not out.exists()


def test_a_push_that_was_broken_off_continues_with_the_chunks_the_registry_has(
    server: Server, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "CHUNK", 512 << 10)
    with pytest.raises(KeyboardInterrupt):
        oci.push(package, server.place("chunks:1"), progress=Breaking("pushing", 2 * MIB))
    pushed = oci.push(package, server.place("chunks:1"))
    assert pushed.sent_bytes == package.stat().st_size - 2 * MIB
    oci.pull(pushed.pinned, tmp_path / "out.ship")
    assert (tmp_path / "out.ship").read_bytes() == package.read_bytes()
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_an_upload_that_the_registry_has_dropped_begins_anew(
    server: Server, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "CHUNK", 512 << 10)
    with pytest.raises(KeyboardInterrupt):
        oci.push(package, server.place("dropped:1"), progress=Breaking("pushing", MIB))
    shutil.rmtree(next(server.store.rglob("dropped/_uploads")))
    assert oci.push(package, server.place("dropped:1")).sent_bytes == package.stat().st_size


def test_a_package_that_changes_while_it_is_pushed_is_not_stored(
    server: Server, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing(Breaking):
        @contextmanager
        def step(self, description: str, total: int | None = None) -> Iterator[Advance]:
            if description.startswith("pushing"):
                with package.open("r+b") as file:
                    file.write(b"changed") if self.n_bytes else file.truncate(5)
            yield lambda _n_bytes: None

    for n_bytes, match in ((1, "DIGEST_INVALID"), (0, "became shorter")):
        with pytest.raises(RegistryError, match=match):
            oci.push(package, server.place("changing:1"), progress=Changing("", n_bytes))
    with pytest.raises(RegistryError, match="404"):
        oci.pull(server.place("changing:1"), tmp_path / "out.ship")


def test_large_packages_go_in_bounded_memory(server: Server, tmp_path: Path) -> None:
    code = f"""
import resource, sys
from pathlib import Path
from tightship.package import oci
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
small = Path("small.ship"); small.write_bytes(b"x")
oci.push(small, "{server.place("warm:1")}"); oci.pull("{server.place("warm:1")}", Path("warm.ship"))
before = peak()
oci.push(Path("large.ship"), "{server.place("large:1")}"); oci.pull("{server.place("large:1")}", Path("out.ship"))
print(peak() - before)
"""
    with (tmp_path / "large.ship").open("wb") as file:
        file.truncate(128 * MIB)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48, "MiB above what a package of one byte takes"


def test_a_registry_with_a_password_takes_and_gives_packages(package: Path, tmp_path: Path) -> None:
    passwords = registries.with_passwords(tmp_path, "ann", "correct horse")
    with registries.running(tmp_path, passwords=passwords) as server:
        right = Access(username="ann", password="correct horse")
        pushed = oci.push(package, server.place("secret/model:1"), right)
        oci.pull(pushed.pinned, tmp_path / "out.ship", access=right)
        assert (tmp_path / "out.ship").read_bytes() == package.read_bytes()
        for wrong in (Access(), Access(username="ann", password="battery staple")):
            with pytest.raises(RegistryError, match="password"):
                oci.pull(pushed.pinned, tmp_path / "not.ship", access=wrong)
            with pytest.raises(RegistryError, match="password"):
                oci.push(package, server.place("secret/model:2"), wrong)
    assert not (tmp_path / "not.ship").exists() and not list(tmp_path.glob(".not.ship*"))


def test_what_docker_login_has_left_is_used(package: Path, tmp_path: Path, home: Path) -> None:
    import base64

    passwords = registries.with_passwords(tmp_path, "ann", "correct horse")
    with registries.running(tmp_path, passwords=passwords) as server:
        (home / ".docker").mkdir(parents=True)
        auth = base64.b64encode(b"ann:correct horse").decode()
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": auth}}}))
        oci.push(package, server.place("login:1"))
        (home / ".docker" / "config.json").write_text("{ this is no JSON")
        with pytest.raises(RegistryError, match=r"docker/config\.json"):
            oci.push(package, server.place("login:2"))


def test_tls_is_checked_against_the_authority_that_is_given(package: Path, tmp_path: Path) -> None:
    authority, certificate, key = registries.make_authority(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with registries.running(tmp_path, tls=(certificate, key)) as server:
        pushed = oci.push(package, server.place("tls:1"), Access(ca=authority))
        oci.pull(pushed.pinned, tmp_path / "out.ship", access=Access(ca=authority))
        assert (tmp_path / "out.ship").read_bytes() == package.read_bytes()
        with pytest.raises(RegistryError, match=r"--ca"):
            oci.pull(pushed.pinned, tmp_path / "not.ship", access=Access(ca=registries.make_authority(other)[0]))
        with pytest.raises(RegistryError, match="speaks TLS"):
            oci.pull(pushed.pinned, tmp_path / "not.ship")
    assert not (tmp_path / "not.ship").exists()


def test_the_commands_push_and_pull(
    server: Server, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(package), server.place("command:1"), "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    assert main(["pull", server.place("command:1"), "-o", str(tmp_path / "o"), "--digest", pushed["digest"]]) == 0
    assert pushed["pinned"] in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "o").read_bytes() == package.read_bytes()


def test_a_password_comes_from_a_file(package: Path, tmp_path: Path) -> None:
    passwords = registries.with_passwords(tmp_path, "ann", "correct horse")
    (tmp_path / "password.txt").write_text("correct horse\n")
    with registries.running(tmp_path, passwords=passwords) as server:
        words = ["--username", "ann", "--password-file", str(tmp_path / "password.txt")]
        assert main(["push", str(package), server.place("file:1"), *words]) == 0
        assert main(["push", str(package), server.place("file:1")]) == RegistryError.exit_code


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["push", "absent.ship", "oci://127.0.0.1:1/a:1"], 3, "no such file"),
        (["push", "{package}", "oci://127.0.0.1:1/a:1"], 14, "cannot be reached"),
        (["push", "{package}", "docker.io/library/a:1"], 2, "expected oci://"),
        (["push", "{package}", "oci://127.0.0.1:1/a@sha256:" + "0" * 64], 2, "push to a tag"),
        (["pull", "oci://127.0.0.1:1/a:1", "-o", "{package}", "--digest", "1234"], 2, "64 hex digits"),
        (["pull", "oci://127.0.0.1:1/a:1", "-o", "/proc/nowhere/x.ship"], 10, "cannot write"),
        (["pull", "oci://127.0.0.1:1/a:1", "-o", "{package}", "--username", "ann"], 2, "go together"),
        (["pull", "oci://127.0.0.1:1/a:1", "-o", "{package}", "--insecure", "--ca", "{package}"], 2, "one of them"),
        (["pull", "oci://127.0.0.1:1/a:1", "-o", "{package}", "--password-file", "absent"], 2, "cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    words: list[str], code: int, message: str, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = package.read_bytes()
    assert main([word.format(package=package) for word in words]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert package.read_bytes() == before


def test_a_tag_that_is_not_there_is_told_with_what_to_check(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"404.*check the repository, the tag"):
        oci.pull(server.place("nothing/here:1"), tmp_path / "out.ship")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("oci://registry.example.com/team/model:1.0", ("registry.example.com", "team/model", "1.0", "")),
        ("oci://localhost/model", ("localhost", "model", "latest", "")),
        ("oci://[::1]:5000/a/b_c:x", ("[::1]:5000", "a/b_c", "x", "")),
        (f"oci://h:5000/m@sha256:{'a' * 64}", ("h:5000", "m", "", f"sha256:{'a' * 64}")),
    ],
)
def test_a_place_has_host_repository_tag_and_digest(text: str, parts: tuple[str, ...]) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == parts


@pytest.mark.parametrize(
    "text",
    [
        "oci://host/Upper:1",
        "oci://host",
        "oci://host/../etc:1",
        "oci://user:password@host/a:1",
        "oci://host/a:1?x=y",
        "oci://host/a@sha256:123",
        "oci://host/a:" + "t" * 129,
        "oci://host/" + "a" * 256,
        "file:///etc/passwd",
        "oci://host/a:1\n",
    ],
)
def test_what_is_no_place_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="expected oci://"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("localhost:5000", True), ("127.0.0.1", True), ("[::1]:5000", True), ("127.0.0.1.evil.com", False), ("h", False)],
)
def test_only_this_machine_is_spoken_to_without_tls_unasked(host: str, is_loopback: bool) -> None:
    assert Reference.parse(f"oci://{host}/a:1").is_loopback is is_loopback


def test_no_proxy_is_asked_for_a_registry_on_this_machine(
    server: Server, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{registries.free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert oci.push(package, server.place("proxy:1")).size_bytes == package.stat().st_size


def test_a_missing_package_is_found_before_the_registry_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound):
        oci.push(tmp_path / "absent.ship", "oci://127.0.0.1:1/a:1")


def test_without_the_extra_the_command_that_installs_it_is_told(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tightship.core.extras.available", lambda module: module != "oras")
    with pytest.raises(MissingExtra, match=r"tightship\[registry\]"):
        oci.push(package, "oci://127.0.0.1:1/a:1")
    with pytest.raises(MissingExtra, match=r"tightship\[registry\]"):
        oci.pull("oci://127.0.0.1:1/a:1", tmp_path / "out.ship")
