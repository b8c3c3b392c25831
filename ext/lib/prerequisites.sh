# shellcheck shell=bash
# What does a script of this repository need on the machine, and how does it get there? Sourced, never run.
#
# Each need_… function looks first and installs only what is missing: with apt-get as root or through sudo, else it ends the
# script with a message that says what to run.

# The top of the clone, and where cargo puts what it builds.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
# rustup installs here without changing the PATH of shells that are open already.
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export PATH

say() { printf '%s\n' "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

apt_lists_are_fresh=""

# packages_available PACKAGE…: whether apt knows a version of all of them.
packages_available() {
    local package
    command -v apt-get >/dev/null || return 1
    for package in "$@"; do
        [ -n "$(candidate "$package")" ] || return 1
    done
}

# candidate PACKAGE: the version that apt would install; nothing if there is none.
candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p' | grep -v '^(none)$' || true; }

# may_install: whether apt-get can be run as root from here without a question that nobody would answer.
may_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null || { [ -t 0 ] && [ -z "${CI:-}" ]; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# apt_refresh: the lists once for each run; a mirror that is away is no error yet, the lists of last time may do.
apt_refresh() {
    [ -z "$apt_lists_are_fresh" ] || return 0
    apt_lists_are_fresh=yes
    as_root apt-get update -qq </dev/null || say "apt-get update failed; going on with the package lists that are there"
}

# install WHY PACKAGE…: installs Debian packages, or says how.
install() {
    local why="$1"
    shift
    if ! may_install; then
        fail "$why. As root, run: apt-get install $*   and then this again."
    fi
    say "Installing $* ($why)"
    apt_refresh
    as_root apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null \
        || fail "apt-get could not install $* ($why); its message is above"
}

# A compiler that also finds libc's headers: gcc alone does not bring them.
compiler_works() {
    command -v cc >/dev/null || return 1
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' | cc -x c -o /dev/null - 2>/dev/null
}

need_compiler() {
    compiler_works && return 0
    install "a C compiler is needed: the TLS library is partly C" gcc libc6-dev
    compiler_works || fail "cc does not work even with gcc and libc6-dev installed; try: cc --version"
}

# at_least HAVE WANTED: whether a version such as 1.88 or 1.88.0 is reached.
at_least() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

wanted_rust() { sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' "$root/Cargo.toml"; }

# The older of rustc and cargo, as both must do; nothing if one is missing.
present_rust() {
    local rustc cargo
    rustc="$(cd "$root" && rustc --version 2>/dev/null </dev/null | cut -d ' ' -f 2)" || return 0
    cargo="$(cd "$root" && cargo --version 2>/dev/null </dev/null | cut -d ' ' -f 2)" || return 0
    printf '%s\n%s\n' "$rustc" "$cargo" | sort -V | head -n 1
}

rust_by_rustup() {
    say "Installing the stable Rust toolchain with rustup"
    rustup toolchain install stable --profile minimal --no-self-update </dev/null || return 1
    export RUSTUP_TOOLCHAIN=stable
}

need_rust() {
    local wanted present
    wanted="$(wanted_rust)"
    present="$(present_rust)"
    at_least "$present" "$wanted" && return 0
    if command -v rustup >/dev/null; then
        rust_by_rustup || fail "rustup could not install a toolchain; its message is above"
    else
        if may_install; then apt_refresh; fi
        if packages_available rustup; then
            install "Rust $wanted or newer is needed" rustup
            rust_by_rustup || fail "rustup could not install a toolchain; its message is above"
        elif at_least "$(candidate rustc)" "$wanted" && packages_available cargo; then
            install "Rust $wanted or newer is needed" rustc cargo
        else
            fail "Rust $wanted or newer is needed; here is ${present:-none}, and this Debian offers $(candidate rustc | grep . || echo none)." \
                "Install rustup as its home page says, run: rustup toolchain install stable   and then this again."
        fi
    fi
    present="$(present_rust)"
    at_least "$present" "$wanted" || fail "Rust $wanted or newer is needed, and $(command -v cargo || echo 'no cargo') is ${present:-missing}: see your PATH"
}

# need_rust_tools: cargo fmt and cargo clippy, which a minimal toolchain lacks.
need_rust_tools() {
    if ! cargo fmt --version >/dev/null 2>&1; then
        if command -v rustup >/dev/null; then rustup component add rustfmt </dev/null; else install "cargo fmt is needed" rustfmt; fi
    fi
    if ! cargo clippy --version >/dev/null 2>&1; then
        if command -v rustup >/dev/null; then rustup component add clippy </dev/null; else install "cargo clippy is needed" rust-clippy; fi
    fi
}

need_facter() {
    command -v facter >/dev/null || install "a test of the agent asks Debian's facter" facter
}

need_valgrind() {
    command -v valgrind >/dev/null || install "the guard counts instructions with valgrind" valgrind
}

# need_stomp_py: sets $python to an interpreter that has stomp.py.
need_stomp_py() { need_python stomp.py stomp "$target/python" "$root/tests/third-party/requirements.txt"; }

# need_schemathesis: sets $python to an interpreter that has schemathesis.
need_schemathesis() {
    need_python schemathesis schemathesis "$target/schemathesis" "$root/tests/third-party/requirements-api.txt"
}

# need_python WHAT MODULE FOLDER REQUIREMENTS: sets $python to an interpreter that has the module, in a virtual environment
# beside the build.
need_python() {
    local what="$1" module="$2" folder="$3" requirements="$4" base=/usr/bin/python3
    python="$folder/bin/python"
    [ -x "$base" ] || base="$(command -v python3 || true)"
    if [ -z "$base" ] || ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        install "the tests with $what need Python and its venv" python3 python3-venv
        base=/usr/bin/python3
    fi
    cmp -s "$requirements" "$folder/requirements.txt" && "$python" -c "import $module" 2>/dev/null && return 0
    say "Installing $what into $folder"
    mkdir -p "$target"
    "$base" -m venv --clear "$folder" </dev/null || fail "python3 -m venv failed; its message is above"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" </dev/null \
        || fail "pip could not install $what; its message is above"
    cp "$requirements" "$folder/requirements.txt"
}

# need_ruby_stomp: sets $ruby to Debian's interpreter, which finds Debian's ruby-stomp.
# shellcheck disable=SC2034  # for whoever sources this
need_ruby_stomp() {
    ruby=/usr/bin/ruby
    [ -x "$ruby" ] && "$ruby" -e 'require "stomp"' 2>/dev/null && return 0
    install "the tests with Debian's ruby-stomp need it" ruby ruby-stomp
}

# unpack PACKAGE PROGRAM: of a Debian package the program alone, beside the build; false if it cannot be had. Installed, the package
# would start a server on this machine.
unpack() {
    local package="$1" program="$2" folder="$target/$1"
    "$folder/$program" --version >/dev/null 2>&1 && return 0
    { command -v apt-get && command -v dpkg-deb; } >/dev/null || return 1
    say "Unpacking ${program##*/} into $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    if ! packages_available "$package" && may_install; then apt_refresh; fi
    (cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq "$package" </dev/null \
        && dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x "./$program" && rm "$package"_*.deb) || return 1
    "$folder/$program" --version >/dev/null
}

# need_promtool: sets $promtool to Prometheus's checker.
# shellcheck disable=SC2034  # for whoever sources this
need_promtool() {
    promtool="$(command -v promtool || true)"
    [ -z "$promtool" ] || return 0
    promtool="$target/prometheus/usr/bin/promtool"
    unpack prometheus usr/bin/promtool \
        || fail "promtool is needed, Prometheus's checker: install it as its home page says, and then run this again"
}

# wait_until SECONDS COMMAND…: polls; false when the time is over.
wait_until() {
    local limit="$1" end
    shift
    end=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# free_port: a loopback port that nobody listens on, below the range that the kernel hands out by itself.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s\n' "$port"; return 0; }
    done
    fail "no free port found between 20000 and 29999"
}

# alive PID: whether the process is there and is no zombie.
alive() { [ -r "/proc/$1/stat" ] && ! grep -q '^[0-9]* (.*) Z' "/proc/$1/stat" 2>/dev/null; }

# stop PID…: SIGTERM, a bounded wait, SIGKILL. Only for processes that the script started.
stop() {
    local pid
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "$@"; do
        wait_until 15 dead "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}

dead() { ! alive "$1"; }
