"""A headless Chromium, spoken to through its DevTools protocol on a pair of pipes."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium")
# As root there is no sandbox, and a container may have a small /dev/shm.
FLAGS = (
    *("--headless", "--hide-scrollbars", "--no-sandbox"),
    *("--disable-gpu", "--disable-dev-shm-usage"),
)
# No name resolves, whatever the page asks for.
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
PATIENCE = 60.0  # seconds


class Browser:
    """One page of a browser; ``events`` are all that it has told, in order."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to_it, self._from_it = to_it, from_it
        self._unread = b""
        self._last = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **words: object) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": words}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, *, width: int = 1200, height: int = 900) -> None:
        """Open a file in a window of this size, and wait until it is loaded."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=page.as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(self._receive())

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page; its policy does not apply to this."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        """Return what the events of this kind told."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        return self._file("Page.captureScreenshot", captureBeyondViewport=True)

    def printed(self) -> bytes:
        """Return the page as PDF, on the paper that it asks for."""
        return self._file("Page.printToPDF", preferCSSPageSize=True)

    def _file(self, method: str, **words: object) -> bytes:
        return base64.b64decode(self.call(method, **words)["data"])

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from_it], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            chunk = os.read(self._from_it, 1 << 20)
            assert chunk, "the browser has ended"
            self._unread += chunk
        message, self._unread = self._unread.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextlib.contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Run a browser with a new profile, which ends with the block."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, f"apt-get install {PROGRAMS[0]}"
    its_input, to_it = os.pipe()
    from_it, its_output = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    shell = f'exec "$@" 3<&{its_input} 4>&{its_output}'
    flags = (*FLAGS, NO_NETWORK, f"--user-data-dir={profile}", "--remote-debugging-pipe")
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *flags],
        pass_fds=(its_input, its_output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(to_it, from_it)
    finally:
        os.close(to_it)  # which ends it
        os.close(from_it)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
