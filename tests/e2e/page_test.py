"""The page at /, as people use it: a real browser on a real cluster. MOEPOOL_SCREENSHOTS names a folder for pictures."""

import hashlib
import json
import os
import pathlib
import unittest

import cluster
from browser import Browser
from cluster import E2eTest

FACTS = "document.querySelector('.answer .facts') !== null"
PIXELS = "document.getElementById('heat-map').toDataURL()"
HOSTILE = ("<img src=x onerror=alert(1)> **<b>bold</b>** `<i>` [js](javascript:alert(1)) [ok](https://example.org/a)\n"
           "```html\n<script>alert(1)</script>\n```\n1. one\n2. two\n\n- a\n  - b\n> quote\n# head\n")


def synthetic_128():
    return cluster.synth("wide-qwen3moe", family="qwen3moe", hidden=64, layers=12, experts=128, experts_per_token=8,
                         ffn=32, context=1024, seed=6)


class PageTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def open(self, pool, **kwargs):
        return self.browser.open(f"http://{pool.client.http_address}/", **kwargs)

    def ask(self, page, text, **settings):
        page.run("document.getElementById('settings').open = true")
        for name, value in settings.items():
            page.value(f"#{name.replace('_', '-')}", str(value))
        page.run("document.getElementById('settings').open = false")
        page.insert("#prompt", text)
        page.enter()

    def shoot(self, page, name):
        if "MOEPOOL_SCREENSHOTS" in os.environ:
            page.screenshot(pathlib.Path(os.environ["MOEPOOL_SCREENSHOTS"]) / f"{name}.png")

    def check_clean(self, page, pool):
        """Nothing went wrong, and nothing was asked of another host."""
        self.assertEqual(page.errors, [])
        wanted = f"http://{pool.client.http_address}/"
        self.assertEqual([url for url in page.requests if not url.startswith(wanted)], [])

    def test_chat_beside_the_pool(self):
        # Slow enough that the browser sees the answer come, whatever else the machine has to do.
        slow = ("--isa", "scalar", "--threads", "1")
        pool = self.start_cluster(cluster.slow_mixtral(), workers=2, router_flags=("--heartbeat", "0.05", *slow),
                                  worker_flags=slow)
        page = self.open(pool)
        page.wait("document.querySelectorAll('#workers tr').length === 2", "two workers on the page")
        self.assertEqual(page.text("#state"), "ready")
        self.assertEqual(page.text("#model"), "slow-mixtral")
        names = page.run("[...document.querySelectorAll('.worker-name')].map(e => e.textContent)")
        self.assertEqual(sorted(names), sorted(w["name"] for w in pool.status()["workers"]))
        page.wait("!document.getElementById('heat').hidden", "the heat map")
        before = page.run(PIXELS)

        # An answer comes in piece by piece, and ends where Stop is pressed. The page itself watches and presses: a test
        # would be too slow for a fast machine.
        page.run("""window.seen = {lengths: new Set(), most: 0};
            new MutationObserver(() => {
                const length = document.querySelector('.busy .text')?.textContent.length ?? 0;
                if (length > 0) seen.lengths.add(length);
                if (seen.lengths.size === 3) document.getElementById('stop').click();
            }).observe(document.getElementById('messages'), {subtree: true, childList: true, characterData: true});
            new MutationObserver(() => {
                seen.most = Math.max(seen.most, Number(document.getElementById('rate').textContent.replaceAll(',', '')));
            }).observe(document.getElementById('rate'), {subtree: true, childList: true, characterData: true});
            true""")
        self.ask(page, cluster.LONG_PROMPT, temperature=0.8, seed=101, max_tokens=3000)
        page.wait(FACTS, "the answer's end")
        self.assertIn("stopped", page.text(".answer .facts"))
        pool.wait_idle()
        self.assertTrue(page.run("document.getElementById('stop').hidden"))
        page.wait("seen.most > 0", "tokens a second")
        page.wait(f"{PIXELS} !== {json.dumps(before)}", "experts' tokens on the heat map")
        self.check_clean(page, pool)

        # With the keyboard, value by value.
        page.run("document.getElementById('heat-map').focus()")
        for key, code in (("Home", 36), ("PageUp", 33), ("ArrowRight", 39), ("ArrowDown", 40)):
            page.key(key, code)
        self.assertRegex(page.text("#heat-value"), r"^Layer 1, expert 1: [\d,]+ tokens.* on " + names[0][:4])
        self.shoot(page, "stopped")

    def test_a_conversation_in_any_script(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        page = self.open(pool, dark=True)
        question = "你好，世界 🌍👩‍🔬"
        self.ask(page, question, system="Sei kurz — 简短", temperature=0, max_tokens=20)
        page.wait(FACTS, "an answer")
        self.assertEqual(page.text(".user"), question)
        messages = [{"role": "system", "content": "Sei kurz — 简短"}, {"role": "user", "content": question}]
        expected = pool.client.infer_messages(messages, max_tokens=20)["text"]
        self.assertEqual(page.run("document.getElementById('spoken').textContent"), expected)
        self.assertRegex(page.text(".facts"), r"^\d+ tokens? · .*first after [\d,]+ ms")

        # The second question brings the first and its answer along.
        page.insert("#prompt", "und 2?")
        page.enter()
        page.wait("document.querySelectorAll('.answer .facts').length === 2", "the second answer")
        messages += [{"role": "assistant", "content": expected}, {"role": "user", "content": "und 2?"}]
        expected = pool.client.infer_messages(messages, max_tokens=20)["text"]
        self.assertEqual(page.run("document.getElementById('spoken').textContent"), expected)
        page.click("#new-chat")
        self.assertEqual(page.run("document.querySelectorAll('.user, .answer').length"), 0)
        self.check_clean(page, pool)

    def test_what_a_worker_says_of_its_gpu_is_shown(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        page = self.open(pool)
        page.wait("document.querySelectorAll('#workers tr').length === 2", "two workers on the page")
        self.assertNotIn("GPU", page.text("#workers"))
        # There is none here: the answers of /pool are given one.
        gpu = {"name": "RTX <b>3090</b>", "uuid": "GPU-1", "memory_used_bytes": 43 << 29, "memory_total_bytes": 24 << 30,
               "utilization_ratio": 0.97}
        page.run(f"""window.ask = window.fetch;
            window.fetch = async (...parts) => {{
                const answer = await ask(...parts);
                if (parts[0] !== '/pool') return answer;
                const pool = await answer.json();
                pool.workers[1].gpu = {json.dumps(gpu)};
                return new Response(JSON.stringify(pool));
            }};
            true""")
        page.wait("document.getElementById('workers').textContent.includes('GPU 21.5 / 24.0 GiB, 97 %')", "the GPU")
        self.assertEqual(page.run("document.querySelectorAll('#workers [title]').length"), 1)
        self.assertEqual(page.run("document.querySelector('#workers [title]').title"), gpu["name"])
        self.check_clean(page, pool)

    def test_errors_are_shown_and_the_page_goes_on(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        page = self.open(pool)
        page.wait("document.querySelectorAll('#workers tr').length === 1", "the worker on the page")
        pool.router.kill()
        page.wait("document.getElementById('state').textContent === 'router away'", "the router's loss")
        self.assertIn("last known", page.text("#notice"))
        self.assertEqual(page.run("document.querySelectorAll('#workers tr').length"), 1)
        self.ask(page, "anyone there?", max_tokens=8)
        page.wait("document.querySelector('.error') !== null", "an error")
        self.assertRegex(page.text(".error"), r"Error 503: .+\nrequest \S+")
        self.assertEqual(page.run("document.querySelector('.error').getAttribute('role')"), "alert")
        self.shoot(page, "error")

        pool.start_router(address=pool.address)
        page.wait("document.getElementById('state').textContent === 'ready'", "the router's return")
        page.click(".error button")
        page.wait(FACTS, "the answer to the same question")
        self.assertEqual(page.run("document.querySelectorAll('.user').length"), 1)
        self.assertEqual([e for e in page.errors if not e.startswith("network: ")], [])

    def test_a_gateway_that_asks_for_a_key(self):
        keys = cluster.SCRATCH / "keys"
        keys.write_text(f"someone:{hashlib.sha256(b'the-right-key').hexdigest()}\n")
        keys.chmod(0o600)
        router = self.start("moepool-router", "--model", cluster.tiny_mixtral(), "--address", "127.0.0.1:0",
                            "--metrics-address", "127.0.0.1:0", "--kv-memory", "64MiB")
        address = router.wait_ready()["address"]
        self.start("moepool-expert-worker", "--router", address, "--model", cluster.tiny_mixtral()).wait_ready()
        gateway = self.start("moepool-gateway", "--router", address, "--http-address", "127.0.0.1:0", "--grpc-address",
                             "127.0.0.1:0", "--api-key-file", keys)
        client = cluster.Client(gateway.wait_ready()["http_address"], None)
        client.wait_ready()

        page = self.browser.open(f"http://{client.http_address}/")
        page.wait("document.getElementById('state').textContent === 'locked'", "the page to say that it is locked out")
        self.ask(page, "hello", temperature=0, max_tokens=8, api_key="a-wrong-key")
        page.wait("document.querySelector('.error') !== null", "the refusal")
        self.assertRegex(page.text(".error"), r"Error 401: .+\nrequest \S+")
        self.assertEqual(page.run("document.activeElement.id"), "api-key")
        page.value("#api-key", "the-right-key")
        page.wait("document.getElementById('state').textContent === 'ready'", "the pool behind the lock")
        page.click(".error button")
        page.wait(FACTS, "an answer")
        # Of this tab alone, and not on any disk.
        self.assertEqual(page.run("[...Object.values(sessionStorage)].includes('the-right-key')"), True)
        self.assertEqual(page.run("localStorage.length + document.cookie.length"), 0)
        self.assertEqual([e for e in page.errors if not e.startswith("network: ")], [])

    def test_nothing_that_a_model_says_becomes_markup(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        page = self.open(pool)
        made = page.run(f"""import('/page/markdown.js').then(({{Markdown}}) => {{
            const node = document.createElement('div');
            document.body.append(node);
            const shown = new Markdown(node);
            const text = {json.dumps(HOSTILE)};
            for (let i = 0; i <= text.length; ++i) shown.show(text.slice(0, i));  // as it streams
            const grown = node.innerHTML;
            node.replaceChildren();
            new Markdown(node).show(text);
            return {{grown, whole: node.innerHTML, names: [...node.querySelectorAll('*')].map(e => e.localName),
                     links: [...node.querySelectorAll('a')].map(e => e.href)}};
        }})""")
        self.assertEqual(made["grown"], made["whole"])
        self.assertEqual(set(made["names"]), {"p", "strong", "code", "a", "pre", "ol", "ul", "li", "blockquote", "h3"})
        self.assertEqual(made["links"], ["https://example.org/a"])
        self.check_clean(page, pool)

    def test_a_heat_map_of_any_size(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        for width, dark in ((1280, False), (390, True)):
            page = self.open(pool, width=width, dark=dark)
            if width < 900:
                page.click("[data-show=pool]")
            page.wait("!document.getElementById('heat').hidden", "the heat map")
            for layers, experts in ((1, 2), (32, 16), (48, 128), (100, 256)):
                drawn = page.run(f"""import('/page/heat_map.js').then(({{HeatMap}}) => {{
                    const place = document.createElement('div');
                    place.append(...['canvas', 'canvas', 'span', 'p'].map(name => document.createElement(name)));
                    document.getElementById('heat').append(place);
                    const map = new HeatMap(...place.children);
                    const tokens = new Array({layers * experts}).fill(0);
                    tokens[{layers * experts - 1}] = 7;
                    map.set({{layers: {layers}, experts: {experts}, tokens, ratios: [], holders: []}});
                    const canvas = place.firstChild;
                    const height = canvas.clientHeight - 36;
                    const shade = (x, y) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].join();
                    const cell = Math.min((canvas.clientWidth - 26) / {experts}, 44);
                    const result = {{label: canvas.getAttribute('aria-label'), top: place.children[2].textContent,
                        fits: canvas.clientWidth <= document.getElementById('heat').clientWidth,
                        first: shade(26 + cell / 2, 8), last: shade(26 + cell * ({experts} - .5), 6 + height - 2.5)}};
                    place.remove();
                    return result;
                }})""")
                self.assertIn(f"{experts} experts in {layers} layers; 7 at most", drawn["label"])
                self.assertEqual(drawn["top"], "7")
                self.assertTrue(drawn["fits"])
                self.assertNotEqual(drawn["first"], drawn["last"])
            self.check_clean(page, pool)

    def test_on_a_phone_and_with_many_experts(self):
        pool = self.start_cluster(synthetic_128(), workers=2, router_flags=("--heartbeat", "0.05"))
        phone = self.open(pool, width=390, height=844, touch=True)
        self.ask(phone, "hello", temperature=1, max_tokens=100)
        phone.wait(FACTS, "an answer")
        self.assertLessEqual(phone.run("document.documentElement.scrollWidth"), 390)
        phone.click("[data-show=pool]")
        phone.wait("document.querySelectorAll('#workers tr').length === 2", "two workers on the page")
        self.assertLessEqual(phone.run("document.documentElement.scrollWidth"), 390)
        self.shoot(phone, "phone")
        self.check_clean(phone, pool)
        for dark in (False, True):
            page = self.open(pool, width=1360, height=880, dark=dark)
            self.ask(page, "hello", temperature=1, max_tokens=100)
            page.wait(FACTS, "an answer")
            page.wait("document.getElementById('legend-top').textContent > '0'", "tokens on the heat map")
            self.shoot(page, "wide-dark" if dark else "wide-light")
            self.check_clean(page, pool)


if __name__ == "__main__":
    cluster.main()
