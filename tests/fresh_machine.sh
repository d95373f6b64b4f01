#!/usr/bin/env bash
# Tests README's two commands on a fresh Debian: a root made by debootstrap, with the packages that README names and nothing else.
# Or the built wheel there, without a clone: the commands that docs/running.md prints, as they are printed.
#
#   tests/fresh_machine.sh [PYTEST ARGUMENT...]     as root, on Debian; `make fresh-machine` and `make compat` do it
#   WHEEL=1 tests/fresh_machine.sh                  the same; `make fresh-wheel` does it
#
# SUITE=bookworm   the Debian release, also trixie
# FOLDER=path      where the root is made: a new folder under /var/tmp unless said; it takes 11 GB. A root that an earlier run kept there
#                  is used again, with the commit of now; for the wheel the folder is always a new one
# KEEP=1           keep the root, to look into it, or for the next run
# LIMIT=7200       seconds after which a command of the two is ended
# PYTHON=python3   whose pip is asked where packages come from, and builds the wheel
#
# apt's and pip's sources, proxies and certificates are those of this machine. Commands run in namespaces of their own (mounts and
# processes), so no mount and no process is left, however this script ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=${SUITE:-bookworm} keep=${KEEP:-} python=${PYTHON:-python3} limit=${LIMIT:-7200} wheel=${WHEEL:-}
packages=python3,git,make,ca-certificates  # README's, and what certificates of apt and git need
project=/srv/complex-system stranger=/home/stranger
root='' job='' built=''

say() { printf 'fresh machine, %4d s: %s\n' "$SECONDS" "$*"; }
fail() { say "$*" >&2; exit 1; }

