"""The dashboard of the service: what clients ask for and what they get."""

from panels import dashboard, heat, lines, number, quantiles, query, variable

S = 'pool=~"$pool", instance=~"$instance"'  # of gateways
P = 'pool=~"$pool"'  # of the router


def rate(metric, selector=S, by=""):
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}[$__rate_interval]))"


def now():
    failed = rate("moepool_request_failure_total", S + ', reason!~"cancelled|invalid|rejected"')
    return [
        number(
            "Running",
            "Requests of which at least one token is out.",
            f"sum(moepool_num_requests_running{{{S}}})",
            "short",
        ),
        number(
            "Waiting",
            "Requests without a first token yet.",
            f"sum(moepool_num_requests_waiting{{{S}}})",
            "short",
            limits=(8, 32),
        ),
        number(
            "Answers a second", "Requests that ended well, each second.", rate("moepool_request_success_total"), "reqps"
        ),
        number(
            "Failed",
            "Share of requests that ended with an error; cancelled, invalid and refused ones do not count.",
            f"{failed} / ({rate('moepool_request_success_total')} + {failed})",
            "percentunit",
            limits=(0.005, 0.05),
        ),
        number(
            "First token, p95",
            "Nineteen of twenty requests have their first token within this time.",
            quantiles("moepool_time_to_first_token_seconds", S, quantities=(0.95,))[0]["expr"],
            "s",
            limits=(2, 5),
        ),
        number("Generated", "Tokens of answers, each second.", rate("moepool_generation_tokens_total"), "short"),
    ]


def requests():
    return [
        lines(
            "Requests a second",
            "HTTP requests by path.",
            query(rate("moepool_http_requests_total", by="path"), "{{path}}"),
            "reqps",
            stack=True,
        ),
        lines(
            "HTTP by code",
            "HTTP answers by status code. 429 is told to come back later, 503 has no router or no experts.",
            query(rate("moepool_http_requests_total", by="code"), "{{code}}"),
            "reqps",
            stack=True,
        ),
        lines(
            "Requests waiting",
            "Requests at the gateways: running have a token out, waiting have none yet.",
            [
                query(f"sum(moepool_num_requests_running{{{S}}})", "running"),
                query(f"sum(moepool_num_requests_waiting{{{S}}})", "waiting"),
            ],
            "short",
        ),
        lines(
            "Finish reasons",
            "Why answers ended: the model's end or a stop string, the limit on tokens, a tool call.",
            query(rate("moepool_request_success_total", by="finished_reason"), "{{finished_reason}}"),
            "reqps",
            stack=True,
        ),
        lines(
            "Errors by reason",
            "Requests that did not end well.",
            query(rate("moepool_request_failure_total", by="reason"), "{{reason}}"),
            "reqps",
            stack=True,
        ),
        lines(
            "Tokens admitted",
            "Prompt and limit of all requests admitted and not finished: what --max-queue-tokens bounds.",
            query(f"sum by (instance) (moepool_admission_queue_tokens{{{S}}})", "{{instance}}"),
            "short",
        ),
    ]


def latency():
    def times(title, description, metric, **fields):
        return lines(title, description, quantiles(metric, S), "s", **fields)

    return [
        times(
            "Time to first token",
            "From a request's arrival to its first token.",
            "moepool_time_to_first_token_seconds",
            limits=(2, 5),
        ),
        times(
            "Time between tokens",
            "From one token of an answer to the next.",
            "moepool_inter_token_latency_seconds",
            limits=(0.1, 0.2),
        ),
        times("Whole request", "From arrival to the last token.", "moepool_e2e_request_latency_seconds"),
        times(
            "Queue time",
            "From arrival at the router to admission into the batch.",
            "moepool_request_queue_time_seconds",
            limits=(1, 4),
        ),
        times("Prefill time", "From admission to the first token.", "moepool_request_prefill_time_seconds"),
        times("Decode time", "From the first token to the last.", "moepool_request_decode_time_seconds"),
        heat(
            "Time to first token, all requests",
            "How many requests had their first token after how long.",
            rate("moepool_time_to_first_token_seconds_bucket", by="le"),
            "{{le}}",
            "s",
            buckets=True,
            w=12,
        ),
        heat(
            "Time between tokens, all tokens",
            "How many tokens came how long after the one before.",
            rate("moepool_inter_token_latency_seconds_bucket", by="le"),
            "{{le}}",
            "s",
            buckets=True,
            w=12,
        ),
    ]


