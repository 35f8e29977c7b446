"""`moepool status`: live in a terminal, and once for scripts."""

import signal
import unittest

import cluster
from cluster import E2eTest
from terminal import Terminal

SECOND_SCREEN, FIRST_SCREEN = rb"\x1b\[\?1049h", rb"\x1b\[\?25h\x1b\[\?1049l"
HALF_BLOCK = "▀"


class StatusTest(E2eTest):
    def watch(self, pool, *flags, **kwargs):
        terminal = Terminal("status", "--router", pool.address, *flags, **kwargs)
        self.addCleanup(terminal.close)
        return terminal

    def test_live(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2, router_flags=("--heartbeat", "0.05"))
        terminal = self.watch(pool)
        terminal.expect(SECOND_SCREEN)
        terminal.expect("tiny-mixtral")
        terminal.expect("running .*waiting .*tokens/s .*KV cache ")
        for worker in pool.status()["workers"]:
            terminal.expect(worker["name"][:16])
        pool.client.infer("the cat", max_tokens=40, ignore_eos=True)
        terminal.expect(HALF_BLOCK)
        # A smaller terminal gets a smaller picture at once: nothing beyond the last line.
        terminal.resize(3, 30)
        # Frames of the old size may still be on their way.
        terminal.expect(rb"\x1b\[H(?:\x1b\[1m)?moepool[^\n\x1b]*(?:(?!\x1b\[H)[^\n])*(?:\n(?:(?!\x1b\[H)[^\n])*){0,2}\x1b\[J")
        terminal.send("q")
        self.assertEqual(terminal.wait_exit(), 0)
        self.assertRegex(terminal.output, FIRST_SCREEN)
        self.assertTrue(terminal.restored())

    def test_goes_on_when_the_router_is_back(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        terminal = self.watch(pool)
        terminal.expect("ready")
        pool.router.kill()
        terminal.expect("unreachable")
        terminal.expect("trying again each second; below is what was last known")
        pool.start_router(address=pool.address)
        terminal.expect("ready")
        terminal.signal(signal.SIGTERM)
        self.assertEqual(terminal.wait_exit(), 0)
        self.assertRegex(terminal.output, FIRST_SCREEN)
        self.assertTrue(terminal.restored())
        pool.client.wait_ready()

    def test_without_colours_and_unicode(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        terminal = self.watch(pool, env={"TERM": "vt100", "LC_ALL": "C"})
        terminal.expect("KV cache [#.]{10} ")
        self.assertNotRegex(terminal.output, rb"\x1b\[[0-9;]*m")
        self.assertTrue(terminal.output.isascii())
        terminal.send(b"\x03")
        self.assertEqual(terminal.wait_exit(), 0)
        self.assertTrue(terminal.restored())

    def test_once_and_for_scripts(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        status = pool.status()
        self.assertEqual(status["model"], "tiny-mixtral")
        self.assertLessEqual({"id", "name", "state", "transport", "backend", "memory_limit_bytes", "expert_bytes",
                              "experts_held", "experts", "dispatches", "round_trip_us"}, set(status["workers"][0]))
        piped = cluster.tool("status", "--router", pool.address)
        self.assertEqual(piped.returncode, 0)
        self.assertNotIn(b"\x1b", piped.stdout)
        self.assertEqual(len(piped.stdout.splitlines()), 4)
        once = self.watch(pool, "--once")
        self.assertEqual(once.wait_exit(), 0)
        self.assertNotIn(b"\x1b", once.output)
        self.assertIn(status["workers"][0]["name"].encode(), once.output)
        away = cluster.tool("status", "--router", "127.0.0.1:1")
        self.assertEqual(away.returncode, 1)
        self.assertEqual(away.stdout, b"")


if __name__ == "__main__":
    cluster.main()
