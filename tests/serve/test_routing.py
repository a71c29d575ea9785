"""Who answers: shares, keys that stay, copies."""

from __future__ import annotations

import hashlib
import random
import timeit
from typing import Any

import pytest

from tightship.serve.access import Caller
from tightship.serve.catalogue import Served
from tightship.serve.routing import Choice, Routes, place_of

KEYS = [f"customer-{number}".encode() for number in range(4000)]


def test_without_a_candidate_the_stable_version_answers_all() -> None:
    assert Routes("1").choose(None, b"ann", 0.99) == Choice("1", None)


def test_a_version_that_is_asked_for_answers_and_is_not_copied() -> None:
    assert Routes("1", "2", share=1.0, shadow=1.0).choose("7", None, 0.0) == Choice("7", None)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 1.0])
def test_the_candidate_gets_its_share_of_requests_and_of_callers(share: float) -> None:
    routes, draw = Routes("1", "2", share=share, salt="3"), random.Random(0)
    requests = sum(routes.choose(None, None, draw.random()).version == "2" for _ in range(20_000)) / 20_000
    callers = sum(routes.choose(None, key, draw.random()).version == "2" for key in KEYS) / len(KEYS)
    assert requests == pytest.approx(share, abs=0.01)
    assert callers == pytest.approx(share, abs=0.025)


def test_a_caller_stays_and_only_ever_moves_to_the_candidate_while_its_share_grows() -> None:
    before: set[bytes] = set()
    for share in (0.01, 0.05, 0.25, 0.5, 1.0):
        routes = Routes("1", "2", share=share, salt="3")
        answered = [{routes.choose(None, key, draw).version for draw in (0.0, 0.5, 0.999)} for key in KEYS]
        assert all(len(versions) == 1 for versions in answered)
        moved = {key for key, versions in zip(KEYS, answered, strict=True) if versions == {"2"}}
        assert before <= moved
        before = moved
    assert before == set(KEYS)


def test_another_rollout_tries_itself_on_other_callers() -> None:
    first, second = (
        {key for key in KEYS if Routes("1", "2", share=0.1, salt=salt).choose(None, key, 0.0).version == "2"}
        for salt in ("3", "4")
    )
    assert len(first & second) / len(first) == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_copies_go_to_the_other_version_in_their_share(share: float) -> None:
    routes, draw = Routes("1", "2", share=share, shadow=0.2), random.Random(1)
    choices = [routes.choose(None, None, draw.random()) for _ in range(20_000)]
    copied = [choice for choice in choices if choice.shadow is not None]
    assert len(copied) / len(choices) == pytest.approx(0.2, abs=0.02)
    assert all({choice.version, choice.shadow} == {"1", "2"} for choice in copied)


def test_a_place_is_the_same_in_every_process_and_below_1() -> None:
    assert place_of(b"ann", "3") == 0.9065360364941355
    assert all(0.0 <= place_of(key, "") < 1.0 for key in KEYS)


def test_choosing_by_a_key_costs_a_few_times_its_hash() -> None:
    routes = Routes("1", "2", share=0.5, shadow=0.1, salt="3")
    choosing = min(timeit.repeat(lambda: routes.choose(None, b"ann", 0.3), number=500, repeat=20))
    hashing = min(timeit.repeat(lambda: hashlib.blake2b(b"ann").digest(), number=500, repeat=20))
    assert choosing < 10 * hashing  # about 3 times; 2 us on an idle core


@pytest.mark.parametrize("by_key", [True, False])
def test_callers_stay_with_their_version_by_their_key_where_the_rollout_says_so(by_key: bool) -> None:
    versions: Any = {"1": "the old one", "2": "the new one"}
    served = Served("net", versions, Routes("1", "2", share=0.5, by_key=by_key))
    callers = [Caller(key.decode(), "any", frozenset()) for key in KEYS[:40]]
    seen = [{served.choose(None, None, caller)[0] for _ in range(40)} for caller in callers[:20]]
    stays = [len(versions) == 1 for versions in seen]
    assert all(stays) if by_key else not any(stays)
    assert len(set.union(*seen)) == 2
    chosen = {served.choose(None, b"one sticky key", caller)[0] for caller in callers}
    assert len(chosen) == 1  # what the request names itself comes first
    assert len({served.choose(None, None)[0] for _ in range(40)}) == 2  # who showed no key is anybody
