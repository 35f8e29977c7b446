"""`moepool chat` in a terminal and in a pipe."""

import json
import signal
import unittest

import cluster
from cluster import E2eTest
from terminal import Terminal

CTRL_C, CTRL_D = b"\x03", b"\x04"


class ChatTest(E2eTest):
    def chat(self, pool, *flags, **kwargs):
        terminal = Terminal("chat", "--gateway", pool.client.grpc_address, *flags, **kwargs)
        self.addCleanup(terminal.close)
        terminal.expect("; /help lists commands")
        terminal.expect("> ")
        return terminal

    def saved(self, terminal, name="chat.json"):
        path = cluster.SCRATCH / name
        terminal.send(f"/save {path}\r")
        terminal.expect(r"saved \d+ messages")
        return json.loads(path.read_text(encoding="utf-8"))

    def test_a_conversation(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        terminal = self.chat(pool, "--system", "be brief", "--temperature", "0", "--max-tokens", "12", "--verbose")
        terminal.send("tell me 你好 🌍 more\r")
        terminal.expect(r"\[\d+ tokens, [\d.]+ tokens/s, first after \d+ ms\]")
        terminal.expect("> ")
        first = self.saved(terminal)
        self.assertEqual([m["role"] for m in first], ["system", "user", "assistant"])
        self.assertEqual([m["content"] for m in first[:2]], ["be brief", "tell me 你好 🌍 more"])
        asked = pool.client.infer_messages(first[:2], max_tokens=12)
        self.assertEqual(first[2]["content"], asked["text"])

        # What was said before is part of the next question.
        terminal.send("go on \\\r")
        terminal.expect(r"\. ")
        terminal.send("please\r")
        terminal.expect(r"\[\d+ tokens")
        second = self.saved(terminal)
        self.assertEqual(second[:3], first)
        self.assertEqual(second[3]["content"], "go on \nplease")
        again = pool.client.infer_messages(second[:4], max_tokens=12)
        self.assertEqual(second[4]["content"], again["text"])

        terminal.send("/undo\r")
        terminal.expect("1 question left")
        self.assertEqual(self.saved(terminal), first)
        terminal.send("/nonsense\r")
        terminal.expect("no command /nonsense")
        terminal.send("/clear\r")
        terminal.expect("forgotten")
        self.assertEqual(self.saved(terminal), first[:1])
        terminal.expect("> ")
        terminal.send(CTRL_D)
        self.assertEqual(terminal.wait_exit(), 0)
        self.assertTrue(terminal.restored())

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        pool = self.start_cluster(cluster.slow_mixtral(), workers=2)
        terminal = self.chat(pool, "--temperature", "0.8", "--seed", "101", "--max-tokens", "4000")
        terminal.send(f"{cluster.LONG_PROMPT}\r")
        pool.wait_status(lambda s: s["running"] == 1, "the answer to run")
        pool.router.signal(signal.SIGSTOP)  # so that the answer does not end before the key is seen
        terminal.send(CTRL_C)
        terminal.expect(r"\[stopped\]")
        pool.router.signal(signal.SIGCONT)
        terminal.expect("> ")
        pool.wait_idle()
        # At the prompt it drops the line.
        terminal.send("never to be asked" .encode() + CTRL_C)
        terminal.expect("> ")
        terminal.send('"""\r')
        terminal.expect(r"\. ")
        terminal.send("nor this")
        terminal.send(CTRL_C)
        terminal.expect("> ")
        contents = [m["content"] for m in self.saved(terminal)]
        self.assertNotIn("never", "".join(contents))
        self.assertLessEqual(len(contents), 2)
        terminal.send("/quit\r")
        self.assertEqual(terminal.wait_exit(), 0)
        self.assertTrue(terminal.restored())

    def test_sigterm_at_the_prompt_gives_the_terminal_back(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        terminal = self.chat(pool)
        terminal.send("half a li")
        terminal.expect("half a li")
        terminal.signal(signal.SIGTERM)
        self.assertEqual(terminal.wait_exit(), -signal.SIGTERM)
        self.assertTrue(terminal.restored())

    def test_a_pipe_gets_the_answer_alone(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        flags = ("chat", "--gateway", pool.client.grpc_address, "--temperature", "0", "--max-tokens", "12")
        made = cluster.tool(*flags, stdin="the cat 🐈\n".encode())
        self.assertEqual(made.returncode, 0, made)
        self.assertEqual(made.stderr, b"")
        self.assertEqual(made.stdout.decode().removesuffix("\n"),
                         pool.client.infer("the cat 🐈", max_tokens=12)["text"].removesuffix("\n"))
        empty = cluster.tool(*flags, stdin=b"\n")
        self.assertEqual(empty.returncode, 1)
        self.assertIn(b"standard input is empty", empty.stderr)

    def test_without_a_gateway_it_says_so_and_goes_on(self):
        terminal = Terminal("chat", "--gateway", "127.0.0.1:1")
        self.addCleanup(terminal.close)
        terminal.expect("error: .*127.0.0.1:1")
        terminal.expect("> ")
        terminal.send("hello\r")
        terminal.expect("error: ")
        terminal.expect("> ")
        terminal.send(CTRL_D)
        self.assertEqual(terminal.wait_exit(), 0)
        made = cluster.tool("chat", "--gateway", "127.0.0.1:1", stdin=b"hello")
        self.assertEqual(made.returncode, 1)
        self.assertEqual(made.stdout, b"")

    def test_a_key_that_no_header_can_carry(self):
        made = cluster.tool("chat", stdin=b"hello", env={"MOEPOOL_API_KEY": "two words"})
        self.assertEqual(made.returncode, 1)
        self.assertIn(b"MOEPOOL_API_KEY", made.stderr)
        self.assertNotIn(b"two words", made.stderr)
        hashes = cluster.SCRATCH / "keys"
        hashes.write_text(f"someone:{'0f' * 32}\n")
        made = cluster.tool("chat", "--key-file", hashes, stdin=b"hello")
        self.assertEqual(made.returncode, 1)
        self.assertIn(b"which a gateway reads", made.stderr)


if __name__ == "__main__":
    cluster.main()
