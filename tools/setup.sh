#!/bin/sh
# Creates or completes .venv. Usage: tools/setup.sh runtime|dev
# Needs Python 3.11 or newer, nothing else; uses uv when it is on PATH. Installs what the hashed lock files say and the
# project itself, editable. Does nothing, fast, when nothing has changed.
set -eu
cd "$(dirname "$0")/.."
level=${1:?usage: tools/setup.sh runtime|dev}
case $level in
    runtime) lock=requirements.lock ;;
    dev) lock=requirements-dev.lock ;;
    *) echo "setup: level must be runtime or dev, was $level" >&2; exit 2 ;;
esac
python=.venv/bin/python
stamp=.venv/.exitguard-setup

# The folder is part of the stamp: a moved work tree has scripts that point to where it was.
fingerprint() {
    { echo "$1 $(pwd)"; cat pyproject.toml hatch_build.py requirements-build.lock requirements.lock "$2" tools/setup.sh; } |
        cksum
}

up_to_date() {
    [ -x "$python" ] && [ -f "$stamp.$1" ] && [ "$(cat "$stamp.$1")" = "$(fingerprint "$1" "$2")" ]
}

if up_to_date dev requirements-dev.lock || up_to_date "$level" "$lock"; then
    exit 0
fi

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "setup: needs Python 3.11 or newer; found none (looked for ${PYTHON:+$PYTHON, }python3, python3.11 to python3.14)" >&2
    return 1
}

uv=$(command -v uv || true)
# A .venv that cannot run, or that was made in another folder, is of no use to anybody.
if [ -e .venv ] && { ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 ||
    ! grep -qF "$(pwd)/.venv" .venv/bin/activate 2>/dev/null; }; then
    echo "setup: .venv cannot be used here (moved, or its Python is gone): making it again"
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    base=$(find_python)
    echo "setup: creating .venv with $base"
    if [ -n "$uv" ]; then
        "$uv" venv --quiet --python "$base" .venv
    elif ! "$base" -m venv .venv; then
        rm -rf .venv
        echo "setup: $base cannot create a virtual environment; install its venv module (Debian: apt install python3-venv) or uv" >&2
        exit 1
    fi
fi

install() {
    if [ -n "$uv" ]; then
        "$uv" pip install --quiet --compile-bytecode --python "$python" "$@"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
    else
        echo "setup: .venv was made by uv, which is not on PATH now; remove .venv and run make setup again" >&2
        exit 1
    fi
}

echo "setup: installing from $lock"
# The lock files are complete: nothing is to be resolved here.
install --no-deps --require-hashes -r requirements-build.lock -r "$lock"
# Without build isolation, so that the builder too is the one whose hash is in the lock.
install --no-deps --no-build-isolation --editable .
"$python" -m compileall -q src
fingerprint "$level" "$lock" > "$stamp.$level"
echo "setup: ready: .venv/bin/exitguard"
