"""A real browser for the tests: Chromium without a window, driven over its DevTools protocol.

Only what the tests need, on `websocket-client`, which Jupyter brings along.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT = 120      # seconds for anything; a wait ends as soon as what it waits for is there


def find_chromium() -> str | None:
    """The program named by $CHROMIUM, or the first that the system has."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser. `requests` holds the address of everything that it has asked for."""

    def __init__(self, profile: Path):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._number, self._profile = 0, profile
        self._process = subprocess.Popen(
            [find_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync",
             "--hide-scrollbars", "--disable-component-update", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = profile / "DevToolsActivePort"
        until(lambda: port.exists() and port.read_text().count("\n") >= 1, "the browser to start")
        lines = port.read_text().split("\n")
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{lines[0]}{lines[1]}", suppress_origin=True, timeout=WAIT)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target,
                                  flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments) -> dict:
        """One command of the protocol and its result. Raises RuntimeError if it is refused."""
        number = self._send(method, arguments)
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _send(self, method: str, arguments: dict) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        return self._number

    def _note(self, event: dict) -> None:
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Page.javascriptDialogOpening":     # "Leave without saving?"
            self._send("Page.handleJavaScriptDialog", {"accept": True})

    def open(self, address: str) -> None:
        """Go to a page and wait until it and its scripts are loaded."""
        self.call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.split('#')[0] === "
                  f"{json.dumps(address.split('#')[0])}", address)

    def run(self, script: str):
        """The value of a JavaScript expression, awaited. Raises RuntimeError with its error."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True,
                         returnByValue=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    def wait(self, script: str, what: str = "", seconds: float = WAIT):
        """Wait until an expression is true; returns its value."""
        return until(lambda: self.run(script), what or script, seconds)

    def resize(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The size of the page in CSS pixels, and whether its reader likes it dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def press(self, key: str, text: str = "") -> None:
        """Press and release one key, as "Tab" or "Enter"."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text
                                                                         else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        done = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))

    def close(self) -> None:
        """End the browser that this started."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(WAIT)


def until(condition, what: str, seconds: float = WAIT):
    """Ask again and again; returns the first true answer. Raises TimeoutError with `what`."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
    return answer