end() {
    if [ -n "$job" ]; then { kill -KILL "$job"; wait "$job"; } 2>/dev/null || true; fi
    [ -z "$built" ] || rm -rf "$built"
    if [ -z "$root" ] || [ ! -d "$root" ]; then return; fi
    rm -f "$root.log"
    if [ -n "$keep" ]; then say "kept in $root: chroot $root (proc and dev are not mounted)"; return; fi
    # What was killed may still write for a moment.
    for _ in 1 2 3 4 5; do rm -rf --one-file-system "$root" 2>/dev/null && return; sleep 1; done
    say "not removed: $root" >&2
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

needs() {
    [ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root."
    command -v apt-get >/dev/null || fail "apt's configuration is taken over, so this runs on Debian and what is like it."
    command -v debootstrap >/dev/null && return
    say "installing debootstrap"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
}

# Lines "ADDRESS RELEASE COMPONENT" of this machine's apt that are about the release.
sources() { apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | grep -E " $suite(-[a-z]+)? " | sort -u; }

take_over_apt() {
    if sources >/dev/null; then sources | sed 's/^/deb /' >"$root/etc/apt/sources.list"; fi
    apt-config dump | grep '^Acquire::' >"$root/etc/apt/apt.conf.d/90host"
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    if [ -d /usr/local/share/ca-certificates ]; then
        cp -RL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
        chroot "$root" update-ca-certificates >/dev/null 2>&1
    fi
    # As in containers: packages do not start their servers.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
}

# pip's configuration on this machine, from files and variables, becomes the root's /etc/pip.conf; the folders and files it names are copied.
# An extra index on this machine's disk is left out: its pages name files that lie elsewhere.
take_over_pip() {
    local settings path
    settings=$("$python" -m pip config list | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'\$/\2 = \3/p" | sed 's/\\n/ /g' |
        sed -E '/^extra-index-url = /{s# ?file://[^ ]*##g; /=$|= *$/d}')
    { echo '[global]'; awk -F ' = ' 'NF == 2 { value[$1] = $2 } END { for (name in value) print name " = " value[name] }' <<<"$settings"; } >"$root/etc/pip.conf"
    for path in $(sed 's#file://##g; s/,/ /g' <<<"$settings ${UV_FIND_LINKS:-} ${SSL_CERT_FILE:-}"); do
        if [[ $path == /* && -e $path && ! -e $root$path ]]; then
            mkdir -p "$root$(dirname "$path")"
            cp -RL "$path" "$root$path"
        fi
    done
}

# isolated COMMAND...: runs a command in namespaces that end with it, and with this script.
isolated() {
    unshare --mount --pid --fork --kill-child "$@" </dev/null &
    job=$!
    local code=0
    wait "$job" || code=$?
    job=''
    return "$code"
}

# in_root USER COMMAND [FOLDER]: runs a shell command in a folder there, the project's, until it ends or the limit is reached.
in_root() {
    local variables=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" LANG=C.UTF-8) name
    for name in $(compgen -e | grep -iE '^(UV_.*|(http|https|ftp|all|no)_proxy|SSL_CERT_(FILE|DIR)|CI)$'); do variables+=("$name=${!name}"); done
    # The shell stays process 1, to reap orphans as init does.
    isolated bash -c '
        root=$1 user=$2 folder=$3 command=$4 limit=$5; shift 5
        mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" || exit
        timeout --signal=KILL "$limit" chroot --userspec="$user" "$root" env -i "$@" HOME="$(chroot "$root" getent passwd "$user" | cut -d: -f6)" bash -c "cd $folder && $command"
        exit $?
    ' fresh-machine "$root" "$1" "${3:-$project}" "$2" "$limit" "${variables[@]}"
}

# documented NUMBER: a command block of docs/running.md, "A project of your own".
documented() {
    git show HEAD:docs/running.md | awk -v wanted="$1" '
        /^## / { ours = /^## A project of your own$/ }
        ours && /^```/ { inside = !inside; number += inside; next }
        ours && inside && number == wanted'
}

# Makes of shell commands, one a line, the same that are shown before and timed after.
timed() {
    local line
    echo 'set -e'
    while IFS= read -r line; do
        printf 'echo %q; began=$SECONDS\n%s\necho "[$((SECONDS - began)) s]"\n' "\$ $line" "$line"
    done
}

# The wheel of the commit of now, in an ordinary user's folder there.
put_wheel() {
    built=$(mktemp -d)
    mkdir "$built/source"
    git archive HEAD | tar -x -C "$built/source"
    "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$built" "$built/source"
    chroot "$root" useradd --create-home --shell /bin/bash "$(basename "$stranger")"
    cp "$built"/*.whl "$root$stranger/"
}

# The first block is root's and installs Debian packages, the second an ordinary user's. Only answers and an end are added.
test_wheel() {
    local commands began=$SECONDS code=0
    say "Debian packages, as docs/running.md names them"
    commands=$(documented 1 | sed 's/^apt-get install/& -y/')
    [[ $commands == *"apt-get install"* ]] || fail "docs/running.md names no packages"
    in_root root "export DEBIAN_FRONTEND=noninteractive; $(timed <<<"$commands")" / >"$root.log" 2>&1 || code=$?
    grep -E '^(\$ |\[[0-9]+ s\])' "$root.log"
    [ "$code" = 0 ] || { tail -n 30 "$root.log"; fail "that failed"; }
    commands=$(documented 2 | sed 's/^fiot run mongo/& --once/')
    [[ $commands == *"fiot run mongo --once"* ]] || fail "docs/running.md does not run it"
    say "the commands of docs/running.md, as an ordinary user"
    in_root "$(basename "$stranger")" "$(timed <<<"$commands")" "$stranger" || fail "that failed"
    say "all of it took $((SECONDS - began)) s; $(du -sh --one-file-system "$root" | cut -f1) on disk"
}

needs
again=''
if [ -z "${FOLDER:-}" ]; then
    root=$(mktemp -d /var/tmp/fresh-machine.XXXXXX)
elif [ -z "$wheel" ] && [ -e "$FOLDER$project/.git" ]; then
    again=1 keep=1 root=$FOLDER
    if ! grep -q "VERSION_CODENAME=$suite" "$root/etc/os-release"; then fail "$FOLDER is not a $suite; name another folder."; fi
elif [ -e "$FOLDER" ]; then
    fail "$FOLDER exists, and no run kept it; name a new folder."
else
    root=$FOLDER
    mkdir -p "$root"
fi
root=$(realpath "$root")

if [ -n "$again" ]; then
    say "using $root again"
    git -C "$root$project" fetch --quiet "$PWD" HEAD
    git -C "$root$project" checkout --quiet --force --detach FETCH_HEAD
else
    say "making a minimal $suite in $root"
    chmod 755 "$root"
    mirror=$(sources | awk -v suite="$suite" '$2 == suite { print $1; exit }' || true)
    isolated debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 || { tail -n 20 "$root.log"; fail "debootstrap failed"; }
    take_over_apt
    take_over_pip
    if [ -n "$wheel" ]; then put_wheel; else git clone --quiet --no-hardlinks . "$root$project"; fi
fi
say "Debian $(cat "$root/etc/debian_version"), $(in_root root 'python3 --version' /), commit $(git log -1 --format='%h %s')"
[ -z "$(git status --porcelain)" ] || say "changes that are not committed are not in it"
if [ -n "$wheel" ]; then test_wheel; exit; fi

# An ordinary user reads what to install, all of it at once ...
names=''
if [ -z "$again" ]; then
    told=$(in_root nobody 'make -s system-packages 2>&1' || true)
    say "make as an ordinary user: $told"
    names=$(sed -n 's/^Debian packages are missing.*apt-get install//p' <<<"$told")
    [ -n "$names" ] || fail "make names no packages"
fi

began=$SECONDS
say "make demo ONCE=1"
in_root root 'make demo ONCE=1' || fail "make demo ONCE=1 failed"
demo=$((SECONDS - began))
# ... which make installs as root, and that is everything.
[ -z "$names" ] || in_root root "dpkg -s $names >/dev/null" || fail "make has not installed all that it names:$names"
in_root nobody 'make -s system-packages' || fail "make still misses packages"

began=$SECONDS
selection=''
if [ $# -gt 0 ]; then printf -v selection 'ARGS=%q' "${*@Q}"; fi
say "make test${*:+ ARGS=\"$*\"}"
in_root root "make test $selection" || fail "make test failed"
say "make demo ONCE=1 took $demo s with all that it installed, make test $((SECONDS - began)) s; $(du -sh --one-file-system "$root" | cut -f1) on disk"
