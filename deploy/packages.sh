#!/usr/bin/env bash
# Installs the Debian packages that moepool is built and tested with; what is there already is left alone. One list for
# quickstart.sh and tests/run.sh, so that they cannot drift apart.
#
#   deploy/packages.sh build   compiler, libraries, and pip for the model's wheel
#   deploy/packages.sh test    the same, and what tests/run.sh needs
#   deploy/packages.sh nightly the same, and what tests/run.sh --nightly and tests/fuzz/run.sh need
#   deploy/packages.sh list    prints the names
set -euo pipefail

build_packages=(
  ca-certificates g++ cmake ninja-build pkg-config ccache python3 python3-pip
  libabsl-dev libboost1.81-dev libcli11-dev libedit-dev libgmock-dev libgrpc++-dev libgtest-dev libicu-dev libpcre2-dev
  libprotobuf-dev libspdlog-dev libssl-dev libyaml-cpp-dev nlohmann-json3-dev prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc
)
test_packages=(
  chromium clang-format clang-tidy curl dpkg-dev git iproute2 prometheus prometheus-alertmanager python3-venv systemd
)
nightly_packages=(
  aardvark-dns buildah clang debootstrap iptables libclang-rt-14-dev lintian netavark podman runc
)

case "${1:-}" in
  build) packages=("${build_packages[@]}") ;;
  test) packages=("${build_packages[@]}" "${test_packages[@]}") ;;
  nightly) packages=("${build_packages[@]}" "${test_packages[@]}" "${nightly_packages[@]}") ;;
  list) printf '%s\n' "${build_packages[@]}" "${test_packages[@]}" "${nightly_packages[@]}" && exit 0 ;;
  *) echo "usage: deploy/packages.sh build|test|nightly|list" >&2 && exit 2 ;;
esac

if ! command -v dpkg-query > /dev/null; then
  echo "deploy/packages.sh: not a Debian system; taking for granted what these packages hold: ${packages[*]}" >&2
  exit 0
fi

# dpkg-query fails where it does not know one of them, which is just what is asked.
known=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${packages[@]}" 2> /dev/null) || true
installed=$(sed -n 's/^installed //p' <<< "$known")
missing=()
for package in "${packages[@]}"; do
  grep -qxF -- "$package" <<< "$installed" || missing+=("$package")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "deploy/packages.sh: neither root nor sudo; have these installed: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing ${missing[*]}" >&2
# env rather than a prefix: sudo passes no variables on.
"${as_root[@]}" apt-get update -qq >&2

# The programs of these are wanted, not their services, which would listen on every address from now on and after each
# start of the machine. Debian's way to say so to what installs them is a policy-rc.d, and a machine that has one keeps it.
services=()
for package in "${missing[@]}"; do
  case "$package" in prometheus | prometheus-alertmanager) services+=("$package") ;; esac
done
policy=/usr/sbin/policy-rc.d
if ((${#services[@]})) && [[ ! -e $policy ]]; then
  trap '"${as_root[@]}" rm -f -- "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee -- "$policy" > /dev/null
  "${as_root[@]}" chmod 755 -- "$policy"
fi
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
for service in "${services[@]}"; do
  "${as_root[@]}" update-rc.d "$service" disable >&2
done
