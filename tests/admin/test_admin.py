"""The admin: who may see and do what, what a page shows of hostile state, and what a forced release does."""

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import DatabaseError
from django.db.models import TextField
from django.db.models.lookups import IExact
from django.test import Client, override_settings
from django.test.utils import register_lookup
from django.urls import path, reverse

from machine_memory import LockLost, Metadata, memory
from machine_memory.admin import HeldLockAdmin, MachineAdmin
from machine_memory.admin.release import AT_ONCE
from machine_memory.backends.database.clock import StoreTime
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.core.contexts import _NOTHING, _held
from machine_memory.models import HeldLock, MachineRecord
from tests.actor import Actor
from tests.admin.test_queries import every_database
from tests.conftest import Worker
from tests.database.store import set_up
from tests.database.test_database import execute

PERMISSIONS = {
    "nobody": [],
    "viewer": ["view_machinerecord"],
    "reader": ["view_machinerecord", "view_machine_data"],
    "operator": ["view_machinerecord", "force_unlock"],
    "stray": ["view_machine_data", "force_unlock"],
}
"""Of each user; all are staff. What is added to viewing alone is worth nothing without it."""
MACHINES = reverse("admin:machine_memory_machinerecord_changelist")
HELD_LOCKS = reverse("admin:machine_memory_heldlock_changelist")
HOSTILE = {
    "</script><img src=x onerror=alert(1)>": "</script><img src=x onerror=alert(2)>",
    "\u202eexe.txt": "right \u202e to left",
    "line\nbreak": "bell\x07",
}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

pytestmark = pytest.mark.django_db(transaction=True)


def page(name: str, id: str = "a") -> str:
    return reverse(f"admin:machine_memory_machinerecord_{name}", args=[quote(id)])


def client_of(name: str) -> Client:
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=PERMISSIONS[name]))
    client = Client()
    client.force_login(user)
    return client


def text_of(response: Any) -> str:
    return html.unescape(response.content.decode())


def lease(id: str, fence: int = 0) -> str:
    return f"{fence}:{id.encode().hex()}"


def confirmation(id: str = "a", reason: str = "stuck") -> dict[str, Any]:
    fences = {info.id: info.fence for info in memory.held_locks()}
    return {"confirmed": [lease(id, fences[id])], "reason": reason}


def selected(*ids: str, **more: Any) -> dict[str, Any]:
    return {"action": "force_release", "_selected_action": [lease(id) for id in ids], "index": 0, **more}


@pytest.fixture(autouse=True)
def no_leases() -> None:
    """Forget what an earlier test has locked: all use the same memory."""
    _held.set(_NOTHING)


@pytest.fixture
def held() -> Worker:
    """A machine with state that somebody else has locked."""
    memory.write("a", {"secret": "for readers alone"}, metadata=Metadata(status="paid"))
    worker = Worker(memory)
    worker.lock("a")
    return worker


@pytest.fixture
def operator() -> Client:
    return client_of("operator")


