#!/usr/bin/env bash
# Runs a program of an image's root as a container runtime would: in namespaces of its own but for the network, as the
# image's user, on a root that cannot be written. Needs root.
#
#   container.sh ROOT NAME UID [SOURCE:TARGET...] -- PROGRAM ARGUMENT...
set -euo pipefail
export CONTAINER_ROOT=$1 CONTAINER_NAME=$2 CONTAINER_UID=$3
shift 3
exec unshare --mount --uts --ipc --pid --fork --kill-child bash -euo pipefail -c '
  hostname "$CONTAINER_NAME"
  mount --bind "$CONTAINER_ROOT" "$CONTAINER_ROOT"
  while [[ $1 != -- ]]; do
    mount --bind "${1%%:*}" "$CONTAINER_ROOT${1#*:}"
    shift
  done
  shift
  mount -t proc proc "$CONTAINER_ROOT/proc"
  mount -o remount,ro,bind "$CONTAINER_ROOT"
  user=$CONTAINER_UID root=$CONTAINER_ROOT
  unset CONTAINER_ROOT CONTAINER_NAME CONTAINER_UID
  exec chroot --userspec="$user:$user" --groups="" "$root" "$@"
' _ "$@"
