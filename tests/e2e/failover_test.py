"""Processes that die, freeze, leave and come back: the tokens of an undisturbed run, or a clean error."""

import random
import signal
import unittest

import cluster
import gguf
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, slow_mixtral, tokens


class FailoverTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        flags = ("--model", slow_mixtral(), "--http-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0",
                 "--kv-memory", "64MiB")
        serve = cluster.Process("moepool", "serve", *flags, label="undisturbed")
        cls.addClassCleanup(lambda: cluster.kill_all([serve]))
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        cls.undisturbed = client.stream(LONG_PROMPT, **LONG_ANSWER).read()
        if cls.undisturbed.last["finish_reason"] != "length":
            raise AssertionError(f"the answer is too short to be disturbed: {cls.undisturbed.last}")
        serve.signal(signal.SIGTERM)
        serve.wait_exit()

    def begin(self, pool):
        """A long answer under way, of which most is yet to come."""
        stream = pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=20)
        self.addCleanup(stream.hang_up)
        return stream

    def check_undisturbed(self, stream):
        stream.read()
        self.assertIsNone(stream.error)
        self.assertTrue(stream.done)
        self.assertEqual(stream.text, self.undisturbed.text)
        self.assertEqual(tokens(stream.last), tokens(self.undisturbed.last))
        self.assertEqual(stream.last["finish_reason"], self.undisturbed.last["finish_reason"])

    def check_broken_off(self, stream):
        """An error event, and no [DONE] that would make the answer look whole."""
        stream.read()
        self.assertIsNotNone(stream.error, stream.last)
        self.assertEqual(set(stream.error), {"message", "type", "param", "code"})
        self.assertEqual((stream.error["type"], stream.error["code"]), ("server_error", "unavailable"))
        self.assertFalse(stream.done)
        self.assertTrue(self.undisturbed.text.startswith(stream.text.rstrip("\ufffd")))

    def check_takes_over(self, send, **kwargs):
        pool = self.start_cluster(slow_mixtral(), workers=2, **kwargs)
        before = pool.status()["epoch"]
        stream = self.begin(pool)
        send(pool.workers[0])
        self.assertEqual(pool.metric("moepool_sequences_finished_total"), 0)  # it did come in the middle
        self.check_undisturbed(stream)
        status = pool.wait_status(lambda s: len(s["workers"]) == 1, "one worker in the pool")
        self.assertTrue(status["ready"], status)
        self.assertGreater(status["epoch"], before)
        self.assertEqual(status["workers"][0]["experts"], "0-15", status)
        return pool

    def test_a_worker_is_killed_and_the_other_takes_over(self):
        for transport in ("shm", "grpc"):
            with self.subTest(transport=transport):
                self.check_takes_over(lambda w: w.kill(), worker_flags=("--transport", transport)).stop()

    def test_a_worker_freezes_and_the_other_takes_over(self):
        for transport in ("shm", "grpc"):
            with self.subTest(transport=transport):
                frozen = []

                def freeze(worker):
                    worker.signal(signal.SIGSTOP)
                    frozen.append(worker)
                pool = self.check_takes_over(freeze, router_flags=("--dispatch-timeout", "0.5"),
                                             worker_flags=("--transport", transport))
                self.assertGreaterEqual(pool.metric("moepool_exchange_losses_total"), 1)
                # It was not dead. It comes back by itself, and the pool is whole again.
                frozen[0].signal(signal.SIGCONT)
                status = pool.wait_status(lambda s: len(s["workers"]) == 2 and s["ready"] and
                                          all(w["experts_held"] == 64 for w in s["workers"]), "two halves")
                self.assertEqual(sorted(w["experts"] for w in status["workers"]), ["0-7", "8-15"])
                self.check_undisturbed(self.begin(pool))
                pool.stop()

    def test_a_worker_leaves_and_the_other_takes_over(self):
        pool = self.check_takes_over(lambda w: w.signal(signal.SIGTERM))
        self.assertEqual(pool.workers[0].wait_exit(), 0)
        # It stayed until it was replaced; at most the step that was under way then is run again.
        self.assertLessEqual(pool.metric("moepool_engine_steps_failed_total"), 1)

    def test_without_room_elsewhere_requests_fail_and_a_new_worker_heals_the_pool(self):
        _, tensors = gguf.read(slow_mixtral())
        limit = int(0.6 * sum(t.bytes for t in tensors.values() if "_exps." in t.name))
        pool = self.start_cluster(slow_mixtral(), workers=2, router_flags=("--holder-timeout", "1"),
                                  worker_flags=("--memory-limit", limit))
        stream = self.begin(pool)
        pool.workers[0].kill()
        self.check_broken_off(stream)
        self.check_error(pool.client.post("/infer", {"prompt": "again"}), 503, mentions=["bytes"])
        said = pool.client.try_generate("again")
        self.assertEqual(said.returncode, 1)
        self.assertIn(b"UNAVAILABLE", said.stderr)
        self.assertTrue(pool.router.alive())
        status = pool.wait_idle()
        self.assertFalse(status["ready"], status)
        self.assertIn("bytes", status["waiting_for"])
        self.assertFalse(pool.client.ready())
        self.assertEqual(pool.client.get("/health").status, 200)

        pool.start_worker().wait_ready()
        pool.client.wait_ready()
        self.check_undisturbed(self.begin(pool))

    def test_a_request_outlives_the_only_worker_if_another_comes_in_time(self):
        pool = self.start_cluster(slow_mixtral(), workers=1, router_flags=("--holder-timeout", "60"))
        stream = self.begin(pool)
        pool.workers[0].kill()
        pool.wait_status(lambda s: not s["workers"], "an empty pool")
        pool.start_worker().wait_ready()
        self.check_undisturbed(stream)
        self.assertEqual(pool.status()["workers"][0]["experts"], "0-15")

    def test_the_only_worker_dies_while_idle(self):
        pool = self.start_cluster(slow_mixtral(), workers=1, router_flags=("--holder-timeout", "0.2"))
        pool.workers[0].kill()
        cluster.wait_for(lambda: not pool.client.ready(), "/ready to say no")
        self.check_error(pool.client.post("/infer", {"prompt": "hello"}), 503)
        pool.start_worker().wait_ready()
        pool.client.wait_ready()
        self.check_undisturbed(self.begin(pool))

    def test_a_worker_joins_while_tokens_flow(self):
        pool = self.start_cluster(slow_mixtral(), workers=1)
        before = pool.status()["epoch"]
        stream = self.begin(pool)
        pool.start_worker().wait_ready()
        self.check_undisturbed(stream)
        status = pool.wait_status(lambda s: s["epoch"] > before, "a new epoch")
        self.assertEqual([w["experts"] for w in status["workers"]], ["0-7", "8-15"], status)
        pool.client.infer("now both compute", max_tokens=20)
        for worker in pool.status()["workers"]:
            self.assertGreater(worker["dispatches"], 0, worker)

    def test_one_fault_after_another(self):
        seed = 7
        random_faults = random.Random(seed)
        pool = self.start_cluster(slow_mixtral(), workers=3, router_flags=("--dispatch-timeout", "0.5",
                                                                           "--holder-timeout", "60"))
        serving = list(pool.workers)
        stream = self.begin(pool)
        faults = []
        while stream.read(pieces=len(stream.pieces) + 150).last is None:
            victim = serving.pop(random_faults.randrange(len(serving)))
            faults.append(random_faults.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)))
            victim.signal(faults[-1])
            serving.append(pool.start_worker("--transport", random_faults.choice(("shm", "grpc"))))
            if len(faults) % 2:
                serving[-1].wait_ready()
        self.assertGreater(len(faults), 5, f"seed {seed}")
        self.check_undisturbed(stream)
        for worker in pool.workers:
            if worker not in serving:
                worker.kill()
        pool.wait_status(lambda s: len(s["workers"]) == 3 and s["ready"], f"the three that are left, seed {seed}")
        self.check_undisturbed(self.begin(pool))

    def test_workers_and_gateway_come_back_to_a_new_router(self):
        pool = self.start_cluster(slow_mixtral(), workers=2)
        stream = self.begin(pool)
        pool.router.kill()
        self.check_broken_off(stream)
        self.check_error(pool.client.post("/infer", {"prompt": "hello"}), 503)
        pool.start_router(min_workers=2, address=pool.address)
        pool.wait_status(lambda s: len(s["workers"]) == 2 and s["ready"], "both workers in the new router's pool")
        pool.client.wait_ready()
        self.check_undisturbed(self.begin(pool))
        for process in pool.workers + [pool.gateway]:
            self.assertTrue(process.alive())

    def test_a_killed_gateway_leaves_nothing_running(self):
        pool = self.start_cluster(slow_mixtral(), workers=2)
        self.begin(pool)
        self.assertEqual(pool.status()["running"], 1)
        pool.gateway.kill()
        pool.wait_idle()
        pool.start_gateway()
        pool.client.wait_ready()
        self.check_undisturbed(self.begin(pool))


if __name__ == "__main__":
    cluster.main()
