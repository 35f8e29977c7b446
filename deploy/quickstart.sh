#!/usr/bin/env bash
# From a bare Debian 12 machine to an answer: installs packages, builds, fetches a small model, starts a gateway, a
# router and expert workers, and asks. Each step is skipped where its result is there already. Progress goes to
# stderr, the answer alone to stdout; the cluster stays up for the next question.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: deploy/quickstart.sh [options] [PROMPT]

  --workers N              expert workers to start (2)
  --model FILE             GGUF file to serve (SmolLM2-135M-Instruct, fetched once)
  --model-name NAME        what clients call it (the name in the file)
  --transport auto|shm|grpc
                           how activations travel between router and workers (auto: shared memory on one host)
  --http-address ADDRESS   of the gateway, for curl (127.0.0.1:8000)
  --grpc-address ADDRESS   of the gateway, for gRPC (127.0.0.1:50051)
  --router-address ADDRESS of the router, for workers (127.0.0.1:50052)
  --metrics-address ADDRESS
                           of the router's /metrics (127.0.0.1:9101)
  --status                 show what runs
  --stop                   end what this script started
  --help                   show this

A running cluster with the same options is used again; one with others is replaced. Pids and logs are in build/run.
TEXT
}

fail() { echo "quickstart: $*" >&2 && exit 1; }
usage_error() { echo "quickstart: $*; --help lists the options" >&2 && exit 2; }
say() { echo "quickstart: $*" >&2; }

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
run="$root/build/run"
# shellcheck source=deploy/processes.sh
source "$root/deploy/processes.sh"

action=ask workers=2 model="" model_name="" transport=auto prompt=""
http_address=127.0.0.1:8000 grpc_address=127.0.0.1:50051
router_address=127.0.0.1:50052 metrics_address=127.0.0.1:9101

while (($#)); do
  option=$1
  shift
  case "$option" in
    --workers | --model | --model-name | --transport | --*-address)
      (($#)) || usage_error "$option needs a value"
      value=$1
      shift
      ;;&
    --workers)
      [[ $value =~ ^[1-9][0-9]{0,2}$ ]] || usage_error "--workers is '$value', expected 1 to 999"
      workers=$value
      ;;
    --model)
      [[ -f $value ]] || fail "--model $value: no such file"
      model=$(realpath -- "$value")
      ;;
    --model-name) model_name=$value ;;
    --transport)
      [[ $value =~ ^(auto|shm|grpc)$ ]] || usage_error "--transport is '$value', expected auto, shm or grpc"
      transport=$value
      ;;
    --http-address) http_address=$value ;;
    --grpc-address) grpc_address=$value ;;
    --router-address) router_address=$value ;;
    --metrics-address) metrics_address=$value ;;
    --status | --stop) action=${option#--} ;;
    --start) action=start ;;  # by this script itself, in the session of the cluster
    --help | -h) usage && exit 0 ;;
    --)
      prompt="$*"
      break
      ;;
    -*) usage_error "unknown option $option" ;;
    *)
      [[ -z $prompt ]] || usage_error "two prompts: '$prompt' and '$option' (quote the prompt)"
      prompt=$option
      ;;
  esac
done
for address in "$http_address" "$grpc_address" "$router_address" "$metrics_address"; do
  [[ $address =~ ^.+:[1-9][0-9]{0,4}$ ]] || usage_error "address '$address': expected HOST:PORT, port not 0"
done

bin="$root/build/release/bin"
build() {
  if [[ ! -f $root/build/release/build.ninja ]]; then
    say "configuring"
    (cd "$root" && cmake --preset release) >&2
  fi
  say "building"
  # One job a core: a gRPC source takes up to 1 GiB of memory to compile.
  cmake --build "$root/build/release" --parallel "$(nproc)" \
    --target moepool-gateway moepool-router moepool-expert-worker moepool >&2
}

# Asks for ADDRESS to be free before anything is started, because "address in use" names neither flag nor remedy.
require_free_port() {  # FLAG ADDRESS
  if (exec 3<> "/dev/tcp/${2%:*}/${2##*:}") 2> /dev/null; then
    fail "$2 is in use by another program; choose another address with $1"
  fi
}

