#!/usr/bin/env bash
# The base image roverwatch/python-base:musl: a CPython on musl that stands in for python:3.13-alpine where no
# registry can be reached. Its sources, compiler and C library are Debian's; nothing of that stays on the machine,
# as the build runs in a chroot that mmdebstrap makes and removes. Built once (six minutes of two cores), and again
# when a script of this folder changes.
#   bench/musl/base.sh
set -euo pipefail
cd "$(dirname "$0")"
image=roverwatch/python-base:musl
export suite=trixie sources="python3.13 zlib bzip2 xz-utils libffi openssl" # for the hooks
recipe=$(sha256sum base.sh build.sh | sha256sum | cut -c1-12)

say() { echo "image ${image##*:}: $* (${SECONDS}s)"; }

if [ -n "$(docker image ls --quiet --filter "label=roverwatch.recipe=$recipe" "$image")" ]; then
  say "$image is there"
  exit
fi
if ! command -v mmdebstrap >/dev/null; then
  echo "mmdebstrap is missing: install it (apt-get install mmdebstrap)" >&2
  exit 1
fi

# mmdebstrap reads no apt.conf.d, so whether an expired index is accepted (a frozen mirror) is asked of apt.
options=()
for option in Acquire::Check-Valid-Until Acquire::Check-Date; do
  eval "$(apt-config shell value "$option")"
  if [ -n "${value:-}" ]; then options+=(--aptopt="$option \"$value\""); fi
  unset value
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
say "fetching compiler and sources from Debian's mirror"
nice mmdebstrap --quiet --variant=essential "${options[@]}" \
  --include=gcc,make,perl,xz-utils,bzip2,autoconf,automake,libtool,libltdl-dev \
  --include=musl-tools,linux-libc-dev,busybox-static \
  --setup-hook='cd "$1/etc/apt" && sed -n "/ $suite /s/^deb/deb-src/p" sources.list >sources.list.d/source.list' \
  --customize-hook='mkdir "$1/src" && cd "$1/src" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" \
    apt-get source -qq --download-only -o APT::Sandbox::User=root $sources >/dev/null' \
  --customize-hook="upload build.sh /build.sh" \
  --customize-hook='chroot "$1" sh /build.sh' \
  --customize-hook="download /image.tar $folder/image.tar" \
  "$suite" /dev/null 2>&1 | while read -r line; do say "$line"; done
docker image rm "$image" >/dev/null 2>&1 || true # or the old one stays, without a name
docker import --change 'CMD ["python3"]' --change "LABEL roverwatch.recipe=$recipe" \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  "$folder/image.tar" "$image" >/dev/null
say "built, $(docker image ls --format '{{.Size}}' "$image")"