def tokens():
    return [
        lines(
            "Tokens a second",
            "Tokens of prompts (of those ended well), those of them found in the prefix cache, and "
            "tokens generated.",
            [
                query(rate("moepool_prompt_tokens_total"), "prompt"),
                query(rate("moepool_prompt_tokens_cached_total"), "of these cached"),
                query(rate("moepool_generation_tokens_total"), "generated"),
            ],
            "short",
        ),
        lines(
            "Prompt lengths", "Tokens of a request's prompt.", quantiles("moepool_request_prompt_tokens", S), "short"
        ),
        lines(
            "Answer lengths",
            "Tokens generated for a request.",
            quantiles("moepool_request_generation_tokens", S),
            "short",
        ),
    ]


def engine():
    step_seconds = rate("moepool_engine_step_seconds_total", P)
    return [
        lines(
            "Sequences",
            "Sequences in the router's batch, and those not admitted yet.",
            [
                query(f"sum(moepool_num_sequences_running{{{P}}})", "running"),
                query(f"sum(moepool_num_sequences_waiting{{{P}}})", "waiting"),
            ],
            "short",
        ),
        lines(
            "Rows by kind",
            "Rows computed each second: of prompts, and of tokens being generated.",
            [
                query(rate("moepool_prefill_rows_total", P), "prefill"),
                query(rate("moepool_decode_rows_total", P), "decode"),
            ],
            "short",
            stack=True,
        ),
        lines(
            "Step time",
            "Mean duration of the engine's steps.",
            query(f"{step_seconds} / {rate('moepool_engine_steps_total', P)}", "mean"),
            "s",
        ),
        lines(
            "KV cache",
            "Share of the blocks that sequences hold, and that keep a prefix for later; the latter count as free.",
            [
                query(f"max by (instance) (moepool_kv_cache_usage_ratio{{{P}}})", "{{instance}} taken"),
                query(f"max by (instance) (moepool_kv_cache_prefix_ratio{{{P}}})", "{{instance}} kept prefixes"),
            ],
            "percentunit",
            limits=(0.8, 0.95),
            high=1,
        ),
        lines(
            "Prefix cache hits",
            "Share of the prompts' tokens that were found in the prefix cache.",
            query(
                f"{rate('moepool_prefix_cache_hits_total', P)} / {rate('moepool_prefix_cache_queries_total', P)}",
                "found",
            ),
            "percentunit",
            high=1,
        ),
        lines(
            "Preemptions",
            "Sequences put back to wait as blocks ran out, and blocks of kept prefixes given away.",
            [
                query(f"sum(increase(moepool_num_preemptions_total{{{P}}}[$__rate_interval]))", "preemptions"),
                query(f"sum(increase(moepool_kv_cache_evictions_total{{{P}}}[$__rate_interval]))", "evicted blocks"),
            ],
            "short",
        ),
        lines(
            "Price of constraints",
            "Share of the steps' time that making token masks for grammars and schemas took.",
            query(f"{rate('moepool_constraint_mask_seconds_total', P)} / {step_seconds}", "masks"),
            "percentunit",
            limits=(0.03, 0.05),
        ),
    ]


def make():
    instance = variable("instance", "Gateway", 'label_values(moepool_num_requests_running{pool=~"$pool"}, instance)')
    return dashboard(
        "moepool-service",
        "moepool / Service",
        "What clients ask of a pool and what they get.",
        [instance],
        {"Now": now(), "Requests": requests(), "Latency": latency(), "Tokens": tokens(), "Engine": engine()},
    )
