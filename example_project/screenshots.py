"""Take the pictures of the admin that the README shows: ``make screenshots``."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from example_project.fulfilment.shop.workers import SHIFTS
from tests.admin.browser import chromium, missing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WIDTH = 1200
DEAD = sum(shift.dies for shift in SHIFTS)
PATIENCE = 20
"""Seconds for the leases of the dead to expire."""


@dataclass(frozen=True, slots=True)
class Server:
    address: str
    name: str
    password: str


def main() -> None:
    if missing:
        raise SystemExit(f"The pictures cannot be taken: there is {missing}.")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        _serving(folder) as server,
        chromium(width=WIDTH) as browser,
    ):
        _log_in(browser, server)
        _open_when_expired(browser, f"{server.address}admin/machine_memory/heldlock/")
        browser.find_element(By.ID, "toggle-nav-sidebar").click()  # And it stays away.
        _take(browser, "held-locks")
        browser.get(f"{server.address}admin/machine_memory/machinerecord/")
        _take(browser, "machines")
        browser.find_element(By.LINK_TEXT, "express-0004/parcel-2").click()
        _take(browser, "machine", most=850)  # Lease and state.
        browser.find_element(By.CSS_SELECTOR, "a[href$='force-release/']").click()
        browser.find_element(By.NAME, "reason").send_keys("packer-3 hangs")
        _take(browser, "force-release")


@contextmanager
def _serving(folder: str) -> Iterator[Server]:
    """Serve the example from a database of its own, on a port that is free."""
    with subprocess.Popen(
        [sys.executable, "manage.py", "serve", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "EXAMPLE_DATABASE": f"{folder}/example.sqlite3", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield _started(process)
        finally:
            process.terminate()


def _started(process: "subprocess.Popen[str]") -> Server:
    said = ""
    for line in process.stdout or ():
        said += line
        if address := re.search(r"server at (\S+)", line):
            (name, password), *_ = re.findall(r"log in as (\S+) with the password (\S+)", said)
            return Server(address[1], name, password)
    raise SystemExit(said)


def _log_in(browser: webdriver.Chrome, server: Server) -> None:
    browser.get(server.address)
    browser.find_element(By.NAME, "username").send_keys(server.name)
    browser.find_element(By.NAME, "password").send_keys(server.password)
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()


def _open_when_expired(browser: webdriver.Chrome, held_locks: str) -> None:
    """Open the list once the leases of the workers that died are over."""

    def are_expired(browser: webdriver.Chrome) -> bool:
        browser.get(held_locks)
        return len(browser.find_elements(By.CLASS_NAME, "mm-expired")) == DEAD

    WebDriverWait(browser, PATIENCE).until(are_expired)


def _take(browser: webdriver.Chrome, name: str, *, most: int = 900) -> None:
    """Write a picture of the page from its top, at ``most`` so many pixels high."""
    _resize(browser, height=1)
    height = browser.execute_script("return document.documentElement.scrollHeight")
    _resize(browser, height=min(height, most))
    browser.save_screenshot(str(DOCS / f"{name}.png"))
    sys.stdout.write(f"docs/{name}.png\n")


def _resize(browser: webdriver.Chrome, *, height: int) -> None:
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


if __name__ == "__main__":
    main()
