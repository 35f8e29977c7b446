# Sourced by quickstart.sh: starts, watches and ends processes whose pids and logs are in $run.
# shellcheck disable=SC2154  # $run comes from the script that sources this.
#
# A process NAME leaves three files: NAME.pid (boot id, pid, start time), NAME.ready (its stdout: a line of JSON once it
# serves) and NAME.log (its stderr). A pid alone does not name a process, as the kernel gives pids out again; with the
# boot and the start time it does, so nothing is ever killed that was not started here.

# shellcheck shell=bash

ready_timeout_s=120
stop_timeout_s=40  # longer than the programs take to drain (--drain-timeout, 30 s)

# Start time of a pid in ticks since boot; fails where there is no such process or only its zombie.
start_ticks() {  # PID
  local stat fields
  stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 1
  # The second field is a program name in brackets, which may hold blanks and brackets of its own.
  read -ra fields <<< "${stat##*) }"
  [[ ${fields[0]} != Z ]] || return 1
  printf '%s\n' "${fields[19]}"
}

# Prints the pid of NAME where the very process that was started is alive.
alive_pid() {  # NAME
  local boot pid ticks now
  read -r boot pid ticks 2> /dev/null < "$run/$1.pid" || return 1
  now=$(start_ticks "$pid") || return 1
  [[ $boot == "$(< /proc/sys/kernel/random/boot_id)" && $now == "$ticks" ]] || return 1
  printf '%s\n' "$pid"
}

# Runs a command that starts processes, in a new session: Ctrl-C in this terminal and its closing leave these alone. One
# session for all of them, because the kernel may schedule each as a group of its own, and a process that yields lets
# only its own group go first: router and workers in sessions of their own decode at 55 to 70 % of the speed.
run_in_session() {  # COMMAND...
  local launcher status=0
  setsid "$@" < /dev/null &
  launcher=$!
  # shellcheck disable=SC2064  # this launcher
  trap "kill -TERM $launcher 2> /dev/null; wait $launcher || true; exit 130" INT TERM HUP
  wait "$launcher" || status=$?
  trap - INT TERM HUP
  return "$status"
}

start_process() {  # NAME COMMAND...
  local name=$1 pid terminated=""
  shift
  trap 'terminated=1' TERM  # not between the start and the note of it
  set -m                    # a process group of its own
  "$@" > "$run/$name.ready" 2> "$run/$name.log" < /dev/null 9>&- &  # 9 is the lock
  pid=$!
  set +m
  printf '%s %s %s\n' "$(< /proc/sys/kernel/random/boot_id)" "$pid" "$(start_ticks "$pid")" > "$run/$name.pid"
  trap - TERM
  [[ -z $terminated ]] || exit 143
}

await_ready() {  # NAME
  local deadline=$((SECONDS + ready_timeout_s))
  until [[ -s $run/$1.ready ]]; do
    if ! alive_pid "$1" > /dev/null; then
      tail -n 20 -- "$run/$1.log" >&2
      echo "$1 ended before it was ready; its log is $run/$1.log" >&2
      return 1
    fi
    if ((SECONDS >= deadline)); then
      tail -n 20 -- "$run/$1.log" >&2
      echo "$1 was not ready after $ready_timeout_s s; its log is $run/$1.log" >&2
      return 1
    fi
    sleep 0.05
  done
}

# Names of what was started here, in the order in which it is to end: no new requests, then the router, whose workers
# then have nobody to hand their experts to.
process_names() {
  local file
  for file in "$run"/gateway.pid "$run"/router.pid "$run"/expert-worker-*.pid; do
    [[ ! -f $file ]] || basename -- "$file" .pid
  done
}

all_processes_alive() {
  local name any=1
  for name in $(process_names); do
    alive_pid "$name" > /dev/null || return 1
    any=0
  done
  return $any
}

show_processes() {  # fails where nothing was started
  local name pid any=1
  for name in $(process_names); do
    any=0
    if pid=$(alive_pid "$name"); then
      printf '%-18s running, pid %s, %s\n' "$name" "$pid" "$(head -n 1 -- "$run/$name.ready")"
    else
      printf '%-18s ended, log %s\n' "$name" "$run/$name.log"
    fi
  done
  return $any
}

stop_processes() {
  local name pid deadline
  for name in $(process_names); do
    if pid=$(alive_pid "$name"); then
      echo "stopping $name" >&2
      kill -TERM "$pid" 2> /dev/null || true
      deadline=$((SECONDS + stop_timeout_s))
      while alive_pid "$name" > /dev/null; do
        if ((SECONDS >= deadline)); then
          echo "$name did not end within $stop_timeout_s s of SIGTERM; killing it" >&2
          kill -KILL "$pid" 2> /dev/null || true
          deadline=$((SECONDS + stop_timeout_s))
        fi
        sleep 0.05
      done
    fi
    rm -f -- "$run/$name.pid" "$run/$name.ready"
  done
  rm -f -- "$run/cluster" "$run/router_address"
}
