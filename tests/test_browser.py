"""What an operator does in a real browser, and whether everybody can use the pages."""

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

from machine_memory import LockLost, Metadata, memory
from machine_memory.contexts import _NOTHING, _held
from tests import browser
from tests.conftest import Worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(browser.missing is not None, reason=str(browser.missing)),
]
ADMIN = "/admin/machine_memory"
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
    forged = f"confirmed={info.fence}:order-42&reason=forged&action=force_release&_selected_action=order-42"
    for path in ("machinerecord/order-42/force-release/", "heldlock/", "machinerecord/"):
        status = chrome.execute_async_script(
            """
            const [path, body, done] = arguments;
            const token = document.cookie.match(/csrftoken=([^;]+)/)[1];
            const headers = {'X-CSRFToken': token, 'Content-Type': 'application/x-www-form-urlencoded'};
            fetch(path, {method: 'POST', headers, body}).then(response => done(response.status));
            """,
            f"{ADMIN}/{path}",
            forged,
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
    chrome.execute_script("window.dispatchEvent(new Event('machine-memory-refresh'))")
    visitor.sees("order-43")


def test_hostile_state_does_nothing(chrome: Chrome, live_server: Any, holder: Worker) -> None:
    visitor = Visitor(chrome, live_server.url, "view_machinerecord", "view_machine_data")
    visitor.opens(f"{ADMIN}/machinerecord/order-42/change/")
    visitor.sees("</script><img src=x")
    assert "taken" not in chrome.title
    assert not chrome.find_elements(By.CSS_SELECTOR, "img[src=x]")


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
    settings.MIDDLEWARE = ["tests.test_browser.strict", *settings.MIDDLEWARE]
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
