"""The admin of several memories: each is shown, and released from, by whoever may, and none stands for another."""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
import redis
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import OperationalError, connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from machine_memory import Metadata, memories
from machine_memory.admin.memories import Name
from machine_memory.backends.redis.store import RedisStore
from machine_memory.core.records import Sought
from tests import servers
from tests.admin import test_admin
from tests.admin.conftest import REDIS
from tests.admin.test_admin import HELD_LOCKS, MACHINES, PERMISSIONS, client_of, lease, selected
from tests.conftest import Worker, redis_servers
from tests.contract.stores import looked_through, named
from tests.contract.suite import HOSTILE_IDS
from tests.database.store import set_up
from tests.redis.store import sent_by

SIMPLE = {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"}
MEMORIES: dict[str, Any] = {
    "books": {},
    "second": {"OPTIONS": {"using": "postgresql"}},
    "default": REDIS,
    "process": SIMPLE,
}
LIKE_DATABASES = ["default", "process"]
"""Those in no database."""
VIEWERS = {"viewer", "reader", "operator", "root"}
PAGES = {
    "change": VIEWERS,
    "history": VIEWERS,
    "data": {"reader", "root"},
    "force_release": {"operator", "root"},
    "delete": set[str](),
}
"""Who may see which page of a machine."""
USERS = ["anonymous", *PERMISSIONS, "root"]
REFUSED = test_admin.TestFilters.REFUSED
ODD = [*HOSTILE_IDS, *test_admin.TestOddIds.ODD]
MOST_QUERIES = 6
_SOON, _LATER, _KOLKATA = timedelta(0), timedelta(hours=1), ZoneInfo("Asia/Kolkata")
REDIS_ROUND_TRIPS = 25

absent = {name: servers.missing[name] for name in ["postgresql"] if name in servers.missing}
pytestmark = [
    pytest.mark.django_db(transaction=True, databases={"default", "postgresql"} - set(absent)),
    pytest.mark.skipif(bool(absent), reason=str(absent)),
]


@pytest.fixture(autouse=True)
def _several_memories(in_redis: Any) -> Iterator[None]:
    with override_settings(MACHINE_MEMORIES=MEMORIES):
        yield


def key(id: str) -> str:
    store: Any = memories["default"].store
    return str(store._hashes.key(id))


def listed(alias: str, url: str = MACHINES, **asked: str) -> dict[str, str]:
    """Return the parameters of a list."""
    return asked if alias == "default" else {"memory": alias, **asked}


def page(name: str, alias: str, id: str = "a") -> str:
    return reverse(f"admin:machine_memory_machinerecord_{name}", args=[quote(str(Name(alias, id)))])


def client_for(user: str) -> Client:
    if user in PERMISSIONS:
        return client_of(user)
    client = Client()
    if user == "root":
        client.force_login(User.objects.create_superuser("root"))
    return client


def text_of(response: Any) -> str:
    return html.unescape(response.content.decode())


def ids(response: Any) -> list[str]:
    return [machine.pk for machine in response.context["cl"].result_list]


def links(response: Any) -> dict[str, str]:
    found = re.findall(r'<a [^>]*?href="([^"]*)"[^>]*>(.*?)</a>', response.content.decode())
    return {re.sub(r"<.*?>", "", text).strip(): html.unescape(url) for url, text in found}


def hold(alias: str, *held: str) -> Worker:
    worker = Worker(memories[alias])
    for id in held:
        worker.write(id, {"secret": "for readers alone", "of": alias}, metadata=Metadata(status="paid"))
        worker.lock(id)
    return worker


def confirmed(response: Any, reason: str = "stuck") -> dict[str, Any]:
    leases = re.findall(r'name="confirmed" value="(.*?)"', text_of(response))
    assert leases
    return {"confirmed": leases, "reason": reason}


class TestPermissions:
    @pytest.mark.parametrize("alias", MEMORIES)
    @pytest.mark.parametrize("user", USERS)
    def test_each_page_of_each_memory_is_for_those_who_may_see_it(self, alias: str, user: str) -> None:
        holder, client = hold(alias, "a"), client_for(user)
        (info,) = memories[alias].held_locks()
        forged = selected("a", confirmed=[lease("a", info.fence)], reason="", data="{}", post="yes")

        def answer(url: str, data: dict[str, str], *, method: str = "get") -> int:
            response = client.get(url, data) if method == "get" else client.post(f"{url}?{_query(data)}", forged)
            assert user != "anonymous" or response.headers["Location"].startswith("/admin/login/")
            if user not in ("reader", "root"):
                assert "for readers alone" not in text_of(response)
            return int(response.status_code)

        refused = 302 if user == "anonymous" else 403
        for url in (MACHINES, HELD_LOCKS):
            assert answer(url, listed(alias)) == (200 if user in VIEWERS else refused)
            # A form without a reason is shown again.
            assert answer(url, listed(alias), method="post") == (200 if user in ("operator", "root") else refused)
        for name, allowed in PAGES.items():
            assert answer(page(name, alias), {}) == (200 if user in allowed else refused), name
        assert answer(page("change", alias), {}, method="post") == refused
        assert answer(page("delete", alias), {}, method="post") == refused
        assert answer(page("force_release", alias), {}, method="post") == (
            200 if user in ("operator", "root") else refused
        )
        assert holder.write("a", {}) == 2
        assert not LogEntry.objects.exists()

    @pytest.mark.parametrize("user", ["operator", "viewer", "reader", "nobody", "stray", "anonymous"])
    def test_each_held_lock_is_found_shown_and_released_by_a_clerk_with_the_permission(self, user: str) -> None:
        kept_in = ["default", "books", "second"]
        holders = {alias: hold(alias, "order/1", f"of {alias}") for alias in kept_in}
        client = client_for(user)
        for alias in kept_in:
            for id in ("order/1", f"of {alias}"):
                if user != "operator":
                    seen = client.get(page("force_release", alias, id))
                    (info,) = [info for info in memories[alias].held_locks() if info.id == id]
                    forged = {"confirmed": [lease(id, info.fence)], "reason": "forged"}
                    posted = [
                        client.post(page("force_release", alias, id), forged),
                        client.post(f"{HELD_LOCKS}?{_query(listed(alias))}", selected(id, **forged)),
                    ]
                    refused = 302 if user == "anonymous" else 403
                    assert {response.status_code for response in (seen, *posted)} == {refused}
                    continue
                found = client.get(HELD_LOCKS + links(client.get(HELD_LOCKS))[alias])
                assert sorted(ids(found)) == sorted(info.id for info in memories[alias].held_locks())
                shown = client.get(links(found)[id])
                assert f"Memory: {alias}" in re.sub("<.*?>", "", text_of(shown))
                asked = links(shown)["Force the release of its lease"]
                response = client.post(asked, confirmed(client.get(asked)), follow=True)
                assert "Released 1 lease." in text_of(response)
                assert response.redirect_chain == [(page("change", alias, id), 302)]
                assert [info.id for info in memories[alias].held_locks() if info.id == id] == []
                assert f"Forced the release of lease {_fence(shown)}" in text_of(client.get(links(response)["History"]))
        left = {alias: sorted(info.id for info in memories[alias].held_locks()) for alias in kept_in}
        if user == "operator":
            assert left == {alias: [] for alias in kept_in}
            assert LogEntry.objects.count() == 2 * len(kept_in)
        else:
            assert left == {alias: [f"of {alias}", "order/1"] for alias in kept_in}
            assert not LogEntry.objects.exists()
            assert holders["default"].write("order/1", {}) == 2

    @pytest.mark.parametrize("user", USERS)
    def test_a_memory_that_is_not_there_is_said_to_be_so_to_those_who_may_see_any(self, user: str) -> None:
        client = client_for(user)
        for url in (MACHINES, HELD_LOCKS):
            for asked in ("nonsense", "", "\0", "x" * 5_000):
                status = client.get(url, {"memory": asked}).status_code
                assert status == (404 if user in VIEWERS else 302 if user == "anonymous" else 403)
        if user in VIEWERS:
            response = client.get(page("change", "nonsense"), follow=True)
            assert "“a in memory nonsense” doesn" in text_of(response)

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS])
    @pytest.mark.parametrize("user", ["viewer", "root"])
    def test_no_filter_tells_what_its_asker_may_not_see(self, url: str, user: str) -> None:
        hold("default", "a")
        client = client_for(user)
        answers = {lookup: client.get(url, {lookup: "f"}).status_code for lookup in REFUSED}
        assert answers == dict.fromkeys(REFUSED, 400)

    def test_the_token_of_a_lease_is_nowhere(self, in_redis: Any) -> None:
        for alias in LIKE_DATABASES:
            hold(alias, "a")
        in_process: Any = memories["process"].store
        tokens = [in_redis.hget(key("a"), "lease_token").decode(), in_process._machines["a"].lease.token]
        client = client_for("root")
        for alias in LIKE_DATABASES:
            for url in (MACHINES, HELD_LOCKS, *(page(name, alias) for name in ("change", "force_release", "data"))):
                text = text_of(client.get(url, listed(alias)))
                assert not [token for token in tokens if token in text]


