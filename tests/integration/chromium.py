"""Headless Chromium by WebDriver (W3C) over HTTP, for the tests of pages. Knows no page."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.embedded import free_port

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
)
KEYS = {
    "enter": "\ue007",
    "shift": "\ue008",
    "control": "\ue009",
    "left": "\ue012",
    "right": "\ue014",
    "back": "\ue003",
}
PATIENCE_S = 20.0


def require_chromium() -> tuple[str, str]:
    """(browser, driver), or the test is skipped; with HELIU_REQUIRE_CHROMIUM=1 in CI it fails."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "chromium or chromedriver is not installed (apt-get install chromium chromium-driver)"
    if os.environ.get("CI") and os.environ.get("HELIU_REQUIRE_CHROMIUM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class Browser:
    """One window."""

    def __init__(self, driver: httpx.Client, session: str) -> None:
        self._http, self._base = driver, f"/session/{session}"

    def ask(self, method: str, path: str, **body: Any) -> Any:
        answer = self._http.request(method, self._base + path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise RuntimeError(f"{method} {path}: {value['error']}: {value['message'][:300]}")
        return value

    def open(self, url: str) -> None:
        self.ask("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of `return ...` in the page."""
        return self.ask("POST", "/execute/sync", script=script, args=list(arguments))

    def until(self, expression: str, what: str = "") -> Any:
        """The value of a JavaScript expression once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.run(f"return {expression}")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what or expression}; the page says: {self.text('body')[:500]}")
            time.sleep(0.03)
        return value

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def click(self, selector: str) -> None:
        found = self.ask("POST", "/element", using="css selector", value=selector)
        self.ask("POST", f"/element/{found[ELEMENT]}/click")

    def type(self, selector: str, text: str) -> None:
        found = self.ask("POST", "/element", using="css selector", value=selector)
        self.ask("POST", f"/element/{found[ELEMENT]}/value", text=text)

    def press(self, *keys: str, holding: str = "") -> None:
        """Real key strokes, one after the other."""
        strokes = [
            {"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")
        ]
        if holding:
            held = KEYS[holding]
            strokes = [{"type": "keyDown", "value": held}, *strokes, {"type": "keyUp", "value": held}]
        self.ask("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))


class Chromium:
    """One driver process; each window has a profile of its own."""

    def __init__(self, http: httpx.Client, browser: str, folder: Path) -> None:
        self._http, self._browser, self._folder = http, browser, folder
        self._sessions: list[str] = []

    def window(self, language: str = "en-US") -> Browser:
        profile = tempfile.mkdtemp(dir=self._folder)
        options = {
            "binary": self._browser,
            "args": [
                *FLAGS,
                f"--user-data-dir={profile}",
                "--window-size=1000,800",
                "--disable-dev-shm-usage",
            ],
            "prefs": {"intl.accept_languages": language},
        }
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        made = self._http.post("/session", json=wanted).json()["value"]
        assert "sessionId" in made, made
        self._sessions.append(made["sessionId"])
        return Browser(self._http, made["sessionId"])

    def close(self) -> None:
        for session in self._sessions:
            self._http.delete(f"/session/{session}")


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A started driver; windows and processes have ended when the block has."""
    browser, driver = require_chromium()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="heliu-chromium-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            started = Chromium(http, browser, Path(folder))
            try:
                _wait(http)
                yield started
            finally:
                started.close()
                process.terminate()
                process.wait(20)


def _wait(http: httpx.Client) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if http.get("/status").json()["value"]["ready"]:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError("chromedriver did not start")
