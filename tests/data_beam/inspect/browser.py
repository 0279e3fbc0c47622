"""A real browser, driven over the Chrome DevTools protocol through a pipe, with the standard library alone.

https://chromedevtools.github.io/devtools-protocol/; with --remote-debugging-pipe the browser reads from file descriptor
3 and writes to 4: JSON messages, each ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

SECONDS = 20.0  # for anything to happen; a machine may be busy


def executable() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. `requests`: every address it asked for; `errors`: exceptions, refusals, dialogs, console messages."""

    def __init__(self, profile: Path, width: int = 1400, height: int = 900) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.number, self.answers, self.held = 0, {}, b""  # type: int, dict[int, Any], bytes
        reads, self.write_to = os.pipe()
        self.read_from, writes = os.pipe()
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
            *(f"--window-size={width},{height}", f"--user-data-dir={profile}", "about:blank"),
        ]
        # The shell moves the pipes to 3 and 4, which this process has other files at. (dash takes no numbers above 9.)
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', executable() or "chromium", *options]
        self.process = subprocess.Popen(shell, pass_fds=(reads, writes), stderr=subprocess.DEVNULL)
        os.close(reads)
        os.close(writes)
        targets = self.call("Target.getTargets", session=False)["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.call("Target.attachToTarget", session=False, targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, session: bool = True, **parameters: Any) -> Any:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = self.session
        os.write(self.write_to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while self.number not in self.answers:
            self._receive(deadline)
        answer = self.answers.pop(self.number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self, deadline: float) -> None:
        ready, _, _ = select.select([self.read_from], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(self.read_from, 1 << 20) if ready else b""
        if not data:
            raise TimeoutError("the browser does not answer")
        *messages, self.held = (self.held + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self._event(message["method"], message["params"])

    def _event(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Runtime.consoleAPICalled"):
            self.errors.append(json.dumps(event))
        elif method == "Log.entryAdded":
            self.errors.append(event["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """The first true value of an expression. Raises AssertionError when it does not become true."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)  # an exception: not yet
            if value := answer["result"].get("value"):
                return value
            time.sleep(0.02)
        raise AssertionError(f"not on the page: {script}\n{self.run('document.body.innerText.slice(0, 2000)')}")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.shown()

    def shown(self) -> None:
        """Waits until the page shows what its address says."""
        self.until("document.body.dataset.shown === (location.hash || '#')")

    def click(self, selector: str) -> None:
        """With the mouse, where the element is seen."""
        place = self.until(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); if (!found) return null;"
            "found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
            "return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        for pipe in (self.write_to, self.read_from):
            os.close(pipe)  # the browser ends when nobody drives it
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
