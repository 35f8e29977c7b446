#!/usr/bin/env bash
# Copies programs into an empty root with all that they need to run there, and nothing else: the shared libraries that
# they link, names of users and hosts, and for scanners of images which Debian packages these files come from.
#
#   deploy/docker/collect.sh ROOT UID PROGRAM...
set -euo pipefail
(($# >= 3)) || { echo "usage: deploy/docker/collect.sh ROOT UID PROGRAM..." >&2 && exit 2; }
root=$1 uid=$2
shift 2

# note_packages FILE...: the packages' records, once each.
note_packages() {
  local file package names=()
  # Libraries lie in /lib, which is a link to /usr/lib: the package may list either path, or where a link leads.
  for file in "$@"; do
    names+=("$file" "${file#/usr}" "/usr$file" "$(realpath -- "$file")")
  done
  mkdir -p -- "$root/var/lib/dpkg/status.d"
  # It fails for each name that it does not know; who looks through all lists of files is asked but once.
  { dpkg-query -S "${names[@]}" 2> /dev/null || true; } | sed 's/[:,].*$//' | sort -u | while read -r package; do
    dpkg-query -s "$package" > "$root/var/lib/dpkg/status.d/$package"
    [[ ! -f /usr/share/doc/$package/copyright ]] ||
      install -D -m 644 -- "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
  done
}

# As in Debian, where these are links; a directory could not be copied over such a link.
mkdir -p -- "$root/usr/lib" "$root/usr/lib64"
ln -sfn usr/lib "$root/lib"
ln -sfn usr/lib64 "$root/lib64"
declare -A copied=()
for program in "$@"; do
  install -D -m 755 -- "$program" "$root/usr/bin/${program##*/}"
  # The loader stands without an arrow, the libraries behind one; what is missing says "not found".
  libraries=$(ldd -- "$program")
  if [[ $libraries == *"not found"* ]]; then
    printf 'collect.sh: %s:\n%s\n' "$program" "$libraries" >&2
    exit 1
  fi
  while read -r library; do
    # To the same path, links followed.
    [[ -e $root$library ]] || install -m 755 -D -- "$library" "$root$library"
    copied["$library"]=1
  done < <(sed -nE 's|^.* => (/[^ ]+) .*$|\1|p; s|^[[:space:]]*(/[^ ]+) \(.*$|\1|p' <<< "$libraries")
done
((${#copied[@]} == 0)) || note_packages "${!copied[@]}"

install -d -m 755 -- "$root/dev" "$root/etc" "$root/models" "$root/proc" "$root/run" "$root/sys" "$root/var/cache"
install -d -m 1777 -- "$root/tmp"
# Named volumes take their first owner from here.
install -d -m 700 -o "$uid" -g "$uid" -- "$root/var/cache/moepool" "$root/run/moepool"
printf 'root:x:0:0:root:/:/sbin/nologin\nmoepool:x:%s:%s:moepool:/:/sbin/nologin\n' "$uid" "$uid" > "$root/etc/passwd"
printf 'root:x:0:\nmoepool:x:%s:\n' "$uid" > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
