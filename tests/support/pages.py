# SPDX-License-Identifier: Apache-2.0
"""A demo that runs in a process of its own, and a headless Chromium in front of it.

The browser is the system's; nothing is downloaded. Only 127.0.0.1 is talked to.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


try:
    from selenium.common.exceptions import StaleElementReferenceException

    STALE: tuple[type[Exception], ...] = (StaleElementReferenceException,)
except ImportError:  # then there is no page to look at either
    STALE = ()

ROOT = Path(__file__).resolve().parents[2]
START_S, SOON = 600, 120  # on a busy machine; 15 and 1 on an idle one


class Demo:
    """`python app.py` of a Space."""

    def __init__(self, name: str, place: Path, **environment: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.cache, self.log = place / "cache", place / "log.txt"
        self.process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT / "spaces" / name,
            env={
                **os.environ,
                "GRADIO_SERVER_PORT": str(port),
                "GRADIO_TEMP_DIR": str(self.cache),
                "GRADIO_ANALYTICS_ENABLED": "False",
                "HF_HUB_OFFLINE": "1",
                "NO_PROXY": "127.0.0.1,localhost",
                "no_proxy": "127.0.0.1,localhost",
                "PYTHONPATH": str(ROOT / "src"),
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )
        wait(lambda: "Running on" in self.said() or self.process.poll() is not None, START_S)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def peak_mb(self) -> float:
        """The most memory it ever had, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(30)


class Page:
    """A page in Chromium.

    Args:
        url: of the page.
        downloads: folder for what is downloaded.
        width: of the window, in CSS pixels; below 500 it is a telephone.
    """

    def __init__(self, url: str, downloads: Path, width: int = 1280):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(chromium())
        switches = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio")
        for switch in (*switches, "--autoplay-policy=no-user-gesture-required", f"--window-size={width},1000"):
            options.add_argument(switch)
        if width < 500:
            metrics = {"width": width, "height": 844, "pixelRatio": 1.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_script_timeout(60)
        self.driver.get(url)
        wait(lambda: bool(self.find("#go")), SOON)

    def find(self, selector: str) -> list[Any]:
        """Elements by CSS selector."""
        return list(self.driver.find_elements("css selector", selector))

    def text(self, selector: str = "body") -> str:
        """What can be read there."""
        return " ".join(element.text for element in self.find(selector))

    def click(self, selector: str, text: str = "") -> None:
        """Clicks on the first element with that text that can be seen."""

        def clicked() -> bool:
            for element in self._seen(selector, text)[:1]:
                self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
                element.click()
                return True
            return False

        wait(clicked, SOON)

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of JavaScript."""
        return self.driver.execute_script(script, *arguments)

    def upload(self, path: Path) -> None:
        """Gives a file to the recording."""
        for close in self.find("#recording button[aria-label='Clear']"):
            close.click()
        wait(lambda: bool(self.find("#recording input[type=file]")), SOON)
        self.find("#recording input[type=file]")[0].send_keys(str(path))

    def width(self) -> int:
        """How wide the page is, which is more than its window where something sticks out."""
        return int(self.run("return document.documentElement.scrollWidth"))

    def errors(self) -> list[str]:
        """What the browser's console says is wrong."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def close(self) -> None:
        """Closes the browser."""
        self.driver.quit()

    def _seen(self, selector: str, text: str) -> list[Any]:
        return [each for each in self.find(selector) if each.is_displayed() and each.text.strip().startswith(text)]


def wait(ready: Callable[[], bool], seconds: float) -> None:
    """Waits until something holds; what the page has just drawn anew is looked at again."""

    def holds() -> bool:
        try:
            return ready()
        except STALE:
            return False

    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def chromium() -> str | None:
    """The system's Chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


__all__ = ["Demo", "Page", "chromium", "wait"]
