"""The data key for every receiver, and for no one else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from tests.package.key_pairs import RECEIVERS, key
from tightship.errors import SealError, UsageError
from tightship.package.kinds import PrivateKey, PublicKey
from tightship.package.recipients import (
    MAX_PASSPHRASES,
    MAX_RECIPIENTS,
    Argon2idCost,
    Passphrase,
    ScryptCost,
    Wrapped,
    read_wrapped,
    unwrap,
    wrap,
)
from tightship.package.streaming import new_data_key

CONTEXT = b"package 1"
CHEAP = Argon2idCost(memory_kib=8 << 10, iterations=1, lanes=1)
DATA_KEY = bytes(range(32))


def through_json(wrapped: Sequence[Wrapped]) -> tuple[Wrapped, ...]:
    return read_wrapped(json.loads(json.dumps([asdict(entry) for entry in wrapped])))


@pytest.mark.parametrize("kind", RECEIVERS)
def test_each_kind_of_receiver_opens_what_was_wrapped_for_it(kind: str) -> None:
    wrapped = wrap(DATA_KEY, CONTEXT, [key(kind).public])
    assert unwrap(through_json(wrapped), CONTEXT, key(kind)) == DATA_KEY
    assert wrapped[0].key_id == key(kind).public.id


@pytest.mark.parametrize("cost", [CHEAP, ScryptCost(n=1 << 14)])
def test_a_passphrase_opens_what_was_wrapped_for_it(cost: Argon2idCost | ScryptCost) -> None:
    wrapped = wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", cost)])
    assert unwrap(through_json(wrapped), CONTEXT, Passphrase(b"correct horse")) == DATA_KEY
    assert wrapped[0].parameters == asdict(cost)


def test_everyone_on_the_list_opens_the_same_package() -> None:
    everyone: list[PublicKey | Passphrase] = [key(kind).public for kind in RECEIVERS]
    everyone += [Passphrase(b"first", CHEAP), Passphrase(b"second", CHEAP)]
    wrapped = wrap(DATA_KEY, CONTEXT, everyone)
    openers: list[PrivateKey | Passphrase] = [key(kind) for kind in RECEIVERS]
    openers += [Passphrase(b"first"), Passphrase(b"second")]
    assert [unwrap(wrapped, CONTEXT, opener) for opener in openers] == [DATA_KEY] * len(everyone)


def test_what_is_stored_is_as_dear_as_the_recommendations_of_rfc_9106_and_owasp() -> None:
    assert Argon2idCost() == Argon2idCost(memory_kib=65536, iterations=3, lanes=4)
    assert ScryptCost() == ScryptCost(n=1 << 17, r=8, p=1)


def test_the_same_data_key_is_never_wrapped_alike() -> None:
    for receiver in (key("x25519").public, key("rsa-3072").public, Passphrase(b"p", CHEAP)):
        first, second = (wrap(DATA_KEY, CONTEXT, [receiver])[0] for _ in range(2))
        assert first.encapsulated != second.encapsulated
        assert first.ciphertext != second.ciphertext


def test_the_data_key_does_not_stand_in_what_is_stored() -> None:
    data_key = bytes(new_data_key())
    stored = json.dumps([asdict(entry) for entry in wrap(data_key, CONTEXT, [key("x25519").public])])
    assert data_key.hex() not in stored


def test_a_key_that_only_signs_neither_receives_nor_opens() -> None:
    with pytest.raises(UsageError, match="ed25519 signs and cannot receive; keys that receive: rsa-3072"):
        wrap(DATA_KEY, CONTEXT, [key("ed25519").public])
    with pytest.raises(UsageError, match="ec-p256 signs and cannot receive"):
        unwrap(wrap(DATA_KEY, CONTEXT, [key("x25519").public]), CONTEXT, key("ec-p256"))


def test_a_list_of_receivers_is_not_empty_not_endless_and_names_each_once() -> None:
    with pytest.raises(UsageError, match="1 to 64 receivers"):
        wrap(DATA_KEY, CONTEXT, [])
    with pytest.raises(UsageError, match="found 65"):
        wrap(DATA_KEY, CONTEXT, [key("x25519").public] * (MAX_RECIPIENTS + 1))
    with pytest.raises(UsageError, match="at most 4 of them passphrases"):
        wrap(DATA_KEY, CONTEXT, [Passphrase(b"p", CHEAP)] * (MAX_PASSPHRASES + 1))
    with pytest.raises(UsageError, match="named twice"):
        wrap(DATA_KEY, CONTEXT, [key("x25519").public] * 2)


def test_passphrases_together_cost_no_more_than_a_reader_pays() -> None:
    dear = Argon2idCost(memory_kib=256 << 10, iterations=3)
    with pytest.raises(UsageError, match="cost more than a reader will pay"):
        wrap(DATA_KEY, CONTEXT, [Passphrase(b"one", dear), Passphrase(b"two", dear)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Argon2idCost(memory_kib=1 << 30),
        lambda: Argon2idCost(iterations=1000),
        lambda: Argon2idCost(lanes=0),
        lambda: Argon2idCost(memory_kib=64),
        lambda: ScryptCost(n=1 << 30),
        lambda: ScryptCost(n=(1 << 17) - 1),
        lambda: ScryptCost(r=1 << 20),
        lambda: ScryptCost(n=1024),
        lambda: Passphrase(b""),
    ],
)
def test_a_cost_too_high_or_too_low_is_refused(make: object) -> None:
    with pytest.raises(UsageError, match=r"passphrase|power of two"):
        make()  # type: ignore[operator]


def test_a_data_key_has_32_bytes() -> None:
    with pytest.raises(UsageError, match="found 16"):
        wrap(bytes(16), CONTEXT, [key("x25519").public])


def test_a_wrap_for_one_package_does_not_open_another() -> None:
    for kind in RECEIVERS:
        wrapped = wrap(DATA_KEY, CONTEXT, [key(kind).public])
        with pytest.raises(SealError):
            unwrap(wrapped, b"package 2", key(kind))


def test_a_passphrase_is_not_shown_when_printed() -> None:
    assert "horse" not in repr(Passphrase(b"correct horse"))
