"""Scheduling by itself: no network, no clock, no tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import Overloaded
from proxy.upstreams import pool as pool_module
from proxy.upstreams.cog_wire import Away, Health, size_of
from proxy.upstreams.fleet import Breaker, CopyView, plan_fleet
from proxy.upstreams.pool import (
    MAX_MISSES,
    Ejected,
    Occupied,
    Pool,
    Serving,
    Starting,
    State,
    Ticket,
    Unseen,
    judge,
    next_look_s,
)

BUILD = "b1"


def pool_of(*states: State, slots: int = 1, limit: int = 100, build: str | None = BUILD) -> Pool:
    pool = Pool(limit)
    for number, state in enumerate(states):
        pool.add(f"s{number}", slots, state, build, 0.0)
    return pool


def places(tickets: list[Ticket]) -> list[tuple[int, str | None]]:
    return [(ticket.serial, ticket.server_id) for ticket in tickets]


# -- the line ------------------------------------------------------------------------------------------


def test_first_come_first_served_over_idle_servers() -> None:
    pool = pool_of(Serving(), Serving())
    tickets = [pool.join(BUILD, 1.0) for _ in range(3)]
    assert places(pool.place(1.0)) == [(1, "s0"), (2, "s1")]
    assert pool.waiting() == (tickets[2],)
    pool.leave(tickets[1], 2.0)
    assert places(pool.place(2.0)) == [(3, "s1")]


def test_a_run_whose_server_was_lost_keeps_its_place_at_the_head() -> None:
    pool = pool_of(Serving(), Serving())
    first, second, third, fourth = (pool.join(BUILD, 1.0) for _ in range(4))
    pool.place(1.0)
    pool.update("s0", Ejected("gone"), 2.0)
    pool.update("s1", Ejected("gone"), 2.0)
    pool.rejoin(second, 2.0)
    pool.rejoin(first, 2.0)
    assert pool.waiting() == (first, second, third, fourth)
    pool.update("s1", Serving(), 3.0)
    assert places(pool.place(3.0)) == [(1, "s1")]


def test_a_full_line_refuses_and_a_free_slot_does_not() -> None:
    pool = pool_of(Serving(), limit=1)
    running = pool.join(BUILD, 0.0)
    pool.place(0.0)
    pool.join(BUILD, 0.0)
    with pytest.raises(Overloaded) as refused:
        pool.join(BUILD, 0.0)
    assert refused.value.retry_after_s
    pool.leave(running, 1.0)
    pool.place(1.0)
    pool.join(BUILD, 1.0)


def test_inputs_in_a_line_are_bounded_in_bytes_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_LINE_BYTES", 100)
    pool = pool_of(Occupied())
    first = pool.join(BUILD, 0.0, 500)  # whoever waits alone may be of any size
    with pytest.raises(Overloaded):
        pool.join(BUILD, 0.0, 1)
    pool.leave(first, 1.0)
    for _ in range(4):
        pool.join(BUILD, 1.0, 25)
    with pytest.raises(Overloaded):
        pool.join(BUILD, 1.0, 1)


def test_size_of_an_input_is_that_of_its_texts() -> None:
    assert size_of({"a": "x" * 70, "b": [1, None, {"c": "y" * 30}], "d": True}) == 100


def test_a_run_that_leaves_the_line_is_never_placed() -> None:
    pool = pool_of(Occupied())
    gone, stays = pool.join(BUILD, 0.0), pool.join(BUILD, 0.0)
    pool.leave(gone, 0.5)
    pool.update("s0", Serving(), 1.0)
    assert places(pool.place(1.0)) == [(stays.serial, "s0")]


def test_slots_are_filled_and_the_least_loaded_server_is_chosen() -> None:
    pool = pool_of(Serving(), Serving(), slots=2)
    for _ in range(5):
        pool.join(BUILD, 0.0)
    assert [server for _, server in places(pool.place(0.0))] == ["s0", "s1", "s0", "s1"]
    assert len(pool.waiting()) == 1


def test_among_idle_servers_the_one_last_used_is_chosen_so_that_others_grow_idle() -> None:
    pool = pool_of(Serving(), Serving())
    both = [pool.join(BUILD, 0.0) for _ in range(2)]
    pool.place(0.0)
    pool.leave(both[0], 5.0)
    pool.leave(both[1], 9.0)
    pool.join(BUILD, 10.0)
    assert places(pool.place(10.0)) == [(3, "s1")]


@pytest.mark.parametrize("state", [Unseen(), Starting(), Occupied(), Ejected("x")])
def test_only_serving_servers_get_runs(state: State) -> None:
    pool = pool_of(state)
    pool.join(BUILD, 0.0)
    assert pool.place(0.0) == []


@given(st.lists(st.sampled_from(["join", "place", "end", "lose", "leave", "up"]), max_size=60))
def test_whatever_happens_slots_are_kept_and_the_line_stays_in_order(steps: list[str]) -> None:
    pool, tickets, now = pool_of(Serving(), Serving(), slots=2), list[Ticket](), 0.0
    for step in steps:
        now += 1.0
        running = [ticket for ticket in tickets if ticket.server_id is not None]
        if step == "join":
            tickets.append(pool.join(BUILD, now))
        elif step == "place":
            placed = pool.place(now)
            left = pool.waiting()
            assert not placed or not left or placed[-1].serial < left[0].serial
        elif step == "end" and running:
            pool.leave(running[0], now)
        elif step == "lose" and running:
            assert running[-1].server_id is not None
            pool.update(running[-1].server_id, Ejected("lost"), now)
            pool.rejoin(running[-1], now)
        elif step == "leave" and pool.waiting():
            pool.leave(pool.waiting()[-1], now)
        elif step == "up":
            for server in pool.servers():
                pool.update(server.id, Serving(), now)
        line = [ticket.serial for ticket in pool.waiting()]
        assert line == sorted(line)
        for server in pool.servers():
            held = sum(ticket.server_id == server.id for ticket in tickets)
            assert server.running == held <= server.slots


# -- builds --------------------------------------------------------------------------------------------


def test_a_run_only_goes_to_a_server_of_its_build() -> None:
    pool = Pool(10)
    pool.add("old", 1, Serving(), "b1", 0.0)
    pool.add("new", 1, Serving(), "b2", 0.0)
    for build in ("b2", "b2", "b1"):
        pool.join(build, 0.0)
    assert places(pool.place(0.0)) == [(1, "new"), (3, "old")]


def test_a_build_that_nobody_has_any_more_makes_its_runs_outdated() -> None:
    pool = pool_of(Occupied())
    ticket = pool.join(BUILD, 0.0)
    assert pool.outdated() == []
    pool.update("s0", Starting(), 1.0)
    assert pool.outdated() == []  # it may come back as it was
    pool.update("s0", Serving(), 2.0, build="b2")
    assert pool.outdated() == [ticket]
    assert pool.place(2.0) == []


# -- what a wait was for -------------------------------------------------------------------------------


def test_boot_and_download_are_counted_apart_and_only_while_nothing_is_up() -> None:
    pool = pool_of(Starting("download"))
    first = pool.join(BUILD, 10.0)
    pool.update("s0", Starting("boot"), 13.0, build=BUILD)
    second = pool.join(BUILD, 15.0)
    assert pool.is_booting
    pool.update("s0", Serving(), 18.0)
    assert not pool.is_booting
    pool.place(18.0)
    pool.add("s1", 1, Starting("boot"), BUILD, 18.0)
    pool.leave(first, 20.0)
    pool.place(20.0)
    assert (first.boot_s, first.download_s) == (5.0, 3.0)
    assert (second.boot_s, second.download_s) == (3.0, 0.0)  # from 18 to 20 it waited for a slot, not for a boot


def test_a_run_that_finds_a_server_ready_waited_for_no_boot() -> None:
    pool = pool_of(Starting())
    pool.update("s0", Serving(), 30.0)
    ticket = pool.join(BUILD, 31.0)
    pool.place(31.0)
    assert ticket.boot_s == 0.0


def test_a_boot_after_a_lost_server_adds_to_the_wait() -> None:
    pool = pool_of(Serving())
    ticket = pool.join(BUILD, 0.0)
    pool.place(0.0)
    pool.update("s0", Ejected("gone"), 5.0)
    pool.rejoin(ticket, 5.0)
    pool.remove("s0", 5.0)
    pool.add("s1", 1, Starting(), BUILD, 6.0)
    pool.update("s1", Serving(), 9.0)
    pool.place(9.0)
    assert ticket.boot_s == 3.0


def test_stranded_is_the_time_without_any_server_of_the_build() -> None:
    pool = pool_of(Serving())
    ticket = pool.join("b2", 2.0)
    assert pool.stranded_s(ticket, 5.0) == 3.0
    pool.add("s1", 1, Occupied(), "b2", 6.0)
    assert pool.stranded_s(ticket, 7.0) == 0.0
    pool.update("s1", Ejected("gone"), 9.0)
    assert pool.stranded_s(ticket, 12.0) == 3.0


def test_failed_setup_everywhere_is_told_and_one_doubt_is_enough_to_wait() -> None:
    pool = pool_of(Ejected("no weights", has_failed_setup=True), Ejected("cannot connect"))
    assert pool.failed_setup() is None
    pool.update("s1", Ejected("no weights either", has_failed_setup=True), 1.0)
    assert pool.failed_setup() == "no weights"
    assert Pool(1).failed_setup() is None


# -- what a look means ---------------------------------------------------------------------------------

REFUSED, MUTE = Away("cannot connect", "refused"), Away("no answer in time", "mute")


@pytest.mark.parametrize(
    ("seen", "before", "others", "misses", "after"),
    [
        (Health("READY"), Unseen(), 0, 0, Serving()),
        (Health("READY"), Ejected("x"), 0, 5, Serving()),
        (Health("BUSY"), Serving(), 1, 0, Serving()),
        (Health("BUSY"), Serving(), 0, 0, Occupied()),
        (Health("STARTING"), Serving(), 0, 0, Starting()),
        (Health("SETUP_FAILED", setup_logs="no weights"), Starting(), 0, 0, Ejected("no weights", True)),
        (Health("UNHEALTHY"), Serving(), 1, 0, Ejected("its health is UNHEALTHY")),
        (Health("DEFUNCT", detail="gpu"), Serving(), 0, 0, Ejected("its health is DEFUNCT (gpu)")),
        (REFUSED, Serving(), 1, 0, Ejected("cannot connect")),
        (MUTE, Serving(), 1, 0, Serving()),
        (MUTE, Occupied(), 0, MAX_MISSES - 2, Occupied()),
        (MUTE, Serving(), 1, MAX_MISSES - 1, Ejected("no answer in time")),
        (MUTE, Unseen(), 0, 0, Ejected("no answer in time")),
    ],
)
def test_judge(seen: Health | Away, before: State, others: int, misses: int, after: State) -> None:
    assert judge(seen, before, others_running=others, misses=misses) == after


@pytest.mark.parametrize("state", [Unseen(), Starting(), Serving(), Occupied(), Ejected("x")])
def test_looks_grow_rarer_and_never_stop(state: State) -> None:
    pauses = [next_look_s(state, looks) for looks in range(50)]
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] <= pauses[-1] <= 30.0


# -- how many copies -----------------------------------------------------------------------------------


def plan(*copies: CopyView, waiting: int = 0, head: float = 0.0, may_start: bool = True) -> tuple[int, set[str]]:
    decided = plan_fleet(
        copies,
        waiting=waiting,
        head_waited_s=head,
        max_copies=3,
        idle_timeout_s=60.0,
        last_boot_s=5.0,
        may_start=may_start,
    )
    return decided.starts, set(decided.stops)


COMING, WORKING, GOING = CopyView("c", "coming"), CopyView("w", "working"), CopyView("g", "going")
IDLE, TIRED = CopyView("i", "idle", idle_s=1.0), CopyView("t", "idle", idle_s=60.0)
OLD = CopyView("o", "working", is_outdated=True)


@pytest.mark.parametrize(
    ("copies", "waiting", "head", "starts"),
    [
        ([], 0, 0.0, 0),
        ([], 1, 0.0, 1),
        ([], 9, 0.0, 3),
        ([COMING], 1, 1.0, 0),
        ([COMING], 2, 0.0, 1),
        ([WORKING], 1, 0.0, 0),
        ([WORKING], 1, 5.0, 1),
        ([WORKING, COMING], 1, 5.0, 0),
        ([WORKING], 2, 0.0, 1),
        ([WORKING, WORKING, WORKING], 9, 99.0, 0),
        ([GOING, GOING], 5, 0.0, 1),
        ([GOING, GOING, GOING], 5, 0.0, 0),
        ([OLD], 1, 0.0, 1),
    ],
)
def test_copies_are_started_when_runs_pile_up_and_there_is_room(
    copies: list[CopyView], waiting: int, head: float, starts: int
) -> None:
    assert plan(*copies, waiting=waiting, head=head)[0] == starts
    assert plan(*copies, waiting=waiting, head=head, may_start=False)[0] == 0


def test_idle_and_outdated_copies_are_stopped_and_working_ones_are_not() -> None:
    assert plan(WORKING, IDLE, TIRED)[1] == {"t"}
    outdated = [CopyView("p", "idle", is_outdated=True), CopyView("q", "coming", is_outdated=True)]
    assert plan(OLD, *outdated)[1] == {"p", "q"}


def test_the_plan_says_when_to_look_again() -> None:
    idle = plan_fleet(
        [IDLE], waiting=0, head_waited_s=0, max_copies=2, idle_timeout_s=60, last_boot_s=5, may_start=True
    )
    assert idle.again_s == 59.0
    late = plan_fleet(
        [WORKING], waiting=1, head_waited_s=2, max_copies=2, idle_timeout_s=60, last_boot_s=5, may_start=True
    )
    assert late.again_s == 3.0
    nothing = plan_fleet([], waiting=0, head_waited_s=0, max_copies=2, idle_timeout_s=60, last_boot_s=5, may_start=True)
    assert nothing.again_s is None


def test_a_failed_start_holds_back_the_next_ones_longer_each_time() -> None:
    breaker = Breaker()
    assert not breaker.is_open(0.0)
    breaker.fail("no weights", 0.0)
    breaker.fail("no weights", 0.1)  # the second of two copies
    assert breaker.is_open(1.9)
    assert not breaker.is_open(2.0)
    breaker.fail("no weights", 3.0)
    assert breaker.is_open(6.9)
    assert not breaker.is_open(7.0)
    assert breaker.reason == "no weights"
    breaker.succeed()
    assert breaker.reason is None
    breaker.fail("again", 10.0)
    assert not breaker.is_open(12.0)
