#!/usr/bin/env bash
# Speed of a pool of two machines, played by two network namespaces with a wire of limited rate between them, by
# --micro-batches. One core is the router's, another the worker's. Needs root, iproute2 with tc, and tbf in the kernel.
#   micro_batches.sh BIN RATE ROUNDS PHASE...
#     BIN: folder of the programs.  RATE: of the wire, as tc has it (1gbit).  ROUNDS: of the three settings, in turn.
#     PHASE: for `moepool bench engine`, such as --prefill 2048 or --streams 32.
# Prints a line a run: tokens/s of the median repetition; and of all steps, those of the warm-up included, how many went in
# one and in two micro-batches, and the shares of their time in which the trunk waited and the worker computed.
set -euo pipefail

bin=$(realpath -- "$1")
rate=$2
rounds=$3
phase=("${@:4}")
near=moepool-near-$$
far=moepool-far-$$
router=10.213.8.1
work=$(mktemp -d)
processes=()

finish() {
  local code=$?
  ((code == 0)) || tail -n 5 "$work"/*.log >&2
  for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
  wait || true
  ip netns delete "$near" 2>/dev/null || true
  ip netns delete "$far" 2>/dev/null || true
  rm -rf -- "$work"
}
trap finish EXIT

ip netns add "$near"
ip netns add "$far"
ip -n "$near" link add wire type veth peer name wire netns "$far"
ip -n "$near" address add $router/24 dev wire
ip -n "$far" address add 10.213.8.2/24 dev wire
for end in "$near" "$far"; do
  ip -n "$end" link set lo up
  ip -n "$end" link set wire up
  ip netns exec "$end" tc qdisc add dev wire root tbf rate "$rate" burst 128kb latency 20ms
done

"$bin/moepool" synth --family llama --name wide --hidden 1024 --layers 8 --heads 8 --kv-heads 2 --head-dim 128 \
  --experts 16 --experts-per-token 2 --ffn 1024 --vocab 2048 --context 4096 --dtype Q4_0 --out "$work/model.gguf" >&2

ready() {  # FILE: waits for the line that a process prints
  until grep -qs '"ready":true' "$1"; do sleep 0.1; done
}

metric() {  # NAME: the sum of its series
  ip netns exec "$near" curl -s http://127.0.0.1:9101/metrics |
    awk -v name="$1" 'index($0, name) == 1 { sum += $2 } END { print sum + 0 }'
}

run() {  # SETTING
  local first=${#processes[@]} setting=$1
  rm -f "$work/router" "$work/worker"
  ip netns exec "$near" taskset -c 0 "$bin/moepool-router" --model "$work/model.gguf" --address $router:50052 \
    --metrics-address 127.0.0.1:9101 --insecure --threads 1 --weights-cache off --prefix-cache off \
    --micro-batches "$setting" >"$work/router" 2>"$work/router.log" &
  processes+=($!)
  ready "$work/router"
  # A host of another name, so that the router does not take it for its own.
  ip netns exec "$far" unshare --uts sh -c "hostname far && exec taskset -c 1 $bin/moepool-expert-worker \
    --router $router:50052 --model $work/model.gguf --threads 1 --weights-cache off --transport grpc" \
    >"$work/worker" 2>"$work/worker.log" &
  processes+=($!)
  ready "$work/worker"
  local out
  out=$(ip netns exec "$near" taskset -c 0 "$bin/moepool" bench engine --router $router:50052 "${phase[@]}" --reps 8 \
    --warmup 4 --json 2>"$work/bench.log")
  python3 - "$setting" "$(metric 'moepool_engine_steps_by_micro_batches_total{micro_batches="1"}')" \
    "$(metric 'moepool_engine_steps_by_micro_batches_total{micro_batches="2"}')" \
    "$(metric moepool_exchange_wait_seconds_total)" "$(metric moepool_engine_step_seconds_total)" \
    "$(metric moepool_worker_compute_seconds_total)" 3<<<"$out" <<'PYTHON'
import json
import os
import sys

setting, one, two, waited, steps, computed = sys.argv[1], *map(float, sys.argv[2:])
rate = json.load(os.fdopen(3))["results"][0]["tokens_per_s"]
print(f"{setting:4}  {rate['median']:6.0f} tokens/s ({rate['min']:.0f} to {rate['max']:.0f})  "
      f"steps in one {one:.0f}, in two {two:.0f}  "
      f"of a step the trunk waits {waited / steps:.0%}, the worker computes {computed / steps:.0%}")
PYTHON
  for process in "${processes[@]:first}"; do kill "$process"; done
  wait "${processes[@]:first}" || true
}

for _ in $(seq "$rounds"); do
  for setting in 1 2 auto; do run "$setting"; done
done
