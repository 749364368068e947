"""Headless Chromium over the WebDriver protocol: its own chromedriver and JSON over HTTP, nothing else."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "chromium and chromedriver are not installed: apt-get install chromium chromium-driver"
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
_SECONDS = 60


class Browser:
    """One window. Use it as a context; the driver and the browser end with it."""

    def __init__(self, width: int = 1280, height: int = 1000, *, dark: bool = False) -> None:
        assert CHROMIUM and DRIVER, MISSING
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{port}"
        try:
            self._wait()
            options = {"binary": CHROMIUM, "args": list(_FLAGS)}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.url += f"/session/{made['sessionId']}"
            self.resize(width, height)
            self.media(dark=dark)
        except BaseException:
            self.process.kill()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(_SECONDS)

    def _wait(self) -> None:
        for _ in range(200):
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.05)
        raise TimeoutError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        request.method = method
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def devtools(self, command: str, **values: object) -> dict:
        """A command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """The size of the window's inside."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def media(self, *, dark: bool) -> None:
        """What the reader prefers."""
        value = "dark" if dark else "light"
        self.devtools(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}]
        )

    def open(self, page: Path, *, until: str = "all drawn") -> None:
        """Load a report and wait for one of its marks: ``explorer``, ``in sight``, ``all drawn``."""
        self._call("POST", "/url", {"url": page.resolve().as_uri()})
        self.until(f"performance.getEntriesByName('{until}').length")

    def run(self, script: str, *values: object) -> object:
        """The value that a function body returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(values)})

    def until(self, condition: str) -> None:
        """Wait for an expression to be true."""
        end = time.monotonic() + _SECONDS
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"not within {_SECONDS} s: {condition}"
            time.sleep(0.03)

    def keys(self, text: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": letter} for letter in text for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def messages(self) -> list[str]:
        """What the console said since this was asked last: warnings and errors."""
        found = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in found if entry["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, selector: str = "html", most: int = 20_000) -> bytes:
        """A PNG of one element, or of the whole page."""
        box = self.run(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}",
            selector,
        )
        box["height"] = min(box["height"], most)
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=box)
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """The page as printed."""
        return base64.b64decode(self.devtools("Page.printToPDF", printBackground=True)["data"])
