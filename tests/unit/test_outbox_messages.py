"""Messages in the outbox: as bytes and back, and what is left of their time whoever sets the clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge import clock
from nuclio_edge.clock import CLOCK, FLOOR_MS, QUALITIES, SYNCED
from nuclio_edge.core.mqtt_properties import MESSAGE_EXPIRY, USER_PROPERTY
from nuclio_edge.delivery.backlog import OUTBOX, Backlog
from nuclio_edge.delivery.outbox import Keeper, pack, time_left, unpack
from nuclio_edge.delivery.staging import Stage
from nuclio_edge.testing import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = 3_600_000
NOW = FLOOR_MS + 1000 * HOUR
MESSAGE: Any = ("t", b"x", 1, False, ((MESSAGE_EXPIRY, 60), (USER_PROPERTY, ("k", "v"))))

stamps = st.tuples(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-1, (1 << 63) - 1),
    st.integers(0, (1 << 32) - 1).map(lambda number: f"{number:08x}"),
    st.sampled_from(QUALITIES),
)
messages = st.tuples(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
        st.binary(max_size=50),
        st.integers(0, 2),
        st.booleans(),
        st.sampled_from([(), ((MESSAGE_EXPIRY, 7),), ((USER_PROPERTY, ("k", "v")),)]),
    ),
    st.none() | stamps,
)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    monkeypatch.setattr(clock, "synchronized", lambda: True)
    monkeypatch.setattr(clock, "has_battery_clock", lambda: False)
    monkeypatch.setattr(CLOCK, "learnt", {})
    with Clock(wall=NOW) as made:
        yield made


def seconds_left(born: Any) -> int | None:
    left = time_left(MESSAGE, born)
    return None if left is None else dict(left[4])[MESSAGE_EXPIRY]


@given(st.lists(messages, min_size=1, max_size=4))
def test_messages_come_back_as_they_were(given: list[Any]) -> None:
    assert unpack(pack(given)) == given


@given(st.lists(messages, min_size=1, max_size=2), st.data())
def test_bytes_that_are_none_are_refused_and_nothing_else_happens(given: list[Any], data: st.DataObject) -> None:
    whole = bytearray(pack(given))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except ValueError:
        pass


@pytest.mark.parametrize("jump", [0, 30 * HOUR, -30 * HOUR])
def test_within_a_boot_a_message_has_its_time_whoever_sets_the_clock(time: Clock, jump: int) -> None:
    born = clock.present()
    time.skip(20_500)
    time.wall += jump
    assert seconds_left(born) == 40
    time.skip(39_400)
    assert seconds_left(born) == 1
    time.skip(100)
    assert seconds_left(born) is None
    assert time_left(MESSAGE, None) is MESSAGE


def test_over_boots_it_goes_by_a_clock_that_was_right_both_times(time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    born = clock.present()
    assert born[3] == SYNCED
    monkeypatch.setattr(CLOCK, "boot", "0000beef")
    time.skip(15_000)
    time.ticks = 5
    CLOCK.forget()
    assert seconds_left(born) == 45
    time.wall = 5_000  # this boot does not know the time: nobody knows how long it waited
    CLOCK.forget()
    assert seconds_left(born) == 60


def test_a_message_is_told_its_own_fate_in_whatever_order_the_spool_tells_them() -> None:
    told: list[Any] = []
    shed: list[str] = []

    def append(_kind: int, _key: str, _payload: bytes, done: Any, **_more: Any) -> int:
        told.append(done)
        return len(told)

    backlog = Backlog(SimpleNamespace(log=SimpleNamespace(lanes=SimpleNamespace(by_key={}))), OUTBOX, "broker")
    publisher: Any = SimpleNamespace(drop=shed.append, outbox=SimpleNamespace(takes=lambda _size: False), link=None)
    loop: Any = SimpleNamespace(call_soon=lambda _call: None, now=0)
    delivery: Any = SimpleNamespace(
        keepers={}, loop=loop, outcomes={}, spool=SimpleNamespace(trouble="", append=append)
    )
    stage = Stage(SimpleNamespace(call_later=lambda *_: None), delivery.spool, 1, 8)  # type: ignore[arg-type]
    keeper = Keeper(delivery, publisher, backlog, stage)
    for body in (b"first", b"second"):
        keeper.send(("t", body, 1, False, ()), None)
    for entry in keeper.stage.fresh:
        keeper.store(entry)
    told[1](OSError("full"))
    assert backlog.held == {1} and shed == ["outbox-full"]
    told[0](None)
    assert backlog.held == set() and backlog.alone == 1 and not keeper._unsent


def test_what_a_replaced_source_stores_late_is_sent_by_the_one_that_has_its_name() -> None:
    soon: list[Any] = []
    delivery: Any = SimpleNamespace(keepers={}, loop=SimpleNamespace(call_soon=soon.append))
    backlog: Any = SimpleNamespace(key="broker", alone=1)
    old, new = (Keeper(delivery, None, backlog, None) for _ in range(2))
    delivery.keepers["broker"] = new
    old.look()
    old.look()
    assert soon == [new.refill]
