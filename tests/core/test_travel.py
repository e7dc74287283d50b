"""The text that a lease travels as, and the ways out while it is made."""

import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine_memory import InvalidLease, LockError, LockLost, SimpleMachineMemory
from machine_memory.backends.simple import SimpleStore
from machine_memory.core import contexts, keeper, lease, lifecycle, travel
from machine_memory.core.records import LeaseRef
from machine_memory.core.validation import MAX_TTL, MIN_TTL
from tests.conftest import in_thread
from tests.core.interrupts import Halt

TOKEN = "0123456789abcdef" * 2
TEXT = travel.packed(("order-42", TOKEN, 30.0))
ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=512)
SECRET = TEXT.split(".")[1]


@given(ids, st.binary(min_size=16, max_size=16), st.floats(MIN_TTL, MAX_TTL))
def test_it_says_what_was_put_in_and_fits_into_an_address(id: str, token: bytes, ttl: float) -> None:
    ref: LeaseRef = (id, token.hex(), ttl)
    text = travel.packed(ref)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", text)
    assert travel.unpacked(text) == (ref, False)


@pytest.mark.parametrize("place", range(len(TEXT)))
def test_each_character_counts(place: int) -> None:
    for changed in (
        TEXT[:place],
        TEXT[:place] + TEXT[place + 1 :],
        TEXT[:place] + "A" + TEXT[place + 1 :],
        TEXT[:place] + " " + TEXT[place:],
    ):
        if changed != TEXT:
            with pytest.raises(InvalidLease) as refused:
                travel.unpacked(changed)
            assert isinstance(refused.value, ValueError)
            assert SECRET[:8] not in str(refused.value)


@pytest.mark.parametrize("value", [None, 7, b"1.a.b", TEXT.encode(), ["a"]], ids=repr)
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidLease, match="text must be the str that a lease's detach") as refused:
        travel.unpacked(value)
    assert SECRET[:8] not in str(refused.value)


def test_another_format_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(travel, "FORMAT", "2")
        text = travel.packed(("a", TOKEN, 30.0))
    with pytest.raises(InvalidLease, match="text is a lease in the format 2, and this machine_memory reads 1 alone"):
        travel.unpacked(text)


@pytest.mark.parametrize(
    "ref",
    [
        ("", TOKEN, 30.0),
        ("a", "", 30.0),
        ("a", TOKEN, 0.0),
        ("a", TOKEN, "1"),
        (1, TOKEN, 1),
        ("a", 1, 1),
        ("a",),
        {},
    ],
    ids=repr,
)
def test_one_that_somebody_made_up_is_refused(ref: Any) -> None:
    with pytest.raises(InvalidLease, match="text was not made by a lease's detach"):
        travel.unpacked(travel.packed(ref))


def test_its_token_is_told_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    memory = SimpleMachineMemory()
    with memory.lease("a") as lease:
        text = lease.detach()
    (_, token, _), _ = travel.unpacked(text)
    with memory.attach(text) as lease:
        shown = [repr(lease), repr(memory), repr(list(memory.held_locks()))]
        lease.detach()
    memory.force_unlock("a")
    with pytest.raises(LockLost) as lost, memory.attach(text):
        pass
    assert token not in "".join([*shown, str(lost.value), caplog.text])


class Failure(Exception):
    """What the driver of a store raises."""


def test_where_the_store_fails_it_can_be_attached_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleMachineMemory()
    with memory.lease("a") as lease:
        text = lease.detach()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise Failure

    with monkeypatch.context() as patch:
        patch.setattr(SimpleStore, "failures", (Failure,))
        patch.setattr(SimpleStore, "resume", fail)
        with pytest.raises(LockError, match="The store failed to attach the lease of 'a'"), memory.attach(text):
            pass
    with memory.attach(text) as lease:
        assert lease.commit({"n": 1}) == 1


class Halting:
    """Raises at one line of what it calls, counted from its beginning."""

    FILES = {module.__file__ for module in (travel, lease, lifecycle, contexts, keeper)}

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, call: Callable[[], str]) -> str:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in self.FILES or frame.f_code.co_name == "__del__":
            return None  # What a finalizer raises, nobody sees.
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise Halt
        return self._trace


@pytest.mark.parametrize("keep_alive", [False, True])
def test_wherever_detaching_is_interrupted_the_block_gives_it_back_or_somebody_has_the_text(keep_alive: bool) -> None:
    memory = SimpleMachineMemory()
    for line in range(1, 1000):
        halting = Halting(line)
        with memory.lease("a", keep_alive=keep_alive) as lease:
            try:
                text = halting(lease.detach)
            except Halt:
                assert memory.write("a", {"still": "holder"})
                assert (lease in keeper.keeper._kept) is keep_alive
            else:
                break
        assert memory.holder("a") is None
    assert line > 20
    with memory.attach(text) as lease:
        assert lease.data == {"still": "holder"}


def test_wherever_attaching_is_interrupted_it_is_given_back_or_can_be_attached_again() -> None:
    # In a thread of its own: one that was left in the middle of a step has its leases given back in the background.
    in_thread(interrupt_attaching).result()


def interrupt_attaching() -> None:
    memory = SimpleMachineMemory()

    def attach() -> str:
        with memory.attach(text) as lease:
            return lease.detach()

    halted = 0
    for line in range(1, 1000):
        with memory.lease("a") as lease:
            text = lease.detach()
        try:
            Halting(line)(attach)
        except Halt:
            halted += 1
        else:
            break
        with suppress(LockLost), memory.attach(text):
            pass
        deadline = time.monotonic() + 5
        while memory.holder("a"):  # It may be given back in the background.
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert halted > 50