class TestPermissions:
    @pytest.mark.parametrize(
        ("url", "allowed"),
        [
            (MACHINES, ["viewer", "reader", "operator"]),
            (HELD_LOCKS, ["viewer", "reader", "operator"]),
            (page("change"), ["viewer", "reader", "operator"]),
            (page("history"), ["viewer", "reader", "operator"]),
            (page("data"), ["reader"]),
            (page("force_release"), ["operator"]),
            (page("delete"), []),
            (reverse("admin:machine_memory_machinerecord_add"), []),
            (reverse("admin:machine_memory_heldlock_add"), []),
        ],
    )
    @pytest.mark.parametrize("user", PERMISSIONS)
    def test_each_page_is_for_those_who_may_see_it(self, held: Worker, url: str, allowed: list[str], user: str) -> None:
        assert client_of(user).get(url).status_code == (200 if user in allowed else 403)

    @pytest.mark.parametrize(
        "url",
        [
            MACHINES,
            HELD_LOCKS,
            page("change"),
            page("force_release"),
            page("delete"),
            reverse("admin:machine_memory_machinerecord_add"),
        ],
    )
    @pytest.mark.parametrize("user", ["nobody", "viewer", "reader", "stray"])
    def test_a_forged_post_is_refused_and_changes_nothing(self, held: Worker, url: str, user: str) -> None:
        forged = selected("a", **confirmation(), post="yes", data="{}", status="forged", _save="Save")

        assert client_of(user).post(url, forged).status_code == 403
        assert held.write("a", {"still": "holder"}) == 2

    @pytest.mark.parametrize("url", [page("change"), page("delete"), reverse("admin:machine_memory_machinerecord_add")])
    def test_an_operator_can_change_nothing_but_leases(self, held: Worker, operator: Client, url: str) -> None:
        assert operator.post(url, {"status": "forged", "post": "yes", "_save": "Save"}).status_code == 403
        assert held.write("a", {}) == 2

    def test_a_post_from_elsewhere_is_refused(self, held: Worker) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(User.objects.create_superuser("root"))

        for url in (MACHINES, HELD_LOCKS, page("force_release")):
            assert client.post(url, selected("a", **confirmation())).status_code == 403
        assert held.write("a", {}) == 2

    @pytest.mark.parametrize("user", PERMISSIONS)
    def test_the_state_is_for_readers_alone(self, held: Worker, user: str) -> None:
        client = client_of(user)

        shown = "for readers alone" in text_of(client.get(page("change")))
        assert shown == (user == "reader")
        for url in (MACHINES, HELD_LOCKS, page("history"), page("force_release")):
            assert "for readers alone" not in text_of(client.get(url))

    @pytest.mark.parametrize("user", ["viewer", "reader", "operator"])
    def test_the_release_is_offered_to_operators_alone(self, held: Worker, user: str) -> None:
        client = client_of(user)
        offers = ["Force the release" in text_of(client.get(url)) for url in (MACHINES, HELD_LOCKS, page("change"))]
        assert offers == [user == "operator"] * 3

    def test_the_token_of_a_lease_is_nowhere(self, held: Worker) -> None:
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        token = MachineRecord.objects.values_list("lease_token", flat=True).get(pk="a")

        assert token
        for url in (MACHINES, HELD_LOCKS, page("change"), page("force_release"), page("data")):
            assert token not in text_of(client.get(url))


class TestSites:
    """Pages of a site of the project's own lead to others of it, whatever the default one has."""

    OPS = AdminSite("ops")
    OPS.register(MachineRecord, MachineAdmin)
    OPS.register(HeldLock, HeldLockAdmin)
    LISTS = "/ops/machine_memory/machinerecord/", "/ops/machine_memory/heldlock/"

    @pytest.mark.parametrize("default", [admin.site, AdminSite()], ids=["them, too", "none of them"])
    def test_their_links_stay_within(self, held: Worker, default: AdminSite) -> None:
        memory.write("child", {}, metadata=Metadata(parent="a"))
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        machine, child = (f"{self.LISTS[0]}{id}/" for id in ("a", "child"))
        pages = {
            **{url: {f"{machine}change/"} for url in self.LISTS},
            f"{machine}change/": {f"{machine}{name}/" for name in ("change", "data", "force-release", "history")},
            f"{child}change/": {f"{machine}change/"},
            f"{machine}force-release/": {f"{machine}change/", self.LISTS[0]},
            f"{machine}history/": {f"{machine}change/"},
        }
        memories: dict[str, Any] = {"default": {}, "second": {}}
        urls = (path("admin/", default.urls), path("ops/", self.OPS.urls))
        with override_settings(ROOT_URLCONF=urls, MACHINE_MEMORIES=memories):
            for url, links in pages.items():
                found = set(re.findall(r'href="([^"?]*)', text_of(client.get(url))))
                assert links <= found, url
                assert not [link for link in found if link.startswith("/admin/")], url
            moved = client.get(f"{self.LISTS[1]}a/change/")
            assert moved.headers["Location"] == f"{machine}change/"
            moved = client.post(f"{machine}force-release/", confirmation())
            assert moved.headers["Location"] == f"{machine}change/"


