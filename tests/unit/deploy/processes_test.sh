#!/usr/bin/env bash
# Tests deploy/processes.sh with processes that are nothing but sleep.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../.."
run=$(mktemp -d)
bystander=""
cleanup() {
  [[ -z $bystander ]] || kill "$bystander"
  stop_processes 2> /dev/null
  rm -rf -- "$run"
}
trap cleanup EXIT
source deploy/processes.sh
stop_timeout_s=1

expect() {  # WHAT COMMAND...
  local what=$1
  shift
  if ! "$@"; then
    echo "FAILED: $what: $*" >&2
    exit 1
  fi
}
gone() { ! alive_pid "$1" > /dev/null; }
not() { ! "$@"; }

expect "nothing runs at first" not all_processes_alive

start_process router sh -c 'echo "{}"; exec sleep 1000'
await_ready router
pid=$(alive_pid router)
expect "the recorded pid is the process's own" test "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$(command -v sleep)")"
expect "the start time is the 22nd field" test "$(start_ticks "$pid")" = "$(awk '{ print $22 }' "/proc/$pid/stat")"

cp -- "$(command -v sleep)" "$run/odd) 1 (name"
"$run/odd) 1 (name" 1000 &
bystander=$!
until [[ $(< "/proc/$bystander/comm") == "odd) 1 (name" ]]; do :; done  # from fork to exec
expect "nor do blanks and brackets in a name displace it" test "$(start_ticks "$bystander")" -ge "$(start_ticks "$pid")"

start_process gateway sh -c 'echo "cannot bind" >&2; exit 1'
expect "a process that ends is not awaited" not await_ready gateway 2> "$run/output"
expect "its log is shown" grep -q "cannot bind" "$run/output"
expect "one that ended makes the set incomplete" not all_processes_alive

# A pid that the kernel gave to somebody else since: same pid, another start time.
read -r boot _ ticks < "$run/router.pid"
echo "$boot $bystander $((ticks + 1000000))" > "$run/expert-worker-1.pid"
expect "another's process does not count as ours" gone expert-worker-1
# The same numbers from before a reboot.
echo "00000000-0000-0000-0000-000000000000 $bystander $(start_ticks "$bystander")" > "$run/expert-worker-2.pid"
expect "a pid of another boot does not count as ours" gone expert-worker-2

start_process expert-worker-3 sh -c 'trap "" TERM; echo "{}"; exec sleep 1000'
await_ready expert-worker-3
stop_processes 2> "$run/output"
expect "SIGTERM ends the router" test ! -d "/proc/$pid"
expect "what ignores SIGTERM is killed, and said so" grep -q "expert-worker-3 did not end" "$run/output"
expect "a bystander lives on" kill -0 "$bystander"
expect "nothing is recorded any more" test -z "$(process_names)"
