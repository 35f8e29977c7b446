"""The dashboard of the pool: workers, what they hold, and what passes between them and the router."""

from panels import by_name, dashboard, lines, number, quantiles, query, table, variable

P = 'pool=~"$pool"'
W = P + ', worker=~"$worker", worker!=""'  # as the router sees the workers
READY = [
    {
        "type": "value",
        "options": {
            "0": {"text": "not ready", "color": "red", "index": 0},
            "1": {"text": "ready", "color": "green", "index": 1},
        },
    }
]


def rate(metric, by, selector):
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def now():
    return [
        number(
            "Pool", "Ready where every expert has a holder.", f"min(moepool_pool_ready{{{P}}})", "none", mappings=READY
        ),
        number(
            "Workers now",
            "Workers in the pool.",
            f'count(moepool_worker_expert_bytes{{{P}, worker!=""}}) or vector(0)',
            "short",
        ),
        number(
            "Epoch",
            "The placement in force; one higher for each that came into force.",
            f"max(moepool_placement_epoch{{{P}}})",
            "none",
        ),
        number("Experts held", "Expert weights in all workers.", f"sum(moepool_worker_expert_bytes{{{W}}})", "bytes"),
        number(
            "Slowest round trip",
            "Of the slowest worker: average from dispatch to reply, computing included.",
            f"max(moepool_worker_round_trip_seconds{{{W}}})",
            "s",
            limits=(0.1, 0.25),
        ),
        number(
            "Steps run again",
            "Retries in the time shown.",
            f"sum(increase(moepool_exchange_retries_total{{{P}}}[$__range]))",
            "short",
            decimals=0,
            limits=(1, 4),
        ),
    ]


def workers():
    def column(expr):
        return query(f"max by (worker) ({expr})", instant=True, format="table")

    names = {
        "worker": "Worker",
        "Value #A": "Held",
        "Value #B": "Limit",
        "Value #C": "Round trip",
        "Value #D": "Dispatches/s",
        "Value #E": "Sent/s",
        "Value #F": "Received/s",
    }
    return [
        table(
            "Workers in the pool",
            "What each worker holds, may hold, and does. A limit of 0 is none.",
            [
                column(f"moepool_worker_expert_bytes{{{W}}}"),
                column(f"moepool_worker_memory_limit_bytes{{{W}}}"),
                column(f"moepool_worker_round_trip_seconds{{{W}}}"),
                column(rate("moepool_worker_dispatches_total", "worker", W)),
                column(rate("moepool_exchange_sent_bytes_total", "worker", W)),
                column(rate("moepool_exchange_received_bytes_total", "worker", W)),
            ],
            "bytes",
            [
                {"id": "joinByField", "options": {"byField": "worker", "mode": "outer"}},
                {
                    "id": "organize",
                    "options": {
                        "excludeByName": {"Time": True, **{f"Time {i}": True for i in range(1, 7)}},
                        "renameByName": names,
                        "indexByName": {},
                    },
                },
            ],
            w=16,
            overrides=[
                by_name("Round trip", unit="s"),
                by_name("Dispatches/s", unit="ops"),
                by_name("Sent/s", unit="Bps"),
                by_name("Received/s", unit="Bps"),
            ],
        ),
        table(
            "Versions",
            "Processes by version and kind.",
            query(f"count by (version, process) (moepool_build_info{{{P}}})", instant=True, format="table"),
            "none",
            [
                {
                    "id": "organize",
                    "options": {
                        "excludeByName": {"Time": True},
                        "indexByName": {},
                        "renameByName": {"version": "Version", "process": "Process", "Value": "Number"},
                    },
                }
            ],
        ),
        lines(
            "Workers",
            "Workers in the pool, and workers that run without being in one.",
            [
                query(f'count by (pool) (moepool_worker_expert_bytes{{{P}, worker!=""}})', "in pool {{pool}}"),
                query(f"sum by (pool) (1 - moepool_worker_joined{{{P}}})", "outside {{pool}}"),
            ],
            "short",
            decimals=0,
        ),
        lines(
            "Placement epoch",
            "A step for each worker that joins, leaves or is lost. Many in a row are a worker that comes " "and goes.",
            query(f"max by (instance) (moepool_placement_epoch{{{P}}})", "{{instance}}"),
            "none",
            decimals=0,
        ),
        lines(
            "Retries",
            "Steps given up and run again, by reason, in the interval of a point.",
            query(f"sum by (reason) (increase(moepool_exchange_retries_total{{{P}}}[$__rate_interval]))", "{{reason}}"),
            "short",
        ),
    ]


