"""Headless Chromium, driven over its DevTools protocol through a pair of pipes: Python's standard library alone."""

import base64
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading

from processes import PATIENCE_S, bound_command, environment, wait_for

PROGRAMS = ("/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome")


class Browser:
    """One browser with a profile of its own."""

    def __init__(self):
        program = next((found for found in map(shutil.which, PROGRAMS) if found), None)
        if program is None:
            raise AssertionError(f"none of {', '.join(PROGRAMS)} is installed: deploy/packages.sh test")
        self._profile = tempfile.TemporaryDirectory(prefix="moepool-browser-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "--disable-gpu",
                 "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
                 "--lang=en", "about:blank"]
        if os.geteuid() == 0:
            flags.insert(0, "--no-sandbox")  # Chromium's sandbox refuses root
        # The protocol is spoken on descriptors 3 and 4. Not with sh, which knows descriptors of one digit only.
        command = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", program, *flags]
        self._log = open(os.path.join(self._profile.name, "log"), "wb")
        self.popen = subprocess.Popen(bound_command(None, command), stdin=subprocess.DEVNULL, stdout=self._log,
                                      stderr=self._log, pass_fds=(to_browser, from_browser), env=environment())
        os.close(to_browser)
        os.close(from_browser)
        self._lock = threading.Lock()
        self._answers = {}
        self._last = 0
        self._pages = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        rest = b""
        while True:
            part = os.read(self._in, 1 << 16)
            if not part:
                for answer in list(self._answers.values()):
                    answer.put({"error": {"message": "the browser has ended"}})
                return
            *messages, rest = (rest + part).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].on_event(message["method"], message["params"])

    def call(self, method, session=None, **params):
        """One command of the protocol; its result."""
        answer = queue.Queue()
        with self._lock:
            self._last += 1
            message = {"id": self._last, "method": method, "params": params}
            if session is not None:
                message["sessionId"] = session
            self._answers[self._last] = answer
            data = json.dumps(message).encode() + b"\0"
            while data:
                data = data[os.write(self._out, data):]
        try:
            result = answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise AssertionError(f"{method}: no answer within {PATIENCE_S} s") from None
        if "error" in result:
            raise AssertionError(f"{method}: {result['error']['message']}")
        return result["result"]

    def open(self, url, width=1280, height=860, dark=False, touch=False):
        """A page in a profile of its own, with nothing stored, once it has been loaded."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        page.scheme(dark)
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'", f"{url} to be loaded")
        return page

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self._reader.join(PATIENCE_S)
        os.close(self._out)
        os.close(self._in)
        self._log.close()
        shutil.rmtree(self._profile.name, ignore_errors=True)


class Page:
    """A tab. What goes wrong in it and what it asks of the network is kept."""

    def __init__(self, browser, session):
        self._browser = browser
        self._session = session
        self.errors = []  # of scripts, of the console, of the content security policy
        self.requests = []  # URLs

    def on_event(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['source']}: {params['entry']['text']}")

    def call(self, method, **params):
        return self._browser.call(method, self._session, **params)

    def scheme(self, dark):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme",
                                                           "value": "dark" if dark else "light"}])

    def run(self, script):
        """The value of a JavaScript expression, a promise awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {json.dumps(result['exceptionDetails'])}")
        return result["result"].get("value")

    def wait(self, script, what):
        return wait_for(lambda: self.run(script), what)

    def text(self, selector):
        """Of the last element that matches, or None."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].at(-1)?.innerText ?? null")

    def value(self, selector, text):
        """Types into a field, in place of what it held."""
        self.run(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({json.dumps(selector)}))")
        if text == "":
            self.key("Backspace", 8)
        else:
            self.call("Input.insertText", text=text)
        self.key("Tab", 9)

    def insert(self, selector, text):
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def key(self, key, code, text=None):
        extra = {} if text is None else {"text": text}
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def enter(self):
        self.key("Enter", 13, "\r")

    def _middle(self, selector):
        return self.run(f"""(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect();
            return r.width * r.height === 0 ? null : [r.x + r.width / 2, r.y + r.height / 2]; }}
            )(document.querySelector({json.dumps(selector)}))""")

    def click(self, selector):
        """With the mouse, where it can be seen."""
        at = self._middle(selector)
        if at is None:
            raise AssertionError(f"{selector} cannot be seen")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def hover(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png")
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