class TestFilters:
    """What may be asked of the lists: else a filter tells, letter by letter, what its asker may not see."""

    REFUSED = (
        *("data__secret", "data__secret__startswith", "data__has_key", "data__icontains", "data__isnull", "data"),
        *("lease_token", "lease_token__startswith", "lease_token__isnull", "lease_token__in", "lease_trace__regex"),
        *("pk__regex", "pk", "id__lt", "machine__startswith", "owner", "lease_state", "now__gt", "_state"),
        *("status__startswith", "parent__startswith", "lease__gt", "q__startswith", "nonsense", "_changelist_filters"),
    )

    @pytest.fixture(params=["viewer", "reader", "operator", "root"])
    def client(self, request: Any) -> Client:
        if request.param != "root":
            return client_of(request.param)
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        return client

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS])
    def test_only_declared_ones_are_looked_up(
        self, held: Worker, client: Client, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers = {lookup: client.get(url, {lookup: "f", "q": "a"}).status_code for lookup in self.REFUSED}

        assert answers == dict.fromkeys(self.REFUSED, 400)
        assert "Filtering by data__secret__startswith not allowed" in caplog.messages
        assert not any("for readers alone" in message for message in caplog.messages)

    def test_those_that_are_declared_still_are(self, held: Worker, client: Client) -> None:
        for query in (
            "lease=held",
            "timer=due",
            "status=paid",
            "parent=x",
            "q=a",
            "p=1",
            "o=1",
            "o=-1",
            "e=1",
            "_facets=True",
            "all=",
        ):
            assert client.get(f"{MACHINES}?{query}").status_code == 200
        for query in ("lease=held", "q=a", "p=1", "o=1", "e=1", "_popup=1&_to_field=id"):
            assert client.get(f"{HELD_LOCKS}?{query}").status_code == 200

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS, page("change")])
    @pytest.mark.parametrize("field", ["lease_token", "data", "nonsense"])
    def test_no_other_field_can_stand_for_the_id(self, held: Worker, client: Client, url: str, field: str) -> None:
        assert client.get(url, {"_to_field": field, "_popup": "1"}).status_code == 400

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS])
    def test_no_order_tells_of_state_or_token(self, client: Client, url: str) -> None:
        now = datetime.now(UTC)
        for number, id in enumerate("bca"):
            MachineRecord.objects.create(
                id=id,
                data={"n": number},
                version=number,
                fence=number,
                lease_token=str(number),
                lease_acquired_at=now,
                lease_expires_at=now + timedelta(hours=1),
                created_at=now,
            )
        for order in (f"{sign}{column}" for column in range(12) for sign in ("", "-")):
            found = [machine.pk for machine in client.get(url, {"o": order}).context["cl"].result_list]
            assert found in (["a", "b", "c"], ["c", "b", "a"]), order

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS])
    def test_an_action_acts_on_nothing_that_an_address_picks(self, held: Worker, operator: Client, url: str) -> None:
        for more in ({}, confirmation()):
            forged = selected("a", select_across="1", **more)
            assert operator.post(f"{url}?data__secret__startswith=f", forged).status_code == 400
        assert held.write("a", {}) == 2

    def test_no_completion_is_offered_from_any_column(self, held: Worker, client: Client) -> None:
        for field in ("data", "lease_token", "parent", "id"):
            asked = {"app_label": "machine_memory", "model_name": "machinerecord", "field_name": field, "term": "f"}
            assert client.get(reverse("admin:autocomplete"), asked).status_code == 403

    def test_the_history_takes_no_filter(self, held: Worker, client: Client) -> None:
        history = client.get(page("history"), {"data__secret__startswith": "x", "object_id": "b"})
        assert history.status_code == 200
        assert "for readers alone" not in text_of(history)


