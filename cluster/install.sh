#!/usr/bin/env bash
# Installs the package that lies beside this script into ~/prelar-ray/.venv, and puts it on the PATH of every shell.
#
#   bash ~/prelar-ray/package/install.sh [--storage DIR]
#
# DIR is the folder that all machines of the cluster share; it becomes PRELAR_STORAGE. Idempotent: where this very package is
# installed, nothing is installed again. `ray up` runs it on every machine (cluster.yaml); by hand it does the same.
set -euo pipefail

fail() {
    echo "error: $(hostname): $1" >&2
    exit 1
}

package=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home="$HOME/prelar-ray" venv="$HOME/prelar-ray/.venv" storage=
while [ $# -gt 0 ]; do
    case $1 in
    --storage) storage=${2:?--storage needs a folder}; shift 2 ;;
    *) fail "unknown argument $1; usage: install.sh [--storage DIR]" ;;
    esac
done

wheel=$package/$(cat "$package/package.txt" 2>/dev/null || true)
if [ ! -f "$wheel" ] || [ ! -f "$package/constraints.txt" ]; then
    fail "no package in $package: run \`make wheel\` and copy dist/ again"
fi

if [ -n "$storage" ]; then
    [ -d "$storage" ] || fail "$storage is no folder: mount the shared storage there, or correct --storage in cluster.yaml"
    probe=$(mktemp "$storage/.writable.XXXXXX" 2>/dev/null) || fail "$storage cannot be written by $(id -un): correct its rights"
    rm -f "$probe"
fi

# Ray makes its token readable by everybody where it makes one itself, and a copy has the rights of its original.
[ ! -e ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token

# One at a time: `ray up` may run again while an installation of minutes is still under way.
mkdir -p "$home"
exec 9>"$home/install.lock"
flock 9

if [ -L "$venv/bin/python" ] && [ ! -x "$venv/bin/python" ]; then
    fail "$venv was made with $(readlink -f "$venv/bin/python"), which this machine lacks; machines that share a home need the \
same Python. If none uses it any more: rm -rf $venv"
fi
stamp=$(cat "$wheel" "$package/constraints.txt" | sha256sum)
if [ "$(cat "$home/installed" 2>/dev/null)" != "$stamp" ] || ! "$venv/bin/prelar-ray" --version >/dev/null 2>&1; then
    rm -f "$home/installed"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=
        for name in python3.11 python3.12 python3.13 python3; do
            if "$name" -c 'import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
                python=$name
                break
            fi
        done
        [ -n "$python" ] || fail "no Python 3.11 to 3.13 with venv: sudo apt-get install python3 python3-venv"
        "$python" -m venv --clear "$venv"
    fi
    echo "$(hostname): installing $(basename "$wheel") into $venv (minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --constraint "$package/constraints.txt" "$wheel[all]"
    # A package that was built again has the same version, which pip takes for the same package.
    "$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps "$wheel"
    echo "$stamp" >"$home/installed"
fi
# Those of earlier versions, for what copies the package deletes nothing, and the sources.
find "$package" -maxdepth 1 -name 'prelar_ray-*' ! -name "$(basename "$wheel")" -delete

{
    echo "export PATH=\"$venv/bin:\$PATH\""
    [ -z "$storage" ] || printf 'export PRELAR_STORAGE=%q\n' "$storage"
} >"$home/environment"
# In the first line, for the one of Ubuntu ends early in shells that run a single command.
if ! grep -qs 'prelar-ray/environment' ~/.bashrc; then
    line='[ ! -r ~/prelar-ray/environment ] || . ~/prelar-ray/environment'
    [ -s ~/.bashrc ] || echo >>~/.bashrc
    sed -i --follow-symlinks "1i $line" ~/.bashrc || fail "cannot write ~/.bashrc; add to its beginning: $line"
fi
# shellcheck source=/dev/null
. "$home/environment"
echo "$(hostname): $(prelar-ray --version) in $venv"
