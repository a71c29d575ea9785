"""Keys, scopes, rate limits: who gets in, who does not, and what lies on the disk."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tightship.errors import ServeError, UsageError
from tightship.serve import access as access_module
from tightship.serve.access import ADMIN, ANYBODY, INFER, Access, check_exposure, is_loopback
from tightship.serve.api_keys import ApiKeys
from tightship.serve.database import Database
from tightship.serve.failures import Forbidden, Overloaded, Unauthorised
from tightship.serve.tls import TlsFiles


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[ApiKeys]:
    database = Database(tmp_path / "state.sqlite")
    yield ApiKeys(database)
    database.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(access_module.time, "monotonic", lambda: now[0])
    return now


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


def test_a_key_says_who_asks(keys: ApiKeys) -> None:
    key = keys.add("phone app")
    caller = Access(keys).check(bearer(key), INFER)
    assert (caller.name, caller.id) == ("phone app", key.split("_")[1])


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "{}"])
def test_a_key_is_known_with_and_without_the_word_bearer(keys: ApiKeys, form: str) -> None:
    credential = form.format(keys.add("a")).encode()
    assert Access(keys).check(credential, INFER).name == "a"


def test_a_wrong_key_is_not_known(keys: ApiKeys) -> None:
    key = keys.add("a")
    access = Access(keys)
    wrong_end = key[:-1] + ("0" if key[-1] != "0" else "1")
    for credential in (b"", b"Bearer ", bearer(wrong_end), bearer(key + "0"), b"Basic dXNlcjpwYXNz", b"\xff" * 9000):
        with pytest.raises(Unauthorised, match="not known here, or was revoked"):
            access.check(credential, INFER)


def test_a_key_for_inference_may_not_administer(keys: ApiKeys) -> None:
    key = keys.add("a")
    with pytest.raises(Forbidden, match=r"administration needs .* scope admin; .* \(a\) has infer"):
        Access(keys).check(bearer(key), ADMIN)


def test_a_key_for_administration_may_do_both(keys: ApiKeys) -> None:
    access = Access(keys)
    key = keys.add("boss", (ADMIN,))
    access.refresh()
    assert access.check(bearer(key), ADMIN).name == access.check(bearer(key), INFER).name == "boss"


def test_administration_always_needs_a_key(keys: ApiKeys) -> None:
    for access in (Access(keys), Access(keys, open_to_infer=True)):
        with pytest.raises(Unauthorised, match="administration needs an API key"):
            access.check(None, ADMIN)


def test_inference_is_open_until_a_key_for_it_is_made_and_stays_closed_when_the_last_is_revoked(keys: ApiKeys) -> None:
    access = Access(keys)
    keys.add("boss", (ADMIN,))
    access.refresh()
    assert access.check(None, INFER) is ANYBODY
    keys.add("a")
    access.refresh()
    with pytest.raises(Unauthorised, match="tightship access add"):
        access.check(None, INFER)
    keys.revoke("a")
    access.refresh()
    with pytest.raises(Unauthorised):
        access.check(None, INFER)


def test_a_revoked_key_ends_at_the_next_refresh(keys: ApiKeys) -> None:
    key = keys.add("a")
    access = Access(keys)
    access.check(bearer(key), INFER)
    assert keys.revoke("a").revoked > 0
    access.refresh()
    with pytest.raises(Unauthorised):
        access.check(bearer(key), INFER)


def test_the_disk_holds_no_key(keys: ApiKeys, tmp_path: Path) -> None:
    key = keys.add("a")
    secret = key.split("_")[2].encode()
    on_disk = [path.read_bytes() for path in tmp_path.iterdir()]
    assert on_disk and not any(secret in data or bytes.fromhex(secret.decode()) in data for data in on_disk)


def test_a_key_comes_back_at_its_rate_and_not_faster(keys: ApiKeys, clock: list[float]) -> None:
    credential = bearer(keys.add("a", rate_per_s=10, burst=3))
    access = Access(keys)
    for _ in range(3):
        access.check(credential, INFER)
    with pytest.raises(Overloaded, match="rate limit") as refused:
        access.check(credential, INFER)
    assert refused.value.retry_after_s == pytest.approx(0.1)
    clock[0] += 0.1001
    access.check(credential, INFER)
    with pytest.raises(Overloaded):
        access.check(credential, INFER)
    clock[0] += 1000
    for _ in range(3):
        access.check(credential, INFER)
    with pytest.raises(Overloaded):
        access.check(credential, INFER)


def test_workers_share_a_rate(keys: ApiKeys, clock: list[float]) -> None:
    credential = bearer(keys.add("a", rate_per_s=8, burst=8))
    passed = 0
    for worker in [Access(keys, workers=4) for _ in range(4)]:
        for _ in range(8):
            try:
                worker.check(credential, INFER)
                passed += 1
            except Overloaded:
                break
    assert passed == 8


def test_a_refresh_fills_no_bucket(keys: ApiKeys, clock: list[float]) -> None:
    credential = bearer(keys.add("a", rate_per_s=1, burst=1))
    access = Access(keys)
    access.check(credential, INFER)
    keys.add("b")
    access.refresh()
    with pytest.raises(Overloaded):
        access.check(credential, INFER)


def test_a_refused_request_takes_nothing_of_another_key(keys: ApiKeys, clock: list[float]) -> None:
    a, b = (bearer(keys.add(name, rate_per_s=1, burst=1)) for name in "ab")
    access = Access(keys)
    access.check(a, INFER)
    with pytest.raises(Overloaded):
        access.check(a, INFER)
    access.check(b, INFER)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "printable name"),
        ({"name": "a\nb"}, "printable name"),
        ({"name": "x", "scopes": ()}, "at least one"),
        ({"name": "x", "scopes": ("admn",)}, "did you mean 'admin'"),
        ({"name": "x", "rate_per_s": -1.0}, "from 0 up"),
        ({"name": "x", "rate_per_s": float("nan")}, "from 0 up"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(keys: ApiKeys, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        keys.add(**arguments)  # type: ignore[arg-type]
    assert keys.list() == []


def test_a_name_is_free_again_when_its_key_is_revoked(keys: ApiKeys) -> None:
    keys.add("a")
    with pytest.raises(UsageError, match="called 'a' already"):
        keys.add("a")
    keys.revoke("a")
    keys.add("a")
    assert [bool(record.revoked) for record in keys.list()] == [True, False]


def test_revoking_a_key_that_is_not_there_names_the_nearest(keys: ApiKeys) -> None:
    keys.add("phone-app")
    with pytest.raises(UsageError, match="did you mean 'phone-app'"):
        keys.revoke("phone-ap")


def test_the_first_start_writes_the_administrators_key_for_its_owner_alone(keys: ApiKeys, tmp_path: Path) -> None:
    path = keys.ensure_admin(tmp_path)
    assert path is not None and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Access(keys).check(path.read_bytes().strip(), ADMIN).name == "administrator"
    assert keys.ensure_admin(tmp_path) is None


def test_a_first_start_that_was_killed_between_file_and_row_is_completed(keys: ApiKeys, tmp_path: Path) -> None:
    path = keys.ensure_admin(tmp_path)
    assert path is not None
    key = path.read_bytes()
    with sqlite3.connect(tmp_path / "state.sqlite") as connection:
        connection.execute("DELETE FROM api_keys")
    assert keys.ensure_admin(tmp_path) == path
    assert path.read_bytes() == key and Access(keys).check(key.strip(), ADMIN)


def test_a_revoked_administrators_key_does_not_come_back_by_itself(keys: ApiKeys, tmp_path: Path) -> None:
    path = keys.ensure_admin(tmp_path)
    assert path is not None
    keys.revoke("administrator")
    assert keys.ensure_admin(tmp_path) is None
    with pytest.raises(Unauthorised):
        Access(keys).check(path.read_bytes().strip(), ADMIN)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "")),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_a_server_that_strangers_reach_is_not_started_without_keys_or_certificates(keys: ApiKeys) -> None:
    mutual = TlsFiles(Path("c"), Path("k"), Path("clients"))
    one_way = TlsFiles(Path("c"), Path("k"))
    check_exposure("127.0.0.1", keys, None, False)
    check_exposure("0.0.0.0", keys, mutual, False)
    check_exposure("0.0.0.0", keys, None, True)
    for tls in (None, one_way):
        with pytest.raises(ServeError, match="or say --open"):
            check_exposure("0.0.0.0", keys, tls, False)
    keys.add("a")
    check_exposure("0.0.0.0", keys, None, False)


def test_checking_a_key_is_cheap(keys: ApiKeys) -> None:
    credential = bearer(keys.add("a", rate_per_s=1e9, burst=1e9))
    access, rounds = Access(keys), 20_000
    start = time.thread_time()
    for _ in range(rounds):
        access.check(credential, INFER)
    # 2 us where it was measured; 20 us would mean that something heavy came onto the path.
    assert (time.thread_time() - start) / rounds < 20e-6
