#!/bin/sh
# Installs OffGrid LLM @VERSION@ and the models of this folder. It uses no network.
#
#     sh install.sh [--serve] [FOLDER]
#
# FOLDER is the virtual environment to make; without it, "offgrid" in the home folder.
# With --serve, the server is started at the end.
set -eu
unset PYTHONHOME PYTHONPATH

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

usage="sh install.sh [--serve] [FOLDER]"
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
serve=no
target=
while [ $# -gt 0 ]; do
    case $1 in
        --serve) serve=yes ;;
        -h | --help) echo "$usage"; exit 0 ;;
        -*) fail "there is no option $1: $usage" ;;
        *) [ -z "$target" ] || fail "only one FOLDER: $usage"; target=$1 ;;
    esac
    shift
done
target=${target:-"$HOME/offgrid"}

# The wheels fit one platform and one version of Python, which name their folder.
code='import sys, sysconfig
print("%s-cp%d%d" % ((sysconfig.get_platform(),) + sys.version_info[:2]))'
wheels=
seen=
for python in "$target/bin/python" python3 python3.14 python3.13 python3.12 python3.11 \
        python3.10 python; do
    tag=$("$python" -c "$code" 2>/dev/null) || continue
    seen="$seen $tag"
    if [ -d "$here/offgrid-installer/$tag" ]; then
        wheels=$here/offgrid-installer/$tag
        break
    fi
done
if [ -z "$wheels" ]; then
    echo "install.sh: no Python on this machine fits the packages on this stick, which are for:" >&2
    ls "$here/offgrid-installer" >&2
    echo "This machine has:${seen:- no Python}." >&2
    echo "Install that version of Python, or export from a machine like this one." >&2
    exit 1
fi

if [ ! -x "$target/bin/python" ]; then
    if [ -e "$target" ] && [ -n "$(ls "$target")" ]; then
        fail "$target is not empty and not a virtual environment. Name another folder: $usage"
    fi
    "$python" -m venv --without-pip "$target" || fail "$python cannot make a virtual environment \
in $target (see above). Install its module venv (package python3-venv), or name another folder: \
$usage"
elif [ "$("$target/bin/python" -c "$code")" != "$tag" ]; then
    fail "$target belongs to another version of Python than $tag. Delete it, or name another \
folder: $usage"
fi
for pip in "$wheels"/pip-*.whl; do :; done
PIP_CONFIG_FILE=/dev/null "$target/bin/python" "$pip/pip" install --isolated --quiet \
    --disable-pip-version-check --no-index --find-links "$wheels" "offgrid-llm==@VERSION@" ||
    fail "the packages cannot be installed into $target (see above)."
# The compiled packages need this library of GCC, which a small system may lack. The file .pth makes
# Python load it when it starts.
if [ -f "$wheels/libgomp.so.1" ] &&
        ! "$target/bin/python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; then
    cp "$wheels/libgomp.so.1" "$target/lib/libgomp.so.1"
    load='import ctypes, sys; ctypes.CDLL(sys.prefix + "/lib/libgomp.so.1", ctypes.RTLD_GLOBAL)'
    for site in "$target"/lib/python3*/site-packages; do
        echo "$load" >"$site/offgrid-libgomp.pth"
    done
fi
"$target/bin/python" -I -m offgrid.engine.worker.self_test || fail "OffGrid LLM is installed in \
$target, but it cannot compute on this machine (see above). The packages on this stick were built \
for a newer processor or a newer system. Export again from a machine like this one, or with \
packages that were built with CMAKE_ARGS=-DGGML_NATIVE=OFF."
if [ -d "$here/offgrid-models" ]; then
    "$target/bin/offgrid" import "$here/offgrid-models" ||
        fail "OffGrid LLM is installed in $target, but not all models were imported (see above)."
fi
if [ "$serve" = yes ]; then
    exec "$target/bin/offgrid" serve
fi
echo "OffGrid LLM is installed. Start it with:"
echo "    $target/bin/offgrid serve"
