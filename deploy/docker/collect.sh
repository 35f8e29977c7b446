#!/usr/bin/env bash
# Copies programs into an empty root with all that they need to run there, and nothing else: the shared libraries that
# they link, names of users and hosts, and for scanners of images which Debian packages these files come from.
#
#   deploy/docker/collect.sh ROOT UID PROGRAM...
set -euo pipefail
(($# >= 3)) || { echo "usage: deploy/docker/collect.sh ROOT UID PROGRAM..." >&2 && exit 2; }
root=$1 uid=$2
shift 2

# copy FILE: to the same path under the root, links followed, and its package noted.
copy() {
  local package
  [[ ! -e $root$1 ]] || return 0
  install -m 755 -D -- "$1" "$root$1"
  # Libraries lie in /lib, which is a link to /usr/lib: the package may list either path.
  package=$(dpkg-query -S "$1" 2> /dev/null || dpkg-query -S "${1#/usr}" 2> /dev/null ||
    dpkg-query -S "/usr$1" 2> /dev/null || dpkg-query -S "$(realpath -- "$1")" 2> /dev/null) || return 0
  package=${package%%[:,]*}
  mkdir -p -- "$root/var/lib/dpkg/status.d"
  dpkg-query -s "$package" > "$root/var/lib/dpkg/status.d/$package"
  [[ ! -f /usr/share/doc/$package/copyright ]] ||
    install -D -m 644 -- "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
}

# As in Debian, where these are links; a directory could not be copied over such a link.
mkdir -p -- "$root/usr/lib" "$root/usr/lib64"
ln -sfn usr/lib "$root/lib"
ln -sfn usr/lib64 "$root/lib64"
for program in "$@"; do
  install -D -m 755 -- "$program" "$root/usr/bin/${program##*/}"
  # The loader stands without an arrow, the libraries behind one; what is missing says "not found".
  libraries=$(ldd -- "$program")
  if [[ $libraries == *"not found"* ]]; then
    printf 'collect.sh: %s:\n%s\n' "$program" "$libraries" >&2
    exit 1
  fi
  while read -r library; do
    copy "$library"
  done < <(sed -nE 's|^.* => (/[^ ]+) .*$|\1|p; s|^[[:space:]]*(/[^ ]+) \(.*$|\1|p' <<< "$libraries")
done

install -d -m 755 -- "$root/dev" "$root/etc" "$root/models" "$root/proc" "$root/run" "$root/sys" "$root/var/cache"
install -d -m 1777 -- "$root/tmp"
# Named volumes take their first owner from here.
install -d -m 700 -o "$uid" -g "$uid" -- "$root/var/cache/moepool" "$root/run/moepool"
printf 'root:x:0:0:root:/:/sbin/nologin\nmoepool:x:%s:%s:moepool:/:/sbin/nologin\n' "$uid" "$uid" > "$root/etc/passwd"
printf 'root:x:0:\nmoepool:x:%s:\n' "$uid" > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