# What the running cluster was started with; the binaries count, so that a rebuilt one replaces what runs.
cluster_key() {
  local programs=("$bin"/moepool-gateway "$bin"/moepool-router "$bin"/moepool-expert-worker)
  printf '%s\n' "$workers" "$model" "$model_name" "$transport" "$http_address" "$grpc_address" "$router_address" "$metrics_address"
  stat -L -c '%n %s %Y' -- "$model" "${programs[@]}"
}

# Waits until every expert has a holder.
await_pool() {
  local deadline=$((SECONDS + ready_timeout_s))
  until "$bin/moepool" status --router "$router_address" --json 2> /dev/null | grep -q '"ready": true'; do
    all_processes_alive || fail "a process of the cluster ended; logs are in $run"
    ((SECONDS < deadline)) || fail "the pool was not ready after $ready_timeout_s s; logs are in $run"
    sleep 0.05
  done
}

start_cluster() {
  require_free_port --http-address "$http_address"
  require_free_port --grpc-address "$grpc_address"
  require_free_port --router-address "$router_address"
  require_free_port --metrics-address "$metrics_address"
  say "starting a router, $workers expert workers and a gateway"
  local i started=(router)
  # The first placement waits for all workers: experts are then loaded once, by the worker that keeps them.
  start_process router "$bin/moepool-router" --model "$model" --address "$router_address" \
    --metrics-address "$metrics_address" --min-workers "$workers"
  await_ready router
  for ((i = 1; i <= workers; ++i)); do
    start_process "expert-worker-$i" "$bin/moepool-expert-worker" --router "$router_address" --model "$model" \
      --transport "$transport" --metrics-address 127.0.0.1:0
    started+=("expert-worker-$i")
  done
  start_process gateway "$bin/moepool-gateway" --http-address "$http_address" --grpc-address "$grpc_address" \
    --router "$router_address" ${model_name:+--served-model-name "$model_name"}
  started+=(gateway)
  for name in "${started[@]}"; do await_ready "$name"; done
  await_pool
  cluster_key > "$run/cluster"
}

if [[ $action == start ]]; then
  start_cluster
  exit 0
fi

mkdir -p -- "$run"
# One at a time; the lock goes with this process and is not handed to the cluster.
exec 9> "$run/lock"
flock 9

case "$action" in
  status)
    show_processes || fail "nothing is running"
    if [[ -x $bin/moepool && -f $run/router_address ]]; then
      "$bin/moepool" status --router "$(< "$run/router_address")"
    fi
    exit 0
    ;;
  stop)
    stop_processes
    exit 0
    ;;
esac

"$root/deploy/packages.sh" build
build
if [[ -z $model ]]; then
  model=$("$root/deploy/fetch_model.sh")
  model_name=${model_name:-SmolLM2-135M-Instruct}  # the name in the file is another
fi

if all_processes_alive && [[ -f $run/cluster && $(< "$run/cluster") == "$(cluster_key)" ]]; then
  say "using the cluster that is running"
else
  stop_processes
  # A half-started cluster is not left behind.
  trap stop_processes EXIT
  echo "$router_address" > "$run/router_address"
  run_in_session "${BASH_SOURCE[0]}" --start --workers "$workers" --model "$model" --model-name "$model_name" --transport "$transport" \
    --http-address "$http_address" --grpc-address "$grpc_address" --router-address "$router_address" \
    --metrics-address "$metrics_address"
  trap - EXIT
fi
flock -u 9

[[ -z $prompt ]] || "$bin/moepool" generate --gateway "$grpc_address" -- "$prompt"

cat >&2 << TEXT

The cluster is running. To try next:
  curl -X POST http://$http_address/infer -H 'Content-Type: application/json' -d '{"prompt": "Why is the sky blue?"}'
  build/release/bin/moepool generate --gateway $grpc_address "Write a haiku about rain."
  deploy/quickstart.sh --status
  deploy/quickstart.sh --stop
TEXT
