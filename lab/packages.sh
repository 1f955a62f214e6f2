#!/usr/bin/env bash
# Installs the programs that are missing, where we are root on a Debian-like system; elsewhere says what is missing.
#   lab/packages.sh PROGRAM[=PACKAGE]...   PACKAGE where it is not called like its program, or like its file's path
# Ends with 0 in any case: whoever needs a program knows best what to do without it, such as skip a test.
set -euo pipefail
PATH=$PATH:/usr/sbin # where Debian has daemons, and where a user's shell does not look

missing=()
for program in "$@"; do
  command -v "${program%%=*}" >/dev/null || [ -e "${program%%=*}" ] || missing+=("${program#*=}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "packages: not here: ${missing[*]} (on Debian: sudo apt-get install ${missing[*]})" >&2
  exit 0
fi

# Debian starts a daemon as soon as it is installed, unless this file says no. Ours are started by who needs them.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

echo "packages: installing ${missing[*]} from the machine's package source"
apt-get update -qq &&
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "${missing[@]}" >/dev/null ||
  echo "packages: could not install ${missing[*]}" >&2
