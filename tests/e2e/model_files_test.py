"""Models that do not match, are broken or are not there, and flags that are wrong: one clear line, and an exit code."""

import re
import shutil
import unittest

import cluster
from cluster import E2eTest

EXIT_FAILED, EXIT_BAD_FLAGS, EXIT_BAD_MODEL = 1, 2, 3


class WrongModelTest(E2eTest):
    def test_a_worker_with_another_model_is_refused(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        before = pool.client.infer("the cat", max_tokens=10)["text"]
        # The same shapes, other weights.
        other = cluster.synth("other-seed", hidden=64, layers=4, experts=16, experts_per_token=2, ffn=64, context=4096,
                              seed=77)
        for model in (other, cluster.tiny_dense()):
            with self.subTest(model=model.name):
                refused = pool.start_worker(model=model)
                self.assertEqual(refused.wait_exit(), EXIT_BAD_MODEL)
                self.assertEqual(refused.output(), b"")
                log = refused.log()
                digests = set(self.digests(pool.gateway.log()) + self.digests(log))
                self.assertGreaterEqual(len(digests & set(self.digests(log))), 2, log)
                self.assertLessEqual(set(self.digests(pool.gateway.log())), set(self.digests(log)), log)
                status = pool.status()
                self.assertEqual(len(status["workers"]), 1, status)
                self.assertEqual(pool.client.infer("the cat", max_tokens=10)["text"], before)

    def digests(self, log):
        return re.findall(r"\b[0-9a-f]{64}\b", log)

    def test_the_same_content_elsewhere_is_the_same_model(self):
        copy = cluster.SCRATCH / "elsewhere.bin"
        shutil.copyfile(cluster.tiny_mixtral(), copy)
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        pool.start_worker(model=copy).wait_ready()
        pool.wait_status(lambda s: len(s["workers"]) == 2 and all(w["experts_held"] == 32 for w in s["workers"]),
                         "both hold half")
        pool.client.infer("the cat", max_tokens=10)


class BrokenModelTest(E2eTest):
    def check_refused(self, path, *words):
        """Router, worker and the embedded server all refuse the file, and name it or what is wrong in it."""
        for binary, args, codes in (
                ("moepool-router", ("--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
                 (EXIT_FAILED, EXIT_BAD_FLAGS)),
                ("moepool-expert-worker", ("--router", "127.0.0.1:1"), (EXIT_BAD_MODEL,)),
                ("moepool", ("serve", "--http-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0"),
                 (EXIT_FAILED,))):
            with self.subTest(binary=binary, path=str(path)):
                args = (*args[:1], "--model", path, *args[1:]) if args[0] == "serve" else ("--model", path, *args)
                ended = cluster.run(binary, *args)
                said = ended.stderr.decode(errors="replace")
                self.assertIn(ended.returncode, codes, said)
                self.assertEqual(ended.stdout, b"", said)
                self.assertEqual(len(said.strip().splitlines()), 1, said)
                for word in words:
                    self.assertIn(word, said)

    def broken(self, name, change):
        content = bytearray(cluster.tiny_mixtral().read_bytes())
        path = cluster.SCRATCH / name
        path.write_bytes(change(content))
        return path

    def test_a_missing_file(self):
        self.check_refused(cluster.SCRATCH / "missing.gguf", "missing.gguf")

    def test_a_folder(self):
        self.check_refused(cluster.SCRATCH, str(cluster.SCRATCH), "directory")

    def test_an_empty_file(self):
        self.check_refused(self.broken("empty.gguf", lambda c: b""), "empty.gguf", "empty")

    def test_something_else(self):
        self.check_refused(self.broken("else.gguf", lambda c: b"PK\x03\x04" + bytes(5000)), "else.gguf")

    def test_truncated_files(self):
        for keep in (3, 23, 24, 100, 2000, 0.5, 0.999):
            size = keep if isinstance(keep, int) else None
            self.check_refused(self.broken(f"cut-{keep}.gguf", lambda c: c[:size or int(len(c) * keep)]),
                               f"cut-{keep}.gguf")

    def test_bits_flipped_in_the_header(self):
        def flip(byte, bit):
            def change(content):
                content[byte] ^= 1 << bit
                return content
            return change
        # The magic, the version, the high bytes of both counts, of the first key's length and of its type.
        for byte, bit in ((0, 0), (4, 3), (7, 7), (12, 0), (15, 7), (16, 5), (23, 6), (31, 7), (28, 2)):
            self.check_refused(self.broken(f"flip-{byte}-{bit}.gguf", flip(byte, bit)), f"flip-{byte}-{bit}.gguf")


class BadFlagsTest(E2eTest):
    PROCESSES = {"moepool-router": ("--model", "none.gguf"), "moepool-gateway": (),
                 "moepool-expert-worker": ("--model", "none.gguf", "--router", "127.0.0.1:1")}

    def check_refused(self, binary, args, *words, code=EXIT_BAD_FLAGS):
        with self.subTest(binary=binary, args=args):
            ended = cluster.run(binary, *args)
            said = ended.stderr.decode()
            self.assertEqual((ended.returncode, ended.stdout), (code, b""), said)
            self.assertEqual(len(said.strip().splitlines()), 1, said)
            for word in words:
                self.assertIn(word, said)

    def test_unknown_and_unreadable_flags(self):
        for binary, needed in self.PROCESSES.items():
            self.check_refused(binary, (*needed, "--colour", "red"), "--colour")
            self.check_refused(binary, (*needed, "--log-level", "loud"), "loud")
            self.check_refused(binary, (*needed, "--drain-timeout", "soon"), "--drain-timeout")
            self.check_refused(binary, (*needed, "--drain-timeout", "-1"), "--drain-timeout")
            self.check_refused(binary, (*needed, "--config", "/nowhere.yaml"), "/nowhere.yaml")
        self.check_refused("moepool-router", (), "--model")
        self.check_refused("moepool-expert-worker", ("--model", "none.gguf"), "--router")
        self.check_refused("moepool-expert-worker", ("--model", "none.gguf", "--router", "nohost"), "nohost")
        worker = self.PROCESSES["moepool-expert-worker"]
        self.check_refused("moepool-expert-worker", (*worker, "--transport", "carrier"), "--transport")
        self.check_refused("moepool-expert-worker", (*worker, "--memory-limit", "much"), "--memory-limit")
        self.check_refused("moepool-gateway", ("--router", "a:b:c"), "--router")
        self.check_refused("moepool", (), "subcommand")
        self.check_refused("moepool", ("serve",), "--model")
        self.check_refused("moepool", ("generate",), "prompt")
        self.check_refused("moepool", ("generate", "--top-k", "many", "hello"), "--top-k")

    def test_addresses_that_others_reach_need_insecure(self):
        for binary, flag in (("moepool-router", "--address"), ("moepool-router", "--metrics-address"),
                             ("moepool-gateway", "--http-address"), ("moepool-gateway", "--grpc-address"),
                             ("moepool-expert-worker", "--metrics-address")):
            for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:9000", "example.invalid:0"):
                self.check_refused(binary, (*self.PROCESSES[binary], flag, address), flag, address, "--insecure")
            for address in ("127.0.0.1", "127.0.0.1:99999", ":80", "127.0.0.1:http"):
                self.check_refused(binary, (*self.PROCESSES[binary], flag, address), flag, address)

    def test_an_address_in_use(self):
        gateway = self.start("moepool-gateway", "--http-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0")
        taken = gateway.wait_ready()["http_address"]
        model = cluster.tiny_mixtral()
        for binary, args in (
                ("moepool-gateway", ("--http-address", taken, "--grpc-address", "127.0.0.1:0")),
                ("moepool-gateway", ("--http-address", "127.0.0.1:0", "--grpc-address", taken)),
                ("moepool-router", ("--model", model, "--address", taken, "--metrics-address", "127.0.0.1:0")),
                ("moepool-router", ("--model", model, "--address", "127.0.0.1:0", "--metrics-address", taken)),
                ("moepool-expert-worker", ("--model", model, "--router", "127.0.0.1:1", "--metrics-address", taken))):
            with self.subTest(binary=binary, args=args):
                ended = cluster.run(binary, *args)
                said = ended.stderr.decode()
                self.assertEqual((ended.returncode, ended.stdout), (EXIT_FAILED, b""), said)
                self.assertIn(taken, said)

    def test_help_and_version(self):
        for binary in (*self.PROCESSES, "moepool"):
            said = cluster.run(binary, "--help")
            self.assertEqual((said.returncode, said.stderr), (0, b""))
            self.assertIn(b"--help", said.stdout)
            said = cluster.run(binary, "--version")
            self.assertEqual((said.returncode, said.stderr), (0, b""))
            self.assertRegex(said.stdout.decode(), rf"^{binary} \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    cluster.main()
