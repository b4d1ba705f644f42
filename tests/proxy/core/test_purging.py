from __future__ import annotations

import pytest

from proxy.core.controls import Controls
from proxy.core.purging import MAX_PURGES, REMEMBER_S, Purge, PurgeKind, PurgeLog, purge_from_json, subject_of
from storage.digest import PredictionKey
from tests.fakes.stores import sample_record

RECORD = sample_record(tags=("spring", "namespace:blue"), deployment="acme/live")


@pytest.mark.parametrize(
    ("kind", "value", "is_meant"),
    [
        ("id", f"{RECORD.record_id:010x}", True),
        ("id", f"{RECORD.record_id ^ 1:010x}", False),
        ("key", RECORD.key.hex(), True),
        ("key", "00" * 32, False),
        ("tag", "spring", True),
        ("tag", "namespace:blue", True),
        ("tag", "spr*", False),
        ("model", "acme/painter", True),
        ("model", "acme/*", True),
        ("model", "deployments/acme/*", True),
        ("model", "ACME/*", False),
        ("model", "other/*", False),
    ],
)
def test_purge_means_what_its_kind_says(kind: PurgeKind, value: str, is_meant: bool) -> None:
    assert Purge(kind, frozenset({value}), 1.0).names(subject_of(RECORD)) is is_meant


def test_model_that_is_not_known_yet_may_be_any() -> None:
    assert Purge("model", frozenset({"acme/*"}), 1.0).names(subject_of(sample_record(model="")))


def test_everything_is_meant_by_a_purge_of_all() -> None:
    assert Purge("all", frozenset(), 1.0).names(subject_of(RECORD))


def test_result_that_is_no_cache_entry_has_no_key_to_be_purged_by() -> None:
    left = sample_record(key=PredictionKey(bytes(32)))
    assert not Purge("key", frozenset({"00" * 32}), 1.0).names(subject_of(left))


def test_what_began_before_a_purge_is_covered_and_what_began_after_it_is_not() -> None:
    log = PurgeLog()
    assert log.add(Purge("tag", frozenset({"spring"}), 100.0))
    assert not log.add(Purge("tag", frozenset({"spring"}), 100.0)), "it was told already"
    assert log.covers(subject_of(RECORD), 99.0)
    assert log.covers(subject_of(RECORD), 100.0)
    assert not log.covers(subject_of(RECORD), 100.1)


def test_log_is_bounded_and_forgets_in_favour_of_misses() -> None:
    log = PurgeLog()
    for number in range(MAX_PURGES + 1):
        log.add(Purge("tag", frozenset({f"t{number}"}), float(number)))
    assert len(log) <= MAX_PURGES
    unrelated = subject_of(sample_record())
    assert log.covers(unrelated, 0.0), "one of those that were merged may have been about it"
    assert not log.covers(unrelated, float(MAX_PURGES))
    log.add(Purge("tag", frozenset({"later"}), MAX_PURGES + REMEMBER_S + 1))
    assert len(log) == 1


def test_purge_survives_being_written_down_and_nonsense_does_not() -> None:
    purge = Purge("model", frozenset({"a/*", "b/*"}), 5.5)
    assert purge_from_json(purge.to_json()) == purge
    for nonsense in ({}, {"kind": "some", "values": [], "at": 1}, {"kind": "all", "values": [], "at": "x"}, []):
        with pytest.raises((ValueError, KeyError, TypeError)):
            purge_from_json(nonsense)


def test_namespace_is_a_tag_by_itself() -> None:
    assert Controls(namespace="blue", tags=("a",)).purge_tags == ("a", "namespace:blue")
    assert Controls(tags=("a",)).purge_tags == ("a",)