def exchange():
    return [
        lines(
            "Compute time",
            "Mean time that a worker computes a dispatch, as its replies say.",
            query(
                f"{rate('moepool_worker_compute_seconds_total', 'worker', W)} / "
                f"{rate('moepool_worker_dispatches_total', 'worker', W)}",
                "{{worker}}",
            ),
            "s",
        ),
        lines(
            "Dispatch time",
            "The router's time to gather and encode the rows of a dispatch and hand them to the transport.",
            quantiles("moepool_worker_dispatch_seconds", W, by="worker,", quantities=(0.5, 0.95)),
            "s",
        ),
        lines(
            "Combine time",
            "From a worker's last part until the parts of all are added: the wait for slower workers, and the sum.",
            quantiles("moepool_worker_combine_seconds", W, by="worker,", quantities=(0.5, 0.95)),
            "s",
        ),
        lines(
            "Round trip",
            "Moving average from dispatch to reply, computing included. Every layer waits for the slowest.",
            query(
                f"max by (worker, transport) (moepool_worker_round_trip_seconds{{{W}}})", "{{worker}} ({{transport}})"
            ),
            "s",
            limits=(0.1, 0.25),
        ),
        lines(
            "Sent to workers",
            "Bytes of dispatch frames, by worker.",
            query(rate("moepool_exchange_sent_bytes_total", "worker", W), "{{worker}}"),
            "Bps",
            stack=True,
        ),
        lines(
            "Received from workers",
            "Bytes of reply frames, by worker.",
            query(rate("moepool_exchange_received_bytes_total", "worker", W), "{{worker}}"),
            "Bps",
            stack=True,
        ),
        lines(
            "Parts a row",
            "Partial sums that come back for a row: 1 where one worker holds all experts it chose.",
            [
                query(
                    f"{rate('moepool_exchange_parts_per_row_sum', 'pool', P)} / "
                    f"{rate('moepool_exchange_parts_per_row_count', 'pool', P)}",
                    "mean {{pool}}",
                ),
                *quantiles("moepool_exchange_parts_per_row", P, quantities=(0.95,)),
            ],
            "short",
        ),
        lines(
            "Layer time",
            "From a layer's first dispatch to its last part.",
            quantiles("moepool_exchange_seconds", P),
            "s",
        ),
        lines(
            "Cost of the exchange",
            "Of that time, the share in which neither a worker nor the trunk computed.",
            query(
                f"{rate('moepool_exchange_own_seconds_sum', 'pool', P)} / "
                f"{rate('moepool_exchange_seconds_sum', 'pool', P)}",
                "{{pool}}",
            ),
            "percentunit",
            limits=(0.3, 0.5),
            high=1,
        ),
        lines(
            "Asleep",
            "Share of exchanges whose processes slept where they waited, as staying awake got in the way.",
            query(
                f"{rate('moepool_exchange_asleep_total', 'pool', P)} / {rate('moepool_exchange_seconds_count', 'pool', P)}",
                "{{pool}}",
            ),
            "percentunit",
            limits=(0.1, 0.5),
            high=1,
        ),
    ]


def load():
    return [
        lines(
            "Expert memory",
            "Expert weights held by each worker, and the sum beside the sum of limits.",
            [
                query(f"max by (worker) (moepool_worker_expert_bytes{{{W}}})", "{{worker}}"),
                query(f"sum(moepool_worker_expert_bytes{{{W}}})", "all, held"),
                query(f"sum(moepool_worker_memory_limit_bytes{{{W}}})", "all, limits"),
            ],
            "bytes",
        ),
        lines(
            "Load imbalance",
            "Rows of the busiest worker over the mean of all in the last minute: mean and worst over "
            "layers. 1 is even.",
            [
                query(f"avg(moepool_layer_load_ratio{{{P}}})", "mean"),
                query(f"max(moepool_layer_load_ratio{{{P}}})", "worst layer"),
            ],
            "short",
            limits=(1.5, 2),
        ),
        lines(
            "Workers' busy time",
            "Share of the last minute in which a worker computed dispatches.",
            query(f"max by (worker) (moepool_worker_busy_ratio{{{W}}})", "{{worker}}"),
            "percentunit",
        ),
        lines(
            "Rows by worker",
            "Rows that each worker computed, each second.",
            query(f"sum by (instance) (rate(moepool_worker_rows_total{{{P}}}[$__rate_interval]))", "{{instance}}"),
            "short",
            stack=True,
        ),
        lines(
            "Experts by worker",
            "Experts held, over all layers.",
            query(f"max by (instance) (moepool_worker_experts{{{P}}})", "{{instance}}"),
            "short",
            stack=True,
        ),
        lines(
            "Refused",
            "Dispatches that workers refused, and frames that they could not read.",
            [
                query(
                    f"sum by (instance) (increase(moepool_worker_refusals_total{{{P}}}[$__rate_interval]))",
                    "{{instance}} refused",
                ),
                query(
                    f"sum by (instance) (increase(moepool_worker_unreadable_frames_total{{{P}}}[$__rate_interval]))",
                    "{{instance}} unreadable",
                ),
            ],
            "short",
        ),
    ]


def gpus():
    def each(metric):
        return f"max by (instance, gpu) ({metric}{{{P}}})"

    return [
        lines(
            "GPU memory",
            "Memory in use of each GPU that a router or worker computes on, and its size. Nothing without GPUs.",
            [
                query(each("moepool_gpu_memory_used_bytes"), "{{instance}}"),
                query(each("moepool_gpu_memory_total_bytes"), "{{instance}}, all"),
            ],
            "bytes",
        ),
        lines(
            "GPU utilisation",
            "Share of the driver's last sampling period in which the GPU computed, for whomever.",
            query(each("moepool_gpu_utilization_ratio"), "{{instance}}"),
            "percentunit",
            high=1,
        ),
        lines(
            "GPU temperature",
            "Of the core. Cards slow down by themselves somewhere above 80 °C.",
            query(each("moepool_gpu_temperature_celsius"), "{{instance}}"),
            "celsius",
        ),
        lines("GPU power", "As the card draws it.", query(each("moepool_gpu_power_watts"), "{{instance}}"), "watt"),
    ]


def make():
    worker = variable("worker", "Worker", 'label_values(moepool_worker_round_trip_seconds{pool=~"$pool"}, worker)')
    return dashboard(
        "moepool-pool",
        "moepool / Pool",
        "Workers, what they hold, and what passes between them and the router.",
        [worker],
        {"Now": now(), "Workers": workers(), "Exchange": exchange(), "Load and memory": load(), "GPUs": gpus()},
    )
