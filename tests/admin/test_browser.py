"""What an operator does in a real browser, and whether everybody can use the pages."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from machine_memory import LockLost, Metadata, memories, memory
from machine_memory.core.contexts import _NOTHING, _held
from machine_memory.models import MachineRecord
from tests.admin import browser
from tests.admin.conftest import REDIS
from tests.admin.test_admin import lease
from tests.conftest import Worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(browser.missing is not None, reason=str(browser.missing)),
]
ADMIN = "/admin/machine_memory"
REFRESH = "window.dispatchEvent(new Event('machine-memory-refresh'))"
PASSWORD = "for this test alone"  # noqa: S105
HOSTILE = {"</script><img src=x onerror=document.title='taken'>": "</script><script>document.title='taken'</script>"}


class Visitor:
    """A person at the browser."""

    def __init__(self, chrome: Chrome, address: str, *permissions: str) -> None:
        self.chrome = chrome
        self._address = address
        user = User.objects.create_user("visitor", password=PASSWORD, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        self.opens("/admin/login/?next=/admin/")
        self.types("username", "visitor")
        self.types("password", PASSWORD + Keys.ENTER)
        self.sees("Machine memory")

    def opens(self, path: str) -> None:
        self.chrome.get(self._address + path)

    def has_a_screen(self, width: int) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def types(self, name: str, text: str) -> None:
        self.chrome.find_element(By.NAME, name).send_keys(text)

    def clicks(self, text: str) -> None:
        self.chrome.find_element(By.XPATH, f"//*[self::a or self::button][normalize-space()='{text}']").click()

    def sees(self, text: str) -> None:
        WebDriverWait(self.chrome, 10).until(lambda chrome: text.lower() in self.page().lower(), f"no {text!r} here")

    def page(self) -> str:
        return str(self.chrome.execute_script("return document.body ? document.body.innerText : ''"))

    def waits_for(self, condition: Any) -> None:
        WebDriverWait(self.chrome, 10, ignored_exceptions=[WebDriverException]).until(lambda chrome: condition())


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser.chromium() as chrome:
        yield chrome


@pytest.fixture(autouse=True)
def _its_own_screen(chrome: Chrome) -> Iterator[None]:
    yield
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def holder() -> Worker:
    _held.set(_NOTHING)
    memory.write("order-42", {"status": "paid", **HOSTILE}, metadata=Metadata(parent="cart-7"))
    memory.write("order-43", {"status": "new"})
    worker = Worker(memory)
    worker.lock("order-42", ttl=600)
    return worker


def test_an_operator_finds_a_held_lock_releases_it_and_sees_the_log(
    chrome: Chrome, live_server: Any, holder: Worker
) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    visitor.clicks("Held locks")
    visitor.sees("order-42")
    visitor.clicks("order-42")
    visitor.clicks("Force the release of its lease")
    visitor.sees("Whoever holds this lease loses it at once")
    visitor.types("reason", "the worker hangs" + Keys.ENTER)
    visitor.sees("Released 1 lease.")
    visitor.clicks("History")
    visitor.sees("the worker hangs")

    with pytest.raises(LockLost):
        holder.write("order-42", {})
    assert LogEntry.objects.get().user == User.objects.get(username="visitor")


def test_the_action_on_the_list_works_by_keyboard_alone(chrome: Chrome, live_server: Any, holder: Worker) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    visitor.opens(f"{ADMIN}/heldlock/")
    chrome.find_element(By.CSS_SELECTOR, "#result_list tbody input").send_keys(Keys.SPACE)
    chrome.find_element(By.NAME, "action").send_keys("Force")
    chrome.find_element(By.NAME, "index").send_keys(Keys.ENTER)
    visitor.sees("Whoever holds this lease loses it at once")
    visitor.types("reason", "stuck" + Keys.ENTER)
    visitor.sees("Released 1 lease.")
    assert list(memory.held_locks()) == []


def test_a_viewer_finds_no_such_action_and_a_forged_post_is_forbidden(
    chrome: Chrome, live_server: Any, holder: Worker
) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord")
    for path in ("heldlock/", "machinerecord/", "machinerecord/order-42/change/"):
        visitor.opens(f"{ADMIN}/{path}")
        visitor.sees("order-42")
        assert "Force" not in visitor.page()
        assert not chrome.find_elements(By.NAME, "action")
    (info,) = memory.held_locks()
    forged = f"confirmed={lease('order-42', info.fence)}&_selected_action={lease('order-42')}&reason=forged"
    for path in ("machinerecord/order-42/force-release/", "heldlock/", "machinerecord/"):
        status = chrome.execute_async_script(
            """
            const [path, body, done] = arguments;
            const token = document.cookie.match(/csrftoken=([^;]+)/)[1];
            const headers = {'X-CSRFToken': token, 'Content-Type': 'application/x-www-form-urlencoded'};
            fetch(path, {method: 'POST', headers, body}).then(response => done(response.status));
            """,
            f"{ADMIN}/{path}",
            f"{forged}&action=force_release",
        )
        assert status == 403
    assert holder.write("order-42", {}) == 2


def test_the_time_left_counts_down_and_the_list_is_asked_for_again(
    chrome: Chrome, live_server: Any, holder: Worker
) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord")
    visitor.opens(f"{ADMIN}/heldlock/")
    first = chrome.find_element(By.CLASS_NAME, "mm-left").text
    visitor.waits_for(lambda: chrome.find_element(By.CLASS_NAME, "mm-left").text < first)
    assert first.startswith(("9:5", "10:0"))
    Worker(memory).lock("order-43")
    chrome.execute_script(REFRESH)
    visitor.sees("order-43")


def test_what_is_asked_for_again_is_selected_as_before(chrome: Chrome, live_server: Any, holder: Worker) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    visitor.opens(f"{ADMIN}/heldlock/")
    chrome.execute_script("window.stays = true; document.querySelector('.mm-left').dataset.seconds = 'old'")
    chrome.execute_script(REFRESH)
    visitor.waits_for(lambda: chrome.find_element(By.CLASS_NAME, "mm-left").get_attribute("data-seconds") != "old")
    chrome.find_element(By.ID, "action-toggle").click()
    assert chrome.find_element(By.CSS_SELECTOR, "#result_list tbody input").is_selected()
    assert chrome.find_element(By.CLASS_NAME, "action-counter").text == "1 of 1 selected"
    assert chrome.execute_script("return window.stays")


def test_a_list_empties_and_fills_again(chrome: Chrome, live_server: Any, holder: Worker) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    visitor.opens(f"{ADMIN}/heldlock/")
    memory.force_unlock("order-42")
    chrome.execute_script(REFRESH)
    visitor.sees("0 held locks")
    Worker(memory).lock("order-43")
    chrome.execute_script(REFRESH)
    visitor.sees("1 held lock")
    chrome.find_element(By.ID, "action-toggle").click()
    assert chrome.find_element(By.CSS_SELECTOR, "#result_list tbody input").is_selected()


def test_a_machine_is_selected_whose_id_has_a_line_break(chrome: Chrome, live_server: Any) -> None:
    _held.set(_NOTHING)
    memory.lock("line\nbreak")
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    visitor.opens(f"{ADMIN}/heldlock/")
    chrome.find_element(By.CSS_SELECTOR, "#result_list tbody input").click()
    chrome.find_element(By.NAME, "action").send_keys("Force")
    chrome.find_element(By.NAME, "index").click()
    visitor.types("reason", "stuck" + Keys.ENTER)
    visitor.sees("Released 1 lease.")
    assert list(memory.held_locks()) == []


def test_hostile_state_does_nothing(chrome: Chrome, live_server: Any, holder: Worker) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data")
    visitor.opens(f"{ADMIN}/machinerecord/order-42/change/")
    visitor.sees("</script><img src=x")
    assert "taken" not in chrome.title
    assert not chrome.find_elements(By.CSS_SELECTOR, "img[src=x]")


@pytest.mark.parametrize("id", [".", ".."])
def test_a_machine_is_reached_whose_id_is_a_step_in_a_path(chrome: Chrome, live_server: Any, id: str) -> None:
    _held.set(_NOTHING)
    memory.write(id, {"of": id})
    memory.write("child", {}, metadata=Metadata(parent=id))
    Worker(memory).lock(id, ttl=600)
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data", "force_unlock")
    visitor.opens(f"{ADMIN}/heldlock/")
    visitor.clicks(id)
    visitor.sees("Force the release of its lease")
    link = chrome.find_element(By.PARTIAL_LINK_TEXT, "Download the whole").get_attribute("href")
    download = "fetch(arguments[0]).then(response => response.text()).then(arguments[1])"
    assert json.loads(chrome.execute_async_script(download, link)) == {"of": id}
    visitor.clicks("Force the release of its lease")
    visitor.types("reason", "stuck" + Keys.ENTER)
    visitor.sees("Released 1 lease.")
    visitor.clicks("History")
    visitor.sees("Forced the release of lease")
    chrome.find_elements(By.CSS_SELECTOR, ".breadcrumbs a")[-1].click()
    visitor.sees("Relatives")
    visitor.opens("/admin/")
    visitor.clicks(id)
    visitor.sees("Relatives")
    visitor.opens(f"{ADMIN}/machinerecord/child/change/")
    visitor.clicks(id)
    visitor.sees("Download the whole as JSON")
    assert list(memory.held_locks()) == []


@pytest.fixture
def long() -> str:
    """The id of a held machine that nothing about it is short of."""
    _held.set(_NOTHING)
    id, label = "x" * 512, "label" * 51
    state: Any = {"key" * 100: "value" * 100}
    for _ in range(20):
        state = {"in": state}
    memory.write(id, state, metadata=Metadata(status=label, source=label, initiator=label, parent="y" * 512))
    memory.write("short", {}, metadata=Metadata(status="delivered", parent=id))
    Worker(memory).lock(id, ttl=24 * 60 * 60)
    MachineRecord.objects.filter(pk=id).update(lease_owner="owner" * 51)
    return id


OUTSIDE = """
    const room = document.documentElement;
    const cut = [...document.querySelectorAll('.results')].filter(element => element.scrollWidth > element.clientWidth);
    const outside = [...document.querySelectorAll('#content *')].filter(element => {
        const {width, right} = element.getBoundingClientRect();
        return width > 1 && right > room.clientWidth && !element.closest('.field-state');
    });
    const scrolls = room.scrollWidth > room.clientWidth ? [room] : [];
    return [...scrolls, ...cut, ...outside].map(element => `${element.tagName}.${element.className}`);