class TestMachines:
    @pytest.fixture
    def client(self) -> Client:
        return client_of("reader")

    def ids(self, client: Client, query: str, url: str = MACHINES) -> list[str]:
        return [machine.pk for machine in client.get(f"{url}?{query}").context["cl"].result_list]

    def test_they_are_found_by_the_beginning_of_their_id_exactly(self, client: Client) -> None:
        for id in ("order-1", "order-12", "Order-1", "order_1", "order-2", "an order-1"):
            memory.write(id, {})

        assert self.ids(client, "q=order-1") == ["order-1", "order-12"]
        assert self.ids(client, "q=order_") == ["order_1"]
        assert self.ids(client, "q=%25") == []

    def test_they_are_found_by_their_root(self, client: Client) -> None:
        memory.write("a", {})
        memory.write("b", {}, metadata=Metadata(parent="a"))
        memory.write("c", {}, metadata=Metadata(parent="b"))
        memory.write("d", {})

        assert self.ids(client, "q=root:a") == ["a", "b", "c"]
        assert self.ids(client, "parent=a") == ["b"]
        assert self.ids(client, "parent=%00a") == ["b"]
        assert self.ids(client, "parent=") == ["a", "b", "c", "d"]

    def test_they_are_filtered_by_lease(self, client: Client) -> None:
        for id in ("held", "expired", "free"):
            memory.write(id, {})
        memory.lock("held")
        memory.lock("expired", ttl=0.01)
        while "expired" in [info.id for info in memory.held_locks()]:
            pass

        assert self.ids(client, "lease=held") == ["held"]
        assert self.ids(client, "lease=expired") == ["expired"]
        assert self.ids(client, "lease=free") == ["free"]
        assert self.ids(client, "lease=nonsense") == ["expired", "free", "held"]
        assert set(self.ids(client, "", HELD_LOCKS)) == {"expired", "held"}
        assert "Expired" in text_of(client.get(HELD_LOCKS))

    def test_they_are_filtered_by_timer(self, client: Client) -> None:
        for id in ("due", "exhausted"):
            memory.write(id, {}, wake_at=timedelta(0))
        memory.write("sleeping", {}, wake_at=timedelta(hours=1))
        memory.write("awake", {})
        MachineRecord.objects.filter(pk="due").update(wake_at=datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
        MachineRecord.objects.filter(pk="exhausted").update(wake_at=None, attempts=5)

        for name in ("due", "sleeping", "exhausted"):
            assert self.ids(client, f"timer={name}") == [name]
        assert len(self.ids(client, "timer=nonsense")) == 4
        assert "2020-01-01 21:04:05" in text_of(client.get(page("change", "due")))

    def test_they_are_filtered_by_a_status_that_is_typed_in(self, client: Client) -> None:
        for id, status in {"a": "done", "b": "paid", "c": "done"}.items():
            memory.write(id, {}, metadata=Metadata(status=status))

        assert self.ids(client, "status=done") == ["a", "c"]
        assert self.ids(client, "status=") == ["a", "b", "c"]
        assert self.ids(client, "status=%00done") == ["a", "c"]
        assert self.ids(client, "status=done&q=c") == ["c"]
        assert '<input type="hidden" name="q" value="c">' in text_of(client.get(f"{MACHINES}?status=done&q=c"))

    def test_the_longest_held_comes_first(self, client: Client) -> None:
        for age, id in enumerate("bac"):
            memory.lock(id)
            rows = MachineRecord.objects.filter(pk=id)
            assert rows.update(lease_acquired_at=StoreTime(-age * 60)) == 1

        assert self.ids(client, "", HELD_LOCKS) == ["c", "a", "b"]

    def test_a_list_ends_where_counting_would_cost_too_much(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machine_memory.admin.lists.MOST", 3)
        monkeypatch.setattr("machine_memory.admin.window.Window.most", 3)
        monkeypatch.setattr("machine_memory.admin.window.Window.list_per_page", 2)
        for id in "abcde":
            memory.write(id, {})
        response = client.get(MACHINES)

        assert response.context["cl"].result_count == 3
        assert "The list goes through the first 3: search for others" in text_of(response)
        assert self.ids(client, "p=2")[0] == "c"

    def test_a_page_shows_relatives_with_a_way_to_all_of_them(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machine_memory.admin.columns.RELATIVES", 2)
        memory.write("a b", {})
        for id in "cde":
            memory.write(id, {}, metadata=Metadata(parent="a b"))
        text = text_of(client.get(page("change", "a b")))

        assert f'<a href="{page("change", "c")}"><bdi>c</bdi></a>' in text
        assert f'<a href="{MACHINES}?parent=a+b">All of them</a>' in text
        assert f'<a href="{MACHINES}?q=root%3Aa+b">All of them</a>' in text
        assert f'<a href="{page("change", "a b")}"><bdi>a b</bdi></a>' in text_of(client.get(page("change", "c")))

    def test_a_page_whose_relatives_cannot_be_read_says_so_in_their_place(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any) -> Any:
            raise DatabaseError("secret")

        memory.write("a", {"of": "a"})
        monkeypatch.setattr(MachineQuerySet, "children_of", fail)
        response = client.get(page("change"))
        assert response.status_code == 200
        assert "The store failed to read 'a' (DatabaseError)." in text_of(response)
        assert "secret" not in text_of(response)

    @pytest.mark.parametrize(
        ("stored", "shown"),
        [
            (f"00-{TRACE_ID}-b7ad6b7169203331-01", TRACE_ID),
            (None, "-"),
            ("no trace", "-"),
        ],
    )
    def test_a_page_shows_the_trace_of_the_holder(
        self, operator: Client, held: Worker, stored: str | None, shown: str
    ) -> None:
        MachineRecord.objects.update(lease_trace=stored)
        _, row = text_of(operator.get(page("change"))).split("field-trace")
        assert f">{shown}<" in row.partition("field-")[0]

    def test_the_page_of_a_held_lock_is_that_of_its_machine(self, client: Client) -> None:
        memory.lock("a/b c")
        url = reverse("admin:machine_memory_heldlock_change", args=[quote("a/b c")])

        assert client.get(url).headers["Location"] == page("change", "a/b c")
        assert client.get(page("change", "a/b c")).status_code == 200

    def test_one_that_was_never_written_has_no_state(self, client: Client) -> None:
        memory.lock("a")

        assert "Download the whole" not in text_of(client.get(page("change")))
        assert client.get(page("data")).status_code == 404
        assert client.get(page("data", "absent")).status_code == 404

    def test_one_that_is_not_there_is_said_to_be_so(self, client: Client) -> None:
        response = client.get(page("change", "absent"), follow=True)
        assert "Perhaps it was deleted?" in text_of(response)


class TestHostileState:
    @pytest.fixture
    def client(self) -> Client:
        return client_of("reader")

    def test_it_is_escaped_and_made_visible(self, client: Client) -> None:
        id = "order \u202e<img src=x onerror=alert(0)>\n\U0001f600"
        memory.write(id, HOSTILE, metadata=Metadata(status="<b>\u202e", source="<i>", parent=id + "'\""))
        memory.lock(id)
        for url in (MACHINES, HELD_LOCKS, page("change", id), page("history", id)):
            raw = client.get(url).content.decode()
            assert "<img src=x" not in raw
            assert "\u202e" not in raw
            assert "\x07" not in raw
            assert "\\u202e" in raw
        shown = text_of(client.get(page("change", id)))
        assert '"\\u202eexe.txt"' in shown
        assert '"</script><img src=x onerror=alert(2)>"' in shown

    def test_it_comes_out_whole_in_the_download(self, client: Client) -> None:
        memory.write("a", HOSTILE)
        response = client.get(page("data"))

        assert response.json() == HOSTILE
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert response.headers["Content-Disposition"] == 'attachment; filename="state.json"'
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    @every_database
    def test_it_comes_out_as_it_was_stored(self, client: Client, alias: str) -> None:
        stored = '{"large": 1e999, "money": 1.50}'
        with override_settings(MACHINE_MEMORIES={"default": {"OPTIONS": {"using": alias}}}):
            memory.write("a", {})
            execute(alias, f"UPDATE {MachineRecord._meta.db_table} SET data = %s", stored)
            response = client.get(page("data"))

        assert response.content.decode() == stored

    def test_a_large_one_is_cut(self, client: Client) -> None:
        memory.write("a", {"text": "x" * 1_000_000, "list": list(range(100_000))})
        response = client.get(page("change"))

        assert len(response.content) < 500_000
        assert "… and 998000 more characters" in text_of(response)
        assert "… and 98002 more" in text_of(response)
        assert len(client.get(page("data")).json()["list"]) == 100_000

    def test_a_deep_one_is_folded(self, client: Client) -> None:
        state: Any = {"end": True}
        for _ in range(29):
            state = {"in": state}
        memory.write("a", state)
        text = text_of(client.get(page("change")))

        assert text.count('<details class="mm-json"') == 30
        assert text.count('<details class="mm-json" open>') == 2

    def test_none_of_ours_is_inline(self, client: Client) -> None:
        memory.write("a", {})
        memory.lock("a")
        for url in (MACHINES, HELD_LOCKS, page("change")):
            raw = client.get(url).content.decode()
            assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>", raw)
            assert not re.search(r"\son\w+=|\sstyle=", raw)


class TestForcedRelease:
    def test_it_evicts_the_holder_and_is_on_the_record(self, held: Worker, operator: Client) -> None:
        (info,) = memory.held_locks()
        response = operator.post(page("force_release"), confirmation(reason="the worker hangs"), follow=True)

        assert response.redirect_chain == [(page("change"), 302)]
        assert "Released 1 lease." in text_of(response)
        assert memory.lock("a") is True
        with pytest.raises(LockLost):
            held.write("a", {})
        entry = LogEntry.objects.get()
        assert (entry.user.username, entry.object_id) == ("operator", "a")
        assert entry.change_message == f"Forced the release of lease {info.fence} of {info.owner}: the worker hangs"
        assert "the worker hangs" in text_of(operator.get(page("history")))

    def test_a_reason_that_is_written_from_right_to_left_is_made_visible(self, held: Worker, operator: Client) -> None:
        operator.post(page("force_release"), confirmation(reason="the \u202ekrow"))

        assert LogEntry.objects.get().change_message.endswith(": the \\u202ekrow")
        assert "\u202e" not in text_of(operator.get(page("history")))

    def test_the_history_is_that_of_one_machine_however_the_server_compares(self, operator: Client) -> None:
        for id in ("order-a", "ORDER-A"):
            memory.lock(id)
        operator.post(page("force_release", "order-a"), confirmation("order-a", reason="only the small one"))
        with register_lookup(TextField, IExact, lookup_name="exact"):
            small, large = (operator.get(page("history", id)) for id in ("order-a", "ORDER-A"))
            assert "only the small one" in text_of(small)
            assert "only the small one" not in text_of(large)
        assert "1 entry" in text_of(small)
        assert "1 entry" not in text_of(large)

    def test_another_processs_next_write_is_refused(self, operator: Client) -> None:
        with Actor("default") as actor:
            assert actor("lock", "a") is True
            assert actor("write", "a", {"n": 1}) == 1
            operator.post(page("force_release"), confirmation())

            assert actor("write", "a", {"n": 2}) == "LockLost"
        assert memory.read("a") == {"n": 1}

    def test_the_confirmation_says_whose_lease_it_is(self, held: Worker, operator: Client) -> None:
        (info,) = memory.held_locks()
        text = text_of(operator.get(page("force_release")))

        assert info.owner in text
        assert str(info.fence) in text
        assert "seconds ago" in text
        assert re.search(r'class="mm-left" data-seconds="1\d\d', text)
        assert held.write("a", {}) == 2

    @pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
    def test_without_a_reason_nothing_happens(self, held: Worker, operator: Client, reason: str) -> None:
        response = operator.post(page("force_release"), confirmation(reason=reason))

        assert response.status_code == 200
        assert response.context["form"].errors
        assert held.write("a", {}) == 2
        assert not LogEntry.objects.exists()

    def test_a_lease_that_was_granted_since_stays(self, held: Worker, operator: Client) -> None:
        seen = confirmation()
        held.unlock("a")
        other = Worker(memory)
        other.lock("a")
        response = operator.post(page("force_release"), seen, follow=True)

        assert "1 lease was over by then, or somebody else has it now: look again." in text_of(response)
        assert other.write("a", {}) == 2
        assert not LogEntry.objects.exists()

    def test_the_action_acts_on_the_selection(self, operator: Client) -> None:
        worker = Worker(memory)
        for id in ("a", "b", "c d"):
            worker.lock(id)
        response = operator.post(HELD_LOCKS, selected("a", "c d"))
        assert response.context["title"] == "Force the release of leases"
        shown = re.findall(r'name="confirmed" value="(.*?)"', text_of(response))
        response = operator.post(HELD_LOCKS, selected("a", "c d", confirmed=shown, reason="stuck"), follow=True)

        assert "Released 2 leases." in text_of(response)
        assert [info.id for info in memory.held_locks()] == ["b"]
        assert {entry.object_id for entry in LogEntry.objects.all()} == {"a", "c d"}

    def test_of_several_choices_of_an_action_the_one_that_was_made_counts(self, operator: Client, held: Worker) -> None:
        posted = selected("a", action=["force_release", ""])
        assert '<input type="hidden" name="action" value="force_release">' in text_of(operator.post(HELD_LOCKS, posted))

    def test_where_nothing_is_held_it_says_so(self, operator: Client) -> None:
        memory.write("a", {})

        assert "There is no lease to release." in text_of(operator.post(MACHINES, selected("a"), follow=True))
        assert "There is no lease to release." in text_of(operator.get(page("force_release"), follow=True))

    def test_a_large_selection_is_refused(self, operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        assert AT_ONCE == 200
        monkeypatch.setattr("machine_memory.admin.release.AT_ONCE", 1)
        memory.lock("a")
        memory.lock("b")
        response = operator.post(HELD_LOCKS, selected("a", "b"), follow=True)

        assert "Select at most 1 leases." in text_of(response)

    @pytest.mark.parametrize(
        "forged",
        [
            *("", ":", "61", "x:61", "-1:61", "+1:61", " 1:61", "1_0:61", "1.5:61", "1:", ":61", "\n1:61", "1\n:61"),
            *("²:61", "١:61", "１:61", f"{10**30}:61", f"{2**63}:61", f"{'1' * 5_000}:61", "01:61"),  # noqa: RUF001
            *("1:610062", "1:00", "1:" + "78" * 513, "1:6", "1:6A", "1:61 ", "1:61 61", "1:61:62", "1:ff", "1:eda080"),
        ],
    )
    def test_a_confirmation_that_is_none_is_a_bad_request(self, held: Worker, operator: Client, forged: str) -> None:
        for more in ([], [*confirmation()["confirmed"]]):
            response = operator.post(page("force_release"), {"confirmed": [*more, forged], "reason": "r"})
            assert response.status_code == 400
        assert held.write("a", {}) == 2

    @pytest.mark.parametrize("bytes", ["%ED%B2%80", "%FF", "%ZZ"])
    def test_a_confirmation_that_is_no_text_releases_nothing(self, held: Worker, operator: Client, bytes: str) -> None:
        (info,) = memory.held_locks()
        posted = f"confirmed={lease('a', info.fence)}{bytes}&reason=r"
        response = operator.post(page("force_release"), posted, "application/x-www-form-urlencoded")

        assert response.status_code == 400
        assert held.write("a", {}) == 2

    def test_a_store_that_fails_is_said_to_have_failed(
        self, held: Worker, operator: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise DatabaseError("secret")

        monkeypatch.setattr(MachineQuerySet, "force_release", fail)
        text = text_of(operator.post(page("force_release"), confirmation(), follow=True))
        assert "The store failed to force-unlock 'a' (DatabaseError)." in text
        assert "secret" not in text


class TestOddIds:
    """Ids that an address or a form may lose on the way."""

    ODD = (".", "..", "...", "%2e", "_2E", "a/../b", "a\r\nb", " ", "\u202e")

    @pytest.mark.parametrize("id", ODD)
    def test_each_has_its_pages(self, id: str) -> None:
        memory.write(id, {"of": id})
        memory.lock(id)
        client = Client()
        client.force_login(User.objects.create_superuser("root"))

        assert client.get(page("data", id)).json() == {"of": id}
        for name in ("change", "history", "force_release"):
            assert client.get(page(name, id)).status_code == 200
        held_lock = reverse("admin:machine_memory_heldlock_change", args=[quote(id)])
        assert client.get(held_lock).headers["Location"] == page("change", id)

    @pytest.mark.parametrize("id", [".", ".."])
    def test_no_address_has_a_segment_that_browsers_leave_out(self, id: str) -> None:
        memory.write(id, {})
        memory.write("child", {}, metadata=Metadata(parent=id))
        memory.lock(id)
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        client.post(page("force_release", id), confirmation(id))
        memory.lock(id)

        for url in (
            MACHINES,
            HELD_LOCKS,
            "/admin/",
            *(page(name, id) for name in ("change", "history", "force_release")),
        ):
            addresses = re.findall(r'(?:href|action)="([^"]*)"', client.get(url).content.decode())
            assert not [address for address in addresses if re.search(r"/\.\.?(/|$)", address)], url
        assert page("change", id) in text_of(client.get("/admin/"))
        assert page("change", id) in text_of(client.get(page("change", "child")))

    @pytest.mark.parametrize("id", ODD)
    def test_a_lease_of_each_is_released(self, id: str, operator: Client) -> None:
        memory.lock(id)
        shown = re.findall(r'name="confirmed" value="(.*?)"', text_of(operator.get(page("force_release", id))))
        posted = [re.sub(r"\r\n|\r|\n", "\r\n", lease) for lease in shown]  # As a browser does.
        response = operator.post(page("force_release", id), {"confirmed": posted, "reason": "stuck"}, follow=True)

        assert "Released 1 lease." in text_of(response)
        assert response.redirect_chain == [(page("change", id), 302)]
        assert LogEntry.objects.get().object_id == id

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS])
    def test_each_is_selected_on_a_list_and_no_other(self, url: str, operator: Client) -> None:
        for id in self.ODD:
            memory.lock(id)
            memory.lock(id.replace("\r", ""))
        boxes = re.findall(r'name="_selected_action" value="(.*?)"', text_of(operator.get(url)), re.DOTALL)
        assert len(boxes) == len(self.ODD) + 1
        found = []
        for box in boxes:
            posted = re.sub(r"\r\n|\r|\n", "\r\n", box)  # As a browser does.
            response = operator.post(url, {"action": "force_release", "_selected_action": posted, "index": 0})
            (shown,) = re.findall(r'name="confirmed" value="(.*?)"', text_of(response))
            assert f'name="_selected_action" value="{shown}"' in text_of(response)
            found.append(bytes.fromhex(shown.partition(":")[2]).decode())
        assert sorted(found) == sorted({*self.ODD, "a\nb"})

    @pytest.mark.parametrize("name", ["change", "history", "data", "force_release", "delete"])
    def test_an_id_with_a_nul_is_not_there(self, name: str) -> None:
        client = Client()
        client.force_login(User.objects.create_superuser("root"))

        assert client.get(page(name).replace("/a/", "/a%00b/")).status_code == 404

    def test_an_id_that_is_too_long_is_not_there(self, operator: Client) -> None:
        response = operator.get(page("change", "x" * 5_000), follow=True)
        assert "Perhaps it was deleted?" in text_of(response)
        response = operator.get(page("force_release", "x" * 5_000), follow=True)
        assert "There is no lease to release." in text_of(response)

    @pytest.mark.parametrize("url", [MACHINES, HELD_LOCKS])
    @pytest.mark.parametrize("forged", [lease("a\0b"), "a", ""])
    def test_a_selection_that_is_none_is_a_bad_request(self, operator: Client, url: str, forged: str) -> None:
        assert operator.post(url, {**selected(), "_selected_action": forged}).status_code == 400


class TestTimes:
    """They are those of the store, shown in the time zone of whoever looks."""

    @pytest.mark.parametrize(
        ("use_tz", "of_database"),
        [
            pytest.param(True, {}, id="USE_TZ"),
            pytest.param(True, {"TIME_ZONE": "America/New_York"}, id="and a TIME_ZONE of the database"),
            pytest.param(False, {}, id="no USE_TZ"),
        ],
    )
    @every_database
    def test_they_are_right_whatever_the_settings(self, alias: str, use_tz: bool, of_database: dict[str, str]) -> None:
        memories = {"default": {"OPTIONS": {"using": alias}}}
        with (
            override_settings(TIME_ZONE="Asia/Kolkata", MACHINE_MEMORIES=memories, USE_TZ=use_tz),
            set_up(alias, **of_database),
        ):
            client = Client()
            client.force_login(User.objects.create_superuser("root"))
            memory.write("a", {})
            memory.lock("a", ttl=3 * 3600)
            rows = MachineRecord.objects.using(alias)
            rows.update(lease_acquired_at=StoreTime(-2 * 3600), written_at=StoreTime(-5), created_at=StoreTime(-7200))
            texts = [text_of(client.get(url)) for url in (MACHINES, HELD_LOCKS, page("change"), page("force_release"))]

        now = datetime.now(ZoneInfo("Asia/Kolkata"))
        for text, hours in zip(texts, ([0], [-2], [-2, 3, -2, 0], [-2, 3]), strict=True):
            shown = [
                datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").replace(tzinfo=now.tzinfo)
                for moment in re.findall(r'class="mm-moment">(.*?)<', text)
            ]
            assert [round((moment - now) / timedelta(hours=1), 1) for moment in shown] == hours
            assert re.search(r'class="mm-left" data-seconds="10[78]\d\d\.', text)
        assert all("2\xa0hours ago" in text for text in texts[1:])
        assert all("seconds ago" in text for text in (texts[0], texts[2]))
