"""The list of receivers in hostile hands: one uniform error after bounded work, whatever was changed."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.package.key_pairs import RECEIVERS, key
from tightship.errors import SealError
from tightship.package.kinds import PrivateKey
from tightship.package.passphrases import MAX_WORK_KIB
from tightship.package.recipients import (
    MAX_PASSPHRASES,
    MAX_RECIPIENTS,
    SUITES,
    Argon2idCost,
    Passphrase,
    ScryptCost,
    Wrapped,
    read_wrapped,
    unwrap,
    wrap,
)
from tightship.package.refusal import REFUSAL

CONTEXT = b"package 1"
DATA_KEY = bytes(range(32))
CHEAP = Argon2idCost(memory_kib=8 << 10, iterations=1, lanes=1)
SECONDS = 1.0
"""Of a processor. A refusal before any derivation takes a thousandth of this."""


def wrapped_for(kind: str) -> Wrapped:
    return wrap(DATA_KEY, CONTEXT, [key(kind).public])[0]


def refused(wrapped: Sequence[Wrapped], opener: PrivateKey | Passphrase, context: bytes = CONTEXT) -> None:
    with pytest.raises(SealError) as caught:
        unwrap(wrapped, context, opener)
    assert str(caught.value) == REFUSAL
    assert caught.value.__cause__ is None


def flipped(text: str, position: int) -> str:
    data = bytearray(base64.b64decode(text))
    data[position % len(data)] ^= 1 << (position % 8)
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", RECEIVERS)
def test_another_key_of_the_same_kind_does_not_open(kind: str) -> None:
    if kind != "rsa-4096":  # a second one takes seconds to make, and is as foreign as a second rsa-3072
        refused([wrapped_for(kind)], key(kind, other=1))


@pytest.mark.parametrize("kind", RECEIVERS)
def test_another_key_under_the_receivers_id_does_not_open(kind: str) -> None:
    stranger = "x25519" if kind != "x25519" else "rsa-3072"
    refused([replace(wrapped_for(kind), key_id=key(stranger).public.id)], key(stranger))


@pytest.mark.parametrize("cost", [CHEAP, ScryptCost(n=1 << 14)])
def test_a_wrong_passphrase_does_not_open(cost: Argon2idCost | ScryptCost) -> None:
    refused(wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", cost)]), Passphrase(b"battery staple"))


def test_a_passphrase_does_not_open_what_is_for_keys_nor_a_key_what_is_for_a_passphrase() -> None:
    refused([wrapped_for("x25519")], Passphrase(b"correct horse"))
    refused(wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", CHEAP)]), key("x25519"))


@pytest.mark.parametrize("kind", RECEIVERS)
@pytest.mark.parametrize("part", ["encapsulated", "ciphertext"])
def test_a_flipped_bit_in_a_wrap_is_refused(kind: str, part: str) -> None:
    whole = wrapped_for(kind)
    n_bytes = len(base64.b64decode(getattr(whole, part)))
    step = 1 if n_bytes < 200 else n_bytes // 50
    for position in range(0, n_bytes, step):
        refused([replace(whole, **{part: flipped(getattr(whole, part), position)})], key(kind))


@pytest.mark.parametrize("kind", RECEIVERS)
@pytest.mark.parametrize("part", ["encapsulated", "ciphertext"])
def test_a_shortened_or_lengthened_wrap_is_refused(kind: str, part: str) -> None:
    whole = wrapped_for(kind)
    data = base64.b64decode(getattr(whole, part))
    for changed in (b"", data[:-1], data[1:], data[:1], data + b"\x00", data * 2):
        refused([replace(whole, **{part: base64.b64encode(changed).decode()})], key(kind))


@pytest.mark.parametrize("kind", RECEIVERS)
def test_a_point_of_small_order_is_refused(kind: str) -> None:
    whole = wrapped_for(kind)
    for fill in (b"\x00", b"\x01", b"\xff"):
        encapsulated = base64.b64encode(fill * len(base64.b64decode(whole.encapsulated))).decode()
        refused([replace(whole, encapsulated=encapsulated)], key(kind))


def test_bytes_moved_from_the_encapsulated_key_to_the_ciphertext_are_refused() -> None:
    whole = wrapped_for("x25519")
    joined = base64.b64decode(whole.encapsulated) + base64.b64decode(whole.ciphertext)
    moved = replace(
        whole,
        encapsulated=base64.b64encode(joined[:31]).decode(),
        ciphertext=base64.b64encode(joined[31:]).decode(),
    )
    refused([moved], key("x25519"))


def test_swapped_receivers_are_refused() -> None:
    first, second = key("x25519"), key("x25519", other=1)
    one, two = wrap(DATA_KEY, CONTEXT, [first.public, second.public])
    swapped = [replace(one, key_id=two.key_id), replace(two, key_id=one.key_id)]
    refused(swapped, first)
    refused(swapped, second)


def test_the_ciphertext_of_another_receiver_is_refused() -> None:
    one, two = wrap(DATA_KEY, CONTEXT, [key("x25519").public, key("mlkem768-x25519").public])
    refused([replace(one, ciphertext=two.ciphertext), two], key("x25519"))


def test_a_removed_or_repeated_receiver_is_refused() -> None:
    one, two = wrap(DATA_KEY, CONTEXT, [key("x25519").public, key("mlkem768-x25519").public])
    refused([two], key("x25519"))
    refused([one, one, two], key("x25519"))
    refused([], key("x25519"))


def test_wraps_of_another_package_are_refused() -> None:
    for kind in RECEIVERS:
        refused([wrapped_for(kind)], key(kind), context=b"package 2")


@pytest.mark.parametrize("kind", RECEIVERS)
@pytest.mark.parametrize(
    "suite", ["", "none", "aes-128-gcm", "rsa-pkcs1", "rsa-oaep-sha1-aes-256-gcm", *SUITES.values()]
)
def test_a_downgraded_or_exchanged_suite_is_refused(kind: str, suite: str) -> None:
    whole = wrapped_for(kind)
    if suite.format(oaep_hash="sha256") != whole.suite:
        refused([replace(whole, suite=suite.format(oaep_hash="sha256"))], key(kind))


def test_a_cost_that_was_lowered_or_raised_is_refused() -> None:
    (whole,) = wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", CHEAP)])
    for name, value in {"memory_kib": 9 << 10, "iterations": 2, "lanes": 2}.items():
        changed = replace(whole, parameters={**whole.parameters, name: value})
        refused([changed], Passphrase(b"correct horse"))
    refused([replace(whole, suite="scrypt-aes-256-gcm")], Passphrase(b"correct horse"))
    refused([replace(whole, encapsulated=flipped(whole.encapsulated, 3))], Passphrase(b"correct horse"))
    refused([replace(whole, ciphertext=flipped(whole.ciphertext, 20))], Passphrase(b"correct horse"))


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("argon2id", {"memory_kib": 1 << 40, "iterations": 1, "lanes": 1}),
    ("argon2id", {"memory_kib": 8 << 10, "iterations": 1 << 31, "lanes": 1}),
    ("argon2id", {"memory_kib": 8 << 10, "iterations": 1, "lanes": 1 << 24}),
    ("argon2id", {"memory_kib": 10**400, "iterations": 1, "lanes": 1}),
    ("argon2id", {"memory_kib": -1, "iterations": 1, "lanes": 1}),
    ("argon2id", {"memory_kib": "65536", "iterations": 1, "lanes": 1}),
    ("argon2id", {"memory_kib": 65536.0, "iterations": 1, "lanes": 1}),
    ("argon2id", {"memory_kib": None, "iterations": 1, "lanes": 1}),
    ("argon2id", {"memory_kib": 65536, "iterations": True, "lanes": 1}),
    ("argon2id", {"memory_kib": 256 << 10, "iterations": 16, "lanes": 1}),
    ("argon2id", {"salt": 1, "n": 1, "memory_kib": 65536}),
    ("argon2id", {"self": 1}),
    ("argon2id", {str(number): number for number in range(1000)}),
    ("scrypt", {"n": 1 << 30, "r": 8, "p": 1}),
    ("scrypt", {"n": 1 << 17, "r": 1 << 20, "p": 1}),
    ("scrypt", {"n": 1 << 17, "r": 8, "p": 1 << 30}),
    ("scrypt", {"n": 0, "r": 8, "p": 1}),
    ("scrypt", {"n": (1 << 17) + 1, "r": 8, "p": 1}),
    ("bcrypt", {"rounds": 31}),
]


@pytest.mark.parametrize(("kdf", "parameters"), HOSTILE)
def test_a_hostile_cost_is_refused_before_it_is_paid(kdf: str, parameters: dict[str, Any]) -> None:
    salt, sealed = base64.b64encode(bytes(16)).decode(), base64.b64encode(bytes(60)).decode()
    hostile = Wrapped(f"{kdf}-aes-256-gcm", "", salt, sealed, parameters)
    started = time.process_time()
    refused([hostile], Passphrase(b"correct horse"))
    assert time.process_time() - started < SECONDS


def test_costs_that_are_each_allowed_are_refused_where_they_add_up() -> None:
    salt, sealed = base64.b64encode(bytes(16)).decode(), base64.b64encode(bytes(60)).decode()
    dear = Argon2idCost(memory_kib=256 << 10, iterations=2, lanes=1)
    assert dear.work_kib <= MAX_WORK_KIB < 3 * dear.work_kib
    row = Wrapped("argon2id-aes-256-gcm", "", salt, sealed, asdict(dear))
    started = time.process_time()
    refused([row] * 3, Passphrase(b"correct horse"))
    assert time.process_time() - started < SECONDS


def test_too_many_receivers_or_passphrases_are_refused_unread() -> None:
    whole = wrapped_for("x25519")
    others = [replace(whole, key_id=f"{number:064x}") for number in range(MAX_RECIPIENTS)]
    refused([whole, *others], key("x25519"))
    (phrase,) = wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", CHEAP)])
    refused([phrase] * (MAX_PASSPHRASES + 1), Passphrase(b"correct horse"))


@pytest.mark.parametrize("part", ["suite", "key_id", "encapsulated", "ciphertext"])
def test_an_enormous_field_is_refused_unread(part: str) -> None:
    huge = replace(wrapped_for("x25519"), **{part: "A" * (32 << 20)})
    tracemalloc.start()
    try:
        refused([huge], key("x25519"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("junk", ["", "!", "AAA", "ÄÖÜ=", "A" * 4095, "\x00" * 44, "=" * 44])
@pytest.mark.parametrize("part", ["encapsulated", "ciphertext"])
def test_what_is_no_base64_is_refused(part: str, junk: str) -> None:
    for kind in ("x25519", "rsa-3072", "mlkem768-x25519"):
        refused([replace(wrapped_for(kind), **{part: junk})], key(kind))
    (phrase,) = wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", CHEAP)])
    refused([replace(phrase, **{part: junk})], Passphrase(b"correct horse"))


ROW = {"suite": "x", "key_id": "", "encapsulated": "", "ciphertext": "", "parameters": {}}


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {},
        "rows",
        7,
        [None],
        [[]],
        ["suite"],
        [{}],
        [{**ROW, "extra": 1}],
        [{name: value for name, value in ROW.items() if name != "suite"}],
        [{**ROW, "suite": 3}],
        [{**ROW, "key_id": None}],
        [{**ROW, "ciphertext": {"a": 1}}],
        [{**ROW, "parameters": []}],
        [{**ROW, "parameters": {str(number): 1 for number in range(50)}}],
        [ROW] * 65,
    ],
)
def test_a_header_of_another_shape_is_refused(rows: object) -> None:
    with pytest.raises(SealError) as caught:
        read_wrapped(json.loads(json.dumps(rows)))
    assert str(caught.value) == REFUSAL
