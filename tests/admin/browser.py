"""A headless Chromium: the system's own, driven by the system's own driver."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python
from selenium import webdriver

DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium")
missing = None if DRIVER and CHROMIUM else "no chromium and chromedriver on the PATH"
_AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
_QUIET = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--hide-scrollbars", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def chromium(*, width: int = 1200, height: int = 900) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (*_QUIET, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(argument)
        browser = webdriver.Chrome(options, webdriver.ChromeService(executable_path=str(DRIVER)))
        try:
            yield browser
        finally:
            browser.quit()


def serious_findings(browser: webdriver.Chrome) -> list[Any]:
    """Return what axe finds wrong with the page, if it is serious or critical."""
    browser.execute_script(_AXE.read_text())
    report = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [
        (finding["id"], finding["help"], [node["html"] for node in finding["nodes"]])
        for finding in report["violations"]
        if finding["impact"] in ("serious", "critical")
    ]


def log(browser: webdriver.Chrome) -> list[Any]:
    """Return what the browser has complained of since this was asked last."""
    return list(browser.get_log("browser"))  # type: ignore[no-untyped-call]
