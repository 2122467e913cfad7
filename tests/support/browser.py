"""Drives a headless Chromium over a pipe: a page's console, its requests, its screenshot."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
]


def find():
    """Path of a Chromium; None if none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser. `messages` holds all events of the DevTools protocol so far."""

    def __init__(self, profile):
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        # the protocol's pipe is 3 (commands) and 4 (answers)
        script = f'exec "$@" 3<&{command_read} 4>&{answer_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", find(), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(command_read, answer_write), stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._buffer, self._number, self._session, self.messages = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method, **params):
        """Send a command; return its result."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.messages.append(answer)

    def _next(self, seconds):
        until = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser is gone"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def open(self, path, width, height=900, dark=False):
        """Load a file completely, in a window of this width in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        before = len(self.messages)
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(m["method"] == "Page.loadEventFired" for m in self.messages[before:]):
            self.messages.append(self._next(60))

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression,
                         returnByValue=True)["result"].get("value")

    def screenshot(self, path):
        """The whole page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self):
        """Errors and warnings of the console, exceptions, and policies broken."""
        methods = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [m["params"] for m in self.messages if m["method"] in methods]

    def requests(self):
        """URLs that the page requested, without data URIs."""
        urls = [m["params"]["request"]["url"] for m in self.messages
                if m["method"] == "Network.requestWillBeSent"]
        return [u for u in urls if not u.startswith("data:")]
