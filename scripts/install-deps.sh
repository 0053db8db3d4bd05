#!/usr/bin/env bash
# Installs what bough needs from the system's package manager, and nothing that is
# there already. It looks for commands first, so that a second run costs
# milliseconds, and touches apt only when something is missing.
#
#   scripts/install-deps.sh run      what `bough serve` needs
#   scripts/install-deps.sh test     the same, plus what the tests need (default)
#   scripts/install-deps.sh --check [run|test]
#                                    only print the missing packages; exit 1 if any
set -euo pipefail

check_only=false
if [ "${1:-}" = --check ]; then
  check_only=true
  shift
fi
purpose=${1:-test}
case $purpose in
  run | test) ;;
  *)
    echo "usage: ${0##*/} [--check] [run|test]" >&2
    exit 2
    ;;
esac

# Administration commands live in sbin, which an ordinary user's PATH often lacks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
# need PACKAGE COMMAND... notes the package when one of the commands is not there.
need() {
  local package=$1 cmd
  shift
  for cmd in "$@"; do
    if ! command -v "$cmd" >/dev/null 2>&1; then
      missing+=("$package")
      return
    fi
  done
}
# need_file PACKAGE GLOB notes the package when no file matches.
need_file() {
  compgen -G "$2" >/dev/null || missing+=("$1")
}
have_server() {
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ||
    compgen -G '/usr/pgsql-*/bin/postgres' >/dev/null ||
    command -v postgres >/dev/null 2>&1
}

have_server || missing+=(postgresql) # Debian's server package brings contrib's modules
need postgresql-client psql
need fuse3 fusermount3
need e2fsprogs mkfs.ext4 e2fsck resize2fs
need mount mount losetup
need util-linux blkid blockdev
if [ "$purpose" = test ]; then
  need fio fio
  need make make
  need git git
  need gcc cc             # the race detector links with the C compiler
  need_file libc6-dev '/usr/include/stdlib.h'
fi

if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if $check_only; then
  printf '%s\n' "${missing[@]}"
  exit 1
fi

by_hand() {
  {
    echo "bough needs what these Debian packages hold, and they are not on this machine:"
    echo "  ${missing[*]}"
    echo "$1"
  } >&2
  exit 1
}
command -v apt-get >/dev/null 2>&1 ||
  by_hand "There is no apt-get here: install their equivalents with this system's package manager, then run this again."

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 ||
    by_hand "You are not root and there is no sudo: ask an administrator to run: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends "$@"
}
installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

echo "installing: ${missing[*]}"
apt_get update >/dev/null || echo "apt-get update did not succeed; trying with the package lists that are here" >&2

# Debian's server package creates and starts a cluster on port 5432 at once. bough
# runs servers of its own, and nobody asked for that one: where the packaging is
# not here yet, install its common part first and switch that off. A machine that
# has postgresql-common already has an owner with a mind of his own: leave it be.
if ! have_server && ! installed postgresql-common; then
  apt_get install postgresql-common >/dev/null
  "${as_root[@]}" sed -ri 's/^#?[[:space:]]*create_main_cluster[[:space:]]*=.*$/create_main_cluster = false/' \
    /etc/postgresql-common/createcluster.conf
fi
apt_get install "${missing[@]}" >/dev/null
if ! still=$("$0" --check "$purpose"); then
  echo "installed, but what these packages should hold is not there: ${still//$'\n'/ }" >&2
  exit 1
fi
