"""Locks that nobody unlocks: they cost nothing more, and end with the request or task that took them."""

import logging
import os
from collections.abc import Callable
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from celery import Celery
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from machine_memory import BaseMachineMemory, LeaseError, memories
from tests.actor import Actor
from tests.conftest import databases, in_thread, redis_servers
from tests.contract.stores import Store

LARGE = bool(os.environ.get("MACHINE_MEMORY_LARGE"))
LOCKS = 100_000 if LARGE else 6000
HELD = "2 locks were still held when the request or task that took them ended"

stores = pytest.mark.parametrize("store", ["simple", *databases(forms=("",)), *redis_servers()[:1]], indirect=True)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "store", ["simple", *([*databases(forms=("",)), *redis_servers()[:1]] if LARGE else [])], indirect=True
)
def test_they_do_not_pile_up_and_a_zombie_among_the_latest_is_told(store: Store) -> None:
    with Actor(store.alias) as actor:
        figures = actor("run", "tests.core.unlocked.locks", store.name, LOCKS)
    assert figures["zombies"] == ["LockLost"] * 3
    assert figures["remembered"] <= 5000
    # Without their data, which would be 16 MB of those that are remembered alone.
    assert figures["kilobytes"] < 10_000


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "still held" in message]


@stores
class TestTheEndOfARequest:
    def test_what_it_holds_is_forgotten_with_one_warning(
        self, store: Store, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def lock(request: HttpRequest) -> HttpResponse:
            with store.memory.lease("c") as lease:
                lease.write({"n": 1})
            return HttpResponse(str([store.memory.lock(id) for id in "abd"] + [store.memory.unlock("d")]))

        def write(request: HttpRequest) -> HttpResponse:
            return HttpResponse(written(store.memory, "a"))

        settings.ROOT_URLCONF = (path("lock/", lock), path("write/", write))

        def request_both() -> list[str]:
            client = Client()
            return [client.get(address).content.decode() for address in ("/lock/", "/write/")]

        with caplog.at_level(logging.WARNING, logger="machine_memory"):
            answers = in_thread(request_both).result()
        # The second is no stranger whose lease was lost: somebody else has one.
        assert answers == ["[True, True, True, True]", "LockNotHeld"]
        (warning,) = warnings(caplog)
        assert warning.startswith(HELD)
        assert store.lease_of("a") is not None
        store.expire("a")
        assert store.memory.lock("a") is True

    def test_it_is_the_same_for_an_asynchronous_one(
        self, store: Store, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def lock(request: HttpRequest) -> HttpResponse:
            return HttpResponse(str([await store.memory.alock(id) for id in "ab"]))

        async def write(request: HttpRequest) -> HttpResponse:
            try:
                return HttpResponse(str(await store.memory.awrite("a", {"n": 1})))
            except LeaseError as error:
                return HttpResponse(type(error).__name__)

        settings.ROOT_URLCONF = (path("lock/", lock), path("write/", write))

        async def request_both() -> list[str]:
            client = AsyncClient()
            return [(await client.get(address)).content.decode() for address in ("/lock/", "/write/")]

        with caplog.at_level(logging.WARNING, logger="machine_memory"):
            answers = in_thread(async_to_sync(request_both)).result()
        assert answers == ["[True, True]", "LockNotHeld"]
        (warning,) = warnings(caplog)
        assert warning.startswith(HELD)

    def test_one_that_gives_everything_back_is_not_warned_of(
        self, store: Store, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def work(request: HttpRequest) -> HttpResponse:
            store.memory.lock("a")
            with store.memory.lease("b") as lease:
                lease.commit({"n": 1})
            return HttpResponse(str(store.memory.unlock("a")))

        settings.ROOT_URLCONF = (path("work/", work),)
        with caplog.at_level(logging.WARNING, logger="machine_memory"):
            assert in_thread(lambda: Client().get("/work/").content).result() == b"True"
        assert warnings(caplog) == []

    def test_what_was_held_before_it_is_held_after_it(
        self, store: Store, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.ROOT_URLCONF = (path("work/", lambda request: HttpResponse("done")),)

        def use() -> str:
            with store.memory.lease("a") as lease:
                Client().get("/work/")
                lease.write({"n": 1})
                return written(store.memory, "a")

        with caplog.at_level(logging.WARNING, logger="machine_memory"):
            assert in_thread(use).result() == "2"
        assert warnings(caplog) == []


def lock_two(alias: str) -> list[bool]:
    return [memories[alias].lock(id) for id in "ab"]


def run_of_django(alias: str) -> list[bool]:
    from django.tasks import task  # type: ignore[import-not-found, unused-ignore]

    locked: list[bool] = task(lock_two).enqueue(alias).return_value
    return locked


def run_of_celery(alias: str) -> list[bool]:
    locked: list[bool] = Celery(set_as_current=False).task(lock_two).apply([alias]).get()
    return locked


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            run_of_django, marks=pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has tasks from 6.0 on")
        ),
        run_of_celery,
    ],
)
@stores
def test_the_end_of_a_task_is_as_that_of_a_request(
    store: Store, run: Callable[[str], list[bool]], caplog: pytest.LogCaptureFixture
) -> None:
    memory = memories[store.alias]

    def run_and_write() -> str:
        assert run(store.alias) == [True, True]
        return written(memory, "a")

    try:
        with caplog.at_level(logging.WARNING, logger="machine_memory"):
            assert in_thread(run_and_write).result() == "LockNotHeld"
        (warning,) = warnings(caplog)
        assert warning.startswith(HELD)
    finally:
        for id in "ab":
            memory.force_unlock(id)


def written(memory: BaseMachineMemory, id: str) -> str:
    """Write, and return the new version or the name of what was raised."""
    try:
        return str(memory.write(id, {"n": 1}))
    except LeaseError as error:
        return type(error).__name__