"""


@pytest.mark.parametrize("width", [390, 768, 1100, 1280])
def test_nothing_is_cut_or_lies_outside(chrome: Chrome, live_server: Any, long: str, width: int) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data", "force_unlock")
    visitor.has_a_screen(width)
    for path in (
        *("heldlock/", "machinerecord/", f"machinerecord/?parent={long}&q=s", "machinerecord/?lease=held"),
        *(f"machinerecord/{long}/change/", f"machinerecord/{long}/force-release/"),
    ):
        visitor.opens(f"{ADMIN}/{path}")
        assert chrome.execute_script("return window.innerWidth") == width
        chrome.execute_script("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        if width > 1024:
            assert chrome.find_element(By.ID, "nav-sidebar").is_displayed()
        assert chrome.execute_script(OUTSIDE) == [], path


@pytest.mark.parametrize(("width", "least"), [(390, 200), (1280, 300)])
def test_the_search_box_is_wide_enough_to_type_in(
    chrome: Chrome, live_server: Any, holder: Worker, width: int, least: int
) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord")
    visitor.has_a_screen(width)
    for path in ("heldlock/", "machinerecord/"):
        visitor.opens(f"{ADMIN}/{path}")
        assert chrome.find_element(By.ID, "searchbar").size["width"] > least


def test_on_a_narrow_page_each_value_says_what_it_is(chrome: Chrome, live_server: Any, holder: Worker) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord")
    visitor.has_a_screen(390)
    visitor.opens(f"{ADMIN}/heldlock/")
    chrome.execute_script("document.querySelector('#result_list tbody').replaceChildren()")
    chrome.execute_script(REFRESH)
    said = "return [...document.querySelectorAll('#result_list td')].map(cell => cell.dataset.label)"
    visitor.waits_for(lambda: chrome.execute_script(said) == ["Machine", "Lease", "Owner", "Held since"])


def test_the_breadcrumbs_of_a_forced_release_are_as_those_of_a_machine(
    chrome: Chrome, live_server: Any, holder: Worker
) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    looks = """
        const shown = document.querySelector('.breadcrumbs');
        const {color, backgroundColor, padding, height} = getComputedStyle(shown);
        return [shown.tagName, shown.childElementCount, color, backgroundColor, padding, height];
    """
    visitor.opens(f"{ADMIN}/machinerecord/order-42/change/")
    of_machine = chrome.execute_script(looks)
    visitor.opens(f"{ADMIN}/machinerecord/order-42/force-release/")

    assert chrome.execute_script(looks) == of_machine
    trail = chrome.find_element(By.CLASS_NAME, "breadcrumbs")
    links = [link.text for link in trail.find_elements(By.TAG_NAME, "a")]
    assert links == ["Home", "Machine memory", "Machines"]
    assert trail.text.endswith("Force the release of leases")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_axe_finds_nothing_serious(chrome: Chrome, live_server: Any, holder: Worker, theme: str, width: int) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data", "force_unlock")
    feature = {"name": "prefers-color-scheme", "value": theme}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    chrome.set_window_size(width, 900)
    for path in (
        *("heldlock/", "machinerecord/", "machinerecord/?lease=held&status=paid&q=order"),
        *("machinerecord/order-42/change/", "machinerecord/order-42/force-release/"),
    ):
        visitor.opens(f"{ADMIN}/{path}")
        assert browser.serious_findings(chrome) == [], path


def test_under_a_strict_policy_the_browser_complains_of_nothing_of_ours(
    chrome: Chrome, live_server: Any, holder: Worker, settings: Any
) -> None:
    settings.MIDDLEWARE = ["tests.admin.test_browser.strict", *settings.MIDDLEWARE]
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data", "force_unlock")
    for path in ("heldlock/", "machinerecord/", "machinerecord/order-42/change/"):
        visitor.opens(f"{ADMIN}/{path}")
        visitor.sees("order-42")
    complaints = [entry["message"] for entry in browser.log(chrome) if "Content Security" in entry["message"]]
    assert complaints == []


def strict(get_response: Any) -> Any:
    """Answer with a policy that takes no inline script or style."""

    def answer(request: Any) -> Any:
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:"
        return response

    return answer


@pytest.fixture
def basket(in_redis: Any, settings: Any) -> Worker:
    """The holder of a machine in Redis, beside those of the database."""
    settings.MACHINE_MEMORIES = {"default": {}, "fast": REDIS, "simple": settings.MACHINE_MEMORIES["simple"]}
    _held.set(_NOTHING)
    worker = Worker(memories["fast"])
    worker.write("basket-1", {"status": "new", **HOSTILE}, metadata=Metadata(status="new", parent="cart-7"))
    worker.lock("basket-1", ttl=600)
    return worker


def test_a_lock_in_another_memory_is_found_and_released_by_keyboard_alone(
    chrome: Chrome, live_server: Any, holder: Worker, basket: Worker
) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "force_unlock")
    visitor.opens(f"{ADMIN}/heldlock/")
    visitor.sees("order-42")
    choice = chrome.find_element(By.CSS_SELECTOR, "nav.mm-memories")
    assert choice.accessible_name.lower() == "memory"
    assert choice.find_element(By.CSS_SELECTOR, "[aria-current=page]").text == "default"
    choice.find_element(By.LINK_TEXT, "fast").send_keys(Keys.ENTER)
    visitor.sees("basket-1")
    assert "order-42" not in visitor.page()
    chrome.find_element(By.CSS_SELECTOR, "#result_list tbody input").send_keys(Keys.SPACE)
    chrome.find_element(By.NAME, "action").send_keys("Force")
    chrome.find_element(By.NAME, "index").send_keys(Keys.ENTER)
    visitor.sees("Whoever holds this lease loses it at once")
    visitor.types("reason", "stuck" + Keys.ENTER)
    visitor.sees("Released 1 lease.")
    assert chrome.find_element(By.CSS_SELECTOR, ".mm-memories [aria-current=page]").text == "fast"
    assert list(memories["fast"].held_locks()) == []
    with pytest.raises(LockLost):
        basket.write("basket-1", {})
    assert memory.holder("order-42")
    visitor.opens("/admin/")
    visitor.clicks("basket-1 in memory fast")
    visitor.clicks("History")
    visitor.sees("stuck")
    chrome.find_elements(By.CSS_SELECTOR, ".breadcrumbs a")[-1].click()
    visitor.sees("cart-7")


@pytest.mark.usefixtures("holder", "basket")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_use_the_pages_of_other_memories(
    chrome: Chrome, live_server: Any, theme: str, settings: Any
) -> None:
    nowhere = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    down = {**settings.MACHINE_MEMORIES["fast"], "OPTIONS": {"cache": "nowhere"}}
    settings.CACHES = {**settings.CACHES, "nowhere": nowhere}
    settings.MACHINE_MEMORIES = {**settings.MACHINE_MEMORIES, "a name that is quite long": {}, "down": down}
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data", "force_unlock")
    feature = {"name": "prefers-color-scheme", "value": theme}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    for width in (390, 1280):
        visitor.has_a_screen(width)
        for path in (
            *(
                "heldlock/?memory=fast",
                "machinerecord/?memory=fast&lease=held",
                "machinerecord/?memory=fast&start=0.0",
            ),
            *("machinerecord/?memory=simple", "machinerecord/?memory=down", "heldlock/?memory=down"),
            *(f"machinerecord/basket-1 in memory fast/{page}/" for page in ("change", "force-release", "history")),
        ):
            visitor.opens(f"{ADMIN}/{path}")
            assert browser.serious_findings(chrome) == [], path
            assert chrome.execute_script(OUTSIDE) == [], path