class TestLists:
    @pytest.fixture
    def client(self) -> Client:
        return client_of("reader")

    @pytest.mark.parametrize("alias", ["books", "second"])
    def test_a_page_that_is_not_there_leads_to_the_first_one_of_the_same_memory(
        self, alias: str, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machine_memory.admin.window.Window.list_per_page", 1)
        hold(alias, "a", "b")
        response = client.get(MACHINES, listed(alias, p="99"), follow=True)
        assert response.redirect_chain == [(f"{MACHINES}?e=1&memory={alias}", 302)]
        assert ids(response) == ["a"]

    def test_the_default_memory_comes_first_and_the_one_that_is_shown_is_marked(self, client: Client) -> None:
        hold("default", "in redis")
        hold("books", "in the books")
        response = client.get(MACHINES, {"status": "paid"})
        choices = re.findall(r'<li><a href="(\?[^"]*)"( aria-current="page")?>(\w+)</a></li>', text_of(response))

        assert choices == [
            ("?status=paid", ' aria-current="page"', "default"),
            ("?memory=books&status=paid", "", "books"),
            ("?memory=second&status=paid", "", "second"),
            ("?memory=process&status=paid", "", "process"),
        ]
        assert ids(response) == ["in redis"]
        assert ids(client.get(MACHINES + choices[1][0])) == ["in the books"]

    @pytest.mark.parametrize("only", [{"default": REDIS}, {"books": {}}, {"process": SIMPLE}])
    def test_where_there_is_one_memory_there_is_no_choice(self, client: Client, only: dict[str, Any]) -> None:
        with override_settings(MACHINE_MEMORIES=only):
            (alias,) = only
            hold(alias, "a")
            for url in (MACHINES, HELD_LOCKS, page("change", alias)):
                assert "mm-memor" not in text_of(client.get(url))

    @pytest.mark.parametrize("alias", MEMORIES)
    def test_each_has_the_same_columns_filters_and_search(self, alias: str, client: Client) -> None:
        memory = memories[alias]
        memory.write("order-1", {}, metadata=Metadata(status="paid"))
        memory.write("order-2", {}, metadata=Metadata(status="new", parent="order-1"))
        memory.write("order-3", {}, metadata=Metadata(status="paid", parent="order-2"))
        memory.write("an order", {}, wake_at=_SOON)
        memory.write("sleeper", {}, wake_at=_LATER)
        hold(alias, "held")
        memory.store.acquire("expired", token="a", owner="somebody", ttl=0.01, trace=None)  # noqa: S106
        while "expired" in [info.id for info in memory.held_locks()]:
            pass
        everything = {"an order", "expired", "held", "order-1", "order-2", "order-3", "sleeper"}

        def shown(url: str = MACHINES, **asked: str) -> set[str]:
            return set(ids(client.get(url, listed(alias, **asked))))

        assert shown() == everything
        assert shown(q="order-") == {"order-1", "order-2", "order-3"}
        assert shown(q="root:order-1") == {"order-1", "order-2", "order-3"}
        assert shown(parent="order-1") == {"order-2"}
        assert shown(status="paid", q="o") == {"order-1", "order-3"}
        assert shown(lease="held") == {"held"}
        assert shown(lease="expired") == {"expired"}
        assert shown(lease="free") == everything - {"held", "expired"}
        assert shown(timer="due") == {"an order"}
        assert shown(timer="sleeping") == {"sleeper"}
        assert shown(timer="exhausted") == set()
        assert shown(HELD_LOCKS) == {"expired", "held"}
        assert shown(HELD_LOCKS, lease="expired") == {"expired"}
        heads = re.findall(r"column-(\w+)", text_of(client.get(MACHINES, listed(alias))))
        assert list(dict.fromkeys(heads)) == ["machine", "lease", "owner", "status_shown", "written"]

    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_those_that_were_claimed_in_vain_are_found(self, alias: str, client: Client) -> None:
        memories[alias].write("a", {}, wake_at=_SOON)
        with memories[alias].claim(max_attempts=1) as claimed:
            assert [lease.id for lease in claimed] == ["a"]
        assert ids(client.get(MACHINES, listed(alias, timer="exhausted"))) == ["a"]

    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_what_one_look_leaves_is_found_further_on(
        self, alias: str, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machine_memory.admin.window.Window.list_per_page", 2)
        monkeypatch.setattr("machine_memory.backends.redis.look.MOST", 4)
        written = {f"order-{number}" for number in range(100)}
        for id in sorted(written):
            memories[alias].write(id, {}, metadata=Metadata(status="rare" if id == "order-71" else None))
        for asked, sought in (({}, written), ({"status": "rare"}, {"order-71"}), ({"q": "order-7"}, None)):
            response = client.get(MACHINES, listed(alias, **asked))
            found, looks = set(ids(response)), 1
            assert "From the beginning" not in links(response)
            while (further := links(response).get("Look further")) and looks < 5_000:
                assert "One look goes through a part of the memory" in text_of(response)
                response = client.get(MACHINES + further)
                found, looks = found | set(ids(response)), looks + 1
            assert found == (sought if sought is not None else {id for id in written if id.startswith("order-7")})
            assert looks > 1 or alias == "process"
            if looks > 1:
                assert set(ids(client.get(MACHINES + links(response)["From the beginning"]))) <= found

    @pytest.mark.parametrize("server", redis_servers(*servers.CACHES))
    def test_a_look_takes_nothing_that_the_least_user_may_not(self, server: str) -> None:
        store = named(server)
        store.memory.write("a", {"n": 1}, metadata=Metadata(parent="p"))
        Worker(store.memory).lock("b")
        sought = {"everything": Sought(), "a": Sought(prefix="a"), "leased": Sought(leased=True)}
        found = {name: looked_through(store.memory, asked) for name, asked in sought.items()}
        (seen,) = store.memory.store.look_at(["a", "absent"], with_data=True)

        assert found == {"everything": {"a", "b"}, "a": {"a"}, "leased": {"b"}}
        assert (seen.id, seen.data, seen.lease_state, seen.timer) == ("a", {"n": 1}, "free", None)
        store.close()

    def test_a_whole_id_is_found_at_once_however_many_there_are(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machine_memory.backends.redis.look.MOST", 0)
        for number in range(100):
            memories["default"].write(f"order-{number}", {})
        assert ids(client.get(MACHINES, {"q": "order-42"})) == ["order-42"]

    @pytest.mark.parametrize("alias", MEMORIES)
    def test_a_start_that_is_none_is_never_an_error(self, alias: str, client: Client) -> None:
        hold(alias, "a")
        for start in ("x", "-1", "1", "0.x", "0." + "9" * 20, "9" * 5_000, "0." + "9" * 5_000, "²", "\0"):
            status = client.get(MACHINES, listed(alias, start=start)).status_code
            assert status == (200 if alias in LIKE_DATABASES else 400), start

    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_what_a_store_does_not_do_is_not_offered(self, alias: str, client: Client) -> None:
        hold(alias, "b", "a")
        hold("books", "a")
        for order in ("1", "-1", "2", "nonsense"):
            response = client.get(MACHINES, listed(alias, o=order, p="7", all=""))
            assert ids(response) == ["a", "b"]
            assert 'class="sortable' not in text_of(response)
        assert 'class="sortable' in text_of(client.get(MACHINES, listed("books")))

    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_the_longest_held_comes_first(self, alias: str, client: Client) -> None:
        hold(alias, "c", "a", "b")
        assert ids(client.get(HELD_LOCKS, listed(alias))) == ["c", "a", "b"]

    def test_one_in_this_process_says_that_it_is_alone(self, client: Client) -> None:
        said = [alias for alias in MEMORIES if "in this process alone" in text_of(client.get(MACHINES, listed(alias)))]
        assert said == ["process"]

    def test_a_page_takes_few_queries_and_a_look_few_round_trips(self) -> None:
        client = client_for("root")
        for number in range(300):
            memories["default"].write(f"order-{number:03}", {}, metadata=Metadata(parent="order-000"))
        hold("default", "order-007")
        pages = {
            MACHINES: REDIS_ROUND_TRIPS,
            f"{MACHINES}?status=none&q=order": REDIS_ROUND_TRIPS,
            HELD_LOCKS: REDIS_ROUND_TRIPS,
            page("change", "default", "order-007"): 5,  # Two each for its children and its tree.
            page("history", "default", "order-007"): 1,
            page("data", "default", "order-007"): 1,
            page("force_release", "default", "order-007"): 1,
        }
        for url, most in pages.items():
            with CaptureQueriesContext(connections["default"]) as queries, sent_by(memories["default"]) as sent:
                assert client.get(url).status_code == 200
            assert len(queries) <= MOST_QUERIES, url
            assert 0 < len(sent) <= most, url
            assert not [text for text in sent if "'data'" in text and "/machinerecord/order" not in url]

    def test_a_forced_release_takes_two_round_trips_for_one_and_one_more_for_each_other(self) -> None:
        client = client_for("root")
        hold("default", "a", "b", "c")
        shown = confirmed(client.post(HELD_LOCKS, selected("a", "b", "c")))
        with sent_by(memories["default"]) as sent:
            client.post(HELD_LOCKS, selected("a", "b", "c", **shown))
        assert len([text for text in sent if "SCAN" not in text]) <= 6
        assert list(memories["default"].held_locks()) == []


class TestMachines:
    @pytest.mark.parametrize("alias", MEMORIES)
    def test_a_page_shows_all_that_is_known(self, alias: str) -> None:
        client, memory = client_for("root"), memories[alias]
        memory.write("a", {"of": alias}, metadata=Metadata(status="paid", source="shop", initiator="Ada", parent="p"))
        memory.write("child", {}, metadata=Metadata(parent="a"))
        hold(alias, "a")
        (info,) = memory.held_locks()
        response = client.get(page("change", alias))
        text = text_of(response)

        for shown in (info.owner, str(info.fence), "paid", "shop", "Ada", '"of"', "seconds ago", "Held"):
            assert shown in text
        assert links(response)["p"] == page("change", alias, "p")
        assert links(response)["Close"] == f"{MACHINES}?memory={alias}".removesuffix("?memory=default")
        assert client.get(links(response)["Download the whole as JSON"]).json() == memory.read("a")
        assert links(response)["child"] == page("change", alias, "child")

    @pytest.mark.parametrize("alias", MEMORIES)
    def test_one_that_was_never_written_or_is_not_there(self, alias: str) -> None:
        client = client_for("root")
        Worker(memories[alias]).lock("a")

        assert "Download the whole" not in text_of(client.get(page("change", alias)))
        assert client.get(page("data", alias)).status_code == 404
        for absent in ("b", "x" * 5_000):
            assert client.get(page("data", alias, absent)).status_code == 404
            response = client.get(page("change", alias, absent), follow=True)
            assert "Perhaps it was deleted?" in text_of(response)
            response = client.get(page("force_release", alias, absent), follow=True)
            assert "There is no lease to release." in text_of(response)

    @pytest.mark.parametrize("alias", MEMORIES)
    def test_each_id_has_its_pages(self, alias: str) -> None:
        client = client_for("root")
        for id in ODD:
            Worker(memories[alias]).write(id, {"of": id})
            Worker(memories[alias]).lock(id)
        assert set(ids(client.get(HELD_LOCKS, listed(alias)))) == set(ODD)
        for id in ODD:
            assert client.get(page("data", alias, id)).json() == {"of": id}
            for name in ("change", "history"):
                assert client.get(page(name, alias, id)).status_code == 200
            held_lock = reverse("admin:machine_memory_heldlock_change", args=[quote(str(Name(alias, id)))])
            assert client.get(held_lock).headers["Location"] == page("change", alias, id)
            asked = confirmed(client.get(page("force_release", alias, id)))
            posted = [re.sub(r"\r\n|\r|\n", "\r\n", lease) for lease in asked["confirmed"]]  # As a browser does.
            response = client.post(page("force_release", alias, id), {**asked, "confirmed": posted})
            assert response.headers["Location"] == page("change", alias, id)
            entry = LogEntry.objects.latest("pk")
            assert Name.read(str(entry.object_id)) == Name(alias, id)
            assert entry.get_admin_url() == page("change", alias, id)
        assert list(memories[alias].held_locks()) == []

    @pytest.mark.parametrize("stored", [r'{"surrogate": "\ud800", "large": 1e999, "money": 1.50}', "no JSON"])
    def test_what_another_wrote_comes_out_as_it_was_stored(self, in_redis: Any, stored: str) -> None:
        memories["default"].write("a", {})
        in_redis.hset(key("a"), "data", stored)
        assert client_for("root").get(page("data", "default")).content.decode() == stored

    def test_what_another_wrote_is_no_state_and_no_error(self, in_redis: Any) -> None:
        memories["default"].write("a", {})
        for stored in ("[1]", "no JSON", "\xff"):
            in_redis.hset(key("a"), "data", stored)
            response = client_for("root").get(page("change", "default"))
            assert response.status_code == 503
            assert "could not be asked: CorruptRecord." in text_of(response)
            User.objects.all().delete()
        in_redis.hset(key("not ours"), "something", "else")
        assert ids(client_for("root").get(MACHINES)) == ["a"]

    @pytest.mark.parametrize("use_tz", [True, False])
    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_times_are_shown_in_the_time_zone_of_whoever_looks(self, alias: str, use_tz: bool) -> None:
        hold(alias, "a")
        (info,) = memories[alias].held_locks()
        with override_settings(TIME_ZONE="Asia/Kolkata", USE_TZ=use_tz):
            shown = info.locked_at.astimezone(_KOLKATA).strftime("%Y-%m-%d %H:%M:%S")
            client = client_for("root")
            for url in (HELD_LOCKS, page("change", alias), page("force_release", alias)):
                assert shown in text_of(client.get(url, listed(alias)))


class TestForcedRelease:
    @pytest.mark.parametrize("alias", MEMORIES)
    def test_it_ends_the_leases_of_one_memory_alone_and_each_is_on_the_record(self, alias: str) -> None:
        holders = {other: hold(other, "a", "b") for other in MEMORIES}
        client = client_for("operator")
        before = client.get(page("change", alias))
        url = f"{HELD_LOCKS}?{_query(listed(alias))}"
        shown = confirmed(client.post(url, selected("a", "b")), reason="the worker hangs")
        response = client.post(url, selected("a", "b", **shown), follow=True)

        assert "Released 2 leases." in text_of(response)
        left = {other: [info.id for info in memories[other].held_locks()] for other in MEMORIES}
        assert left == {other: [] if other == alias else ["a", "b"] for other in MEMORIES}
        assert {str(Name.read(str(entry.object_id))) for entry in LogEntry.objects.all()} == {
            str(Name(alias, id)) for id in ("a", "b")
        }
        entry = LogEntry.objects.get(object_id=str(Name(alias, "a")))
        owner = before.context["original"].lease_owner
        assert entry.change_message == f"Forced the release of lease {_fence(before)} of {owner}: the worker hangs"
        for other, holder in holders.items():
            assert ("the worker hangs" in text_of(client.get(page("history", other)))) == (other == alias)
            if other != alias:
                assert holder.write("a", {}) == 2

    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_a_lease_that_was_granted_since_stays_and_nothing_is_noted(self, alias: str) -> None:
        holder, client = hold(alias, "a"), client_for("operator")
        seen = confirmed(client.get(page("force_release", alias)))
        holder.unlock("a")
        other = Worker(memories[alias])
        other.lock("a")
        response = client.post(page("force_release", alias), seen, follow=True)

        assert "1 lease was over by then, or somebody else has it now: look again." in text_of(response)
        assert other.write("a", {}) == 2
        assert not LogEntry.objects.exists()

    def test_one_whose_outcome_is_not_known_is_on_the_record_as_such(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holder, client = hold("default", "a"), client_for("operator")
        seen = confirmed(client.get(page("force_release", "default")))

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise redis.TimeoutError("secret")

        monkeypatch.setattr(RedisStore, "force_release", fail)
        text = text_of(client.post(page("force_release", "default"), seen, follow=True))
        assert "The store failed to force-unlock 'a' (TimeoutError)." in text
        assert "was over by then" not in text
        entry = LogEntry.objects.get()
        assert entry.change_message.startswith("Tried to force the release of lease ")
        assert entry.change_message.endswith("stuck (The store failed to force-unlock 'a' (TimeoutError).)")
        assert "secret" not in text + entry.change_message
        assert holder.write("a", {}) == 2

    def test_one_that_another_database_did_not_commit_is_on_the_record_as_such(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hold("second", "a")
        client = client_for("operator")
        seen = confirmed(client.get(page("force_release", "second")))

        def fail(connection: Any) -> None:
            raise OperationalError("secret")

        with monkeypatch.context() as patch:
            patch.setattr(type(connections["postgresql"]), "_commit", fail)
            response = client.post(page("force_release", "second"), seen)
        assert response.status_code == 503
        entry = LogEntry.objects.get()
        assert entry.change_message.startswith("Tried to force the release of lease ")
        assert entry.change_message.endswith("stuck (OperationalError)")
        assert [info.id for info in memories["second"].held_locks()] == ["a"]

    @pytest.mark.parametrize("alias", LIKE_DATABASES)
    def test_where_nothing_is_held_or_too_much_is_selected_it_says_so(
        self, alias: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = client_for("operator")
        memories[alias].write("free", {})
        url = f"{MACHINES}?{_query(listed(alias))}"
        for id in ("free", "absent"):
            assert "There is no lease to release." in text_of(client.post(url, selected(id), follow=True))
        hold(alias, "a", "b")
        monkeypatch.setattr("machine_memory.admin.release.AT_ONCE", 1)
        assert "Select at most 1 leases." in text_of(client.post(url, selected("a", "b"), follow=True))
        assert client.post(url, selected("x" * 5_000)).status_code == 400
        too_many = {"confirmed": [lease("a"), lease("b")], "reason": "stuck"}
        assert client.post(page("force_release", alias), too_many).status_code == 400


class TestFailures:
    @contextmanager
    def _one_down(self, kind: str) -> Iterator[str]:
        """Yield the alias of a memory whose server is not there."""
        gone = "redis://somebody:secret@127.0.0.1:1/0"
        down: dict[str, Any] = {
            "redis": {"BACKEND": REDIS["BACKEND"], "OPTIONS": {"cache": "gone"}},
            "second": MEMORIES["second"],
            "alias": {"OPTIONS": {"using": "nowhere"}},
            "cache": {"BACKEND": REDIS["BACKEND"], "OPTIONS": {"cache": "nowhere"}},
            "backend": {"BACKEND": "nowhere.at.all"},
        }[kind]
        caches = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": gone}
        with override_settings(CACHES={**settings.CACHES, "gone": caches}, MACHINE_MEMORIES={**MEMORIES, "down": down}):
            if kind != "second":
                yield "down"
                return
            with set_up("postgresql", HOST="127.0.0.1", PORT="1", USER="somebody", PASSWORD="secret"):  # noqa: S106
                yield "down"

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("redis", "The memory “down”, in cache 'gone' at 127.0.0.1:1, could not be asked: NotConnected."),
            (
                "second",
                "The memory “down”, in database 'postgresql' at 127.0.0.1:1, could not be asked: OperationalError.",
            ),
            ("alias", "The memory “down” is not set up: ConnectionDoesNotExist."),
            ("cache", "The memory “down” is not set up: InvalidConfiguration."),
            ("backend", "The memory “down” is not set up: ModuleNotFoundError."),
        ],
    )
    def test_one_that_does_not_answer_says_where_it_is_and_the_others_go_on(self, kind: str, said: str) -> None:
        hold("default", "a")
        hold("books", "a")
        clients = {user: client_for(user) for user in ("root", "viewer", "nobody")}
        with self._one_down(kind) as alias:
            for url in (
                MACHINES,
                HELD_LOCKS,
                *(page(name, alias) for name in ("change", "history", "force_release", "data")),
            ):
                response = clients["root"].get(url, listed(alias))
                text = text_of(response)
                assert response.status_code == 503
                assert said in re.sub("<.*?>", "", text)
                assert "secret" not in text and "somebody" not in text
                assert clients["nobody"].get(url, listed(alias)).status_code == 403
            assert clients["viewer"].get(HELD_LOCKS, listed(alias)).status_code == 503
            forged = selected("a", confirmed=[lease("a", 1)], reason="stuck")
            assert clients["root"].post(f"{HELD_LOCKS}?memory={alias}", forged).status_code == 503
            response = clients["root"].get(HELD_LOCKS, listed(alias))
            for other in ("default", "books"):
                assert ids(clients["root"].get(urlsplit(links(response)[other])._replace(scheme="").geturl())) == ["a"]
                assert clients["root"].get(page("change", other)).status_code == 200
        assert not LogEntry.objects.exists()

    def test_a_user_of_redis_who_may_not_scan_still_sees_a_machine(self) -> None:
        """What only some commands are refused for is said where it is asked."""
        hold("default", "a")
        client = client_for("root")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("redis.Redis.scan", _refuse)
            assert "could not be asked: NoPermissionError." in text_of(client.get(MACHINES))
            assert client.get(page("change", "default")).status_code == 200
            patch.setattr(RedisStore, "children", _refuse)
            assert "The store failed to read 'a' (NoPermissionError)." in text_of(client.get(page("change", "default")))

    def test_a_store_that_has_nothing_to_look_at_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from machine_memory.backends.simple import SimpleStore
        from machine_memory.core.store import Store

        monkeypatch.setattr(SimpleStore, "look", Store.look)
        monkeypatch.setattr(SimpleStore, "look_at", Store.look_at)
        for url in (MACHINES, page("change", "process")):
            response = client_for("root").get(url, listed("process"))
            assert (response.status_code, "ReadError" in text_of(response)) == (503, True)
            User.objects.all().delete()


class TestNames:
    """One text for a machine and its memory, which is an id alone where that can be no other."""

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            (Name("default", "a"), "a"),
            (Name("books", "a"), "a in memory books"),
            (Name("books", ""), " in memory books"),
            (Name("default", "made in memory of"), "made in memory of"),
            (Name("default", "a in memory books"), "a in memory books in memory default"),
            (Name("default", "a in memory default"), "a in memory default in memory default"),
            (Name("books", "a in memory books"), "a in memory books in memory books"),
        ],
    )
    def test_it_reads_back(self, name: Name, text: str) -> None:
        assert str(name) == text
        if name.id:
            assert Name.read(text) == name

    def test_a_machine_that_is_called_as_another_in_another_memory_is_itself(self) -> None:
        hold("default", "a in memory books")
        hold("books", "a")
        client = client_for("root")
        shown = {
            alias: client.get(page("data", alias, id)).json()["of"]
            for alias, id in (("default", "a in memory books"), ("books", "a"))
        }
        assert shown == {"default": "default", "books": "books"}


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise redis.exceptions.NoPermissionError("secret")


def _query(data: dict[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in data.items())


def _fence(shown: Any) -> str:
    return str(shown.context["original"].fence)
