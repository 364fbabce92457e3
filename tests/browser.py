"""A real Chromium driven through its DevTools protocol: enough to open a page, click, read and photograph it."""

import asyncio
import base64
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
# Number and text of a key: without them a browser tells the page, and does nothing itself.
_KEYS = {
    "Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " "), "End": (35, ""), "Home": (36, ""),
    "ArrowLeft": (37, ""), "ArrowUp": (38, ""), "ArrowRight": (39, ""), "ArrowDown": (40, ""),
}  # fmt: skip


class Browser:
    """``async with Browser() as page``: one tab of 1360 x 900 pixels."""

    def __init__(self, *, dark: bool = False) -> None:
        self._dark = dark
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._calls = 0
        self.errors: list[str] = []

    async def __aenter__(self) -> "Browser":
        folder = Path(self._profile.name)
        self._process = await asyncio.create_subprocess_exec(
            str(CHROMIUM),
            *_FLAGS,
            f"--user-data-dir={folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        port = await self._port(folder / "DevToolsActivePort")
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
            tabs = await answer.json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = await self._session.ws_connect(address, max_msg_size=0)
        await self.call("Runtime.enable")
        await self.call("Page.enable")
        await self.resize(1360, 900)
        await self.prefer(dark=self._dark)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._session.close()
        self._process.kill()
        await self._process.wait()
        self._profile.cleanup()

    @staticmethod
    async def _port(file: Path) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            await asyncio.sleep(0.05)
        raise AssertionError("Chromium did not open its debugging port within 30 s")

    async def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol; exceptions of the page seen meanwhile go into ``errors``."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        while True:
            told = await self._socket.receive_json(timeout=30)
            if told.get("method") == "Runtime.exceptionThrown":
                details = told["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", str(details)))
            if told.get("id") == self._calls:
                assert "error" not in told, told
                return told["result"]

    async def open(self, url: str) -> None:
        """Goes to ``url`` and waits for the page to be there."""
        await self.call("Page.navigate", url=url)
        await self.until(
            f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        )

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth in the page."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def promise(self, expression: str) -> Any:
        """What a promise in the page comes to."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str, seconds: float = 30) -> Any:
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := await self.value(expression):
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {expression}; page errors: {self.errors}")

    async def click(self, x: float, y: float) -> None:
        """A click of the left button at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                            clickCount=1)  # fmt: skip

    async def point(self, x: float, y: float) -> None:
        """Moves the mouse to a place of the window."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """A key of the keyboard, by the name that the page is told, with all that the browser itself makes of it."""
        code, text = _KEYS.get(key, (0, ""))
        told = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": code,
            "modifiers": 8 * shift,
        }
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **told)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    async def prefer(self, *, dark: bool) -> None:
        """Light or dark, as the reader's system would say."""
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[theme])

    async def resize(self, width: int, height: int) -> None:
        """Makes the window of that many pixels."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                        deviceScaleFactor=1, mobile=False)  # fmt: skip

    async def photograph(self, file: Path, *, whole: bool = False) -> None:
        """The window, or the whole page, as a PNG."""
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(told["data"]))
