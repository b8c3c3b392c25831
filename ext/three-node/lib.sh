# shellcheck shell=bash
# How do three brokers and nine agents come to life on one machine? Sourced by demo, up and down; never run.
#
# A cluster is a folder: what `musterd init` made, the agents, the logs, and a list of the processes that were started.

# shellcheck source=ext/lib/prerequisites.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/prerequisites.sh"

# Where `up` keeps its cluster, for `down` to find it.
# shellcheck disable=SC2034  # for whoever sources this
playground="$target/three-node"

brokers=(noc1 dc1 dc2)
# Each agent: its name, its user of the policy (which asserts datacenter and customer), its broker, its classes.
agents="
noc-1 node-noc      noc1 profile::base,profile::monitoring
noc-2 node-noc      noc1 profile::base,profile::monitoring
noc-3 node-noc      noc1 profile::base,profile::bastion
a-1   node-a-acme   dc1  profile::base,profile::webserver
a-2   node-a-acme   dc1  profile::base,profile::database
a-3   node-a-globex dc1  profile::base,profile::webserver
b-1   node-b-acme   dc2  profile::base,profile::webserver
b-2   node-b-acme   dc2  profile::base,profile::database
b-3   node-b-acme   dc2  profile::base,profile::database
"

folder=""             # of the cluster; set by whoever sources this
launched=""           # the process that `launch` started last
declare -A process=() # name of a broker or agent -> process
declare -A stomp=() links=() admin=() # name of a broker -> port
declare -A node=()    # name of an agent -> node id

agent_names() { awk 'NF { print $1 }' <<<"$agents"; }
# agent_field NAME COLUMN
agent_field() { awk -v name="$1" -v column="$2" '$1 == name { print $column }' <<<"$agents"; }

# ---- what is there ----

# Sets $MUSTER_BIN: the programs in it are used, or they are built first.
build() {
    if [ -z "${MUSTER_BIN:-}" ]; then
        title "Building musterd, muster-agent and muster in release mode"
        need_compiler
        need_rust
        (cd "$root" && cargo build --release --locked --bins </dev/null)
        MUSTER_BIN="$target/release"
    fi
    MUSTER_BIN="$(cd "$MUSTER_BIN" && pwd)"
    local program
    for program in musterd muster-agent muster; do
        [ -x "$MUSTER_BIN/$program" ] || fail "there is no $MUSTER_BIN/$program"
    done
    # Nothing of the user's own settings, and nothing that others of this machine could read.
    unset MUSTER_CONFIG MUSTER_BROKERS MUSTER_USER MUSTER_CA MUSTER_PASSWORD_FILE MUSTER_PASSWORD
    umask 077
}

# make_cluster: certificates, keys, policy and configurations of three brokers and nine agents below $folder/cluster.
make_cluster() {
    dir="$folder/cluster"
    local broker options=(--cluster demo --topology mesh)
    for broker in "${brokers[@]}"; do
        stomp[$broker]="$(spare_port)"
        links[$broker]="$(spare_port)"
        admin[$broker]="$(spare_port)"
        options+=(--broker "$broker=127.0.0.1:${stomp[$broker]}:${links[$broker]}:${admin[$broker]}")
    done
    show musterd init --dir "$dir" "${options[@]}"
    "$MUSTER_BIN/musterd" init --dir "$dir" "${options[@]}" >"$folder/init.log" \
        || fail "musterd init failed; its message is above"
    extend_policy
    local name
    for name in $(agent_names); do configure_agent "$name"; done
    for broker in "${brokers[@]}"; do
        "$MUSTER_BIN/musterd" check "$dir/$broker/musterd.toml" | indent
    done
}

# spare_port: a free port that is none of the brokers'.
spare_port() {
    local port
    while port="$(free_port)"; do
        case " ${stomp[*]} ${links[*]} ${admin[*]} " in *" $port "*) ;; *) printf '%s\n' "$port"; return 0 ;; esac
    done
}

# The NOC has nodes of its own; each broker has its own copy of the policy.
extend_policy() {
    local broker
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$dir/passwords/node-noc"
    for broker in "${brokers[@]}"; do
        cat >>"$dir/$broker/policy.toml" <<END

# Added by ext/three-node: the NOC's own nodes.
[users.node-noc]
kind = "agent"
password = "$("$MUSTER_BIN/musterd" passwd --file "$dir/passwords/node-noc")"
groups = ["agents"]
facts = { datacenter = "noc", customer = "internal" }
END
    done
}

# An agent of one broker only, so that what is shown when the broker dies does not depend on where its agents go.
configure_agent() {
    local name="$1" user broker home
    user="$(agent_field "$name" 2)"
    broker="$(agent_field "$name" 3)"
    home="$dir/agents/$name"
    mkdir -p "$home/facts.d" "$home/classes.d"
    agent_field "$name" 4 | tr ',' '\n' >"$home/classes.txt"
    cat >"$home/agent.toml" <<END
brokers = ["127.0.0.1:${stomp[$broker]}"]
user = "$user"
password-file = "../../passwords/$user"
ca = "../../ca.pem"
state-dir = "state"

[facts]
dir = "facts.d"

[classes]
files = ["classes.txt"]
dir = "classes.d"
END
    # One says that it is another customer's.
    if [ "$name" = a-3 ]; then
        printf '{"customer": "acmeinc", "site": {"rack": "r7"}}\n' >"$home/facts.d/site.json"
    fi
    # The module exec is off unless a node's own configuration names the programs.
    if [ "$name" = b-3 ]; then
        printf '\n[modules.exec]\nenabled = true\nallow = [["%s"]]\n' "$(sleep_program)" >>"$home/agent.toml"
    fi
}

sleep_program() { readlink -f "$(type -P sleep)"; }

# ---- processes ----

# launch NAME COMMAND…: starts a process of its own session, which no Ctrl-C of this terminal reaches; sets $launched, and
# notes in $folder/processes which process it is and since when, so that nobody else's is ever taken for it.
launch() {
    local name="$1"
    shift
    setsid "$@" </dev/null >>"$folder/$name.log" 2>&1 &
    launched=$!
    disown "$launched"
    process[$name]=$launched
    printf '%s %s %s\n' "$launched" "$(born "$launched")" "$name" >>"$folder/processes"
}

# born PID: when it started, in ticks since the machine did; nothing if it is not there.
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20 || true; }

start_broker() {
    launch "$1" "$MUSTER_BIN/musterd" run --config "$dir/$1/musterd.toml"
    if ! wait_until 30 broker_answers "$1"; then
        tail -n 20 "$folder/$1.log" >&2
        fail "the broker $1 did not start; the end of its log is above"
    fi
}

start_agent() { launch "$1" "$MUSTER_BIN/muster-agent" run --config "$dir/agents/$1/agent.toml"; }

# start_all: three brokers that agree on the mesh, nine agents that every broker has heard of.
start_all() {
    local name
    for name in "${brokers[@]}"; do start_broker "$name"; done
    if ! wait_until 30 mesh_is_whole; then
        for name in "${brokers[@]}"; do tail -n 10 "$folder/$name.log" >&2; done
        fail "the brokers did not link; the ends of their logs are above"
    fi
    for name in $(agent_names); do start_agent "$name"; done
    if ! wait_until 90 known 9; then
        for name in $(agent_names); do tail -n 5 "$folder/$name.log" >&2; done
        fail "the agents did not register within 90 s; the ends of their logs are above"
    fi
    for name in $(agent_names); do
        node[$name]="$(sed -n 's/.*"node": *"\(n-[a-z2-7]*\)".*/\1/p' "$dir/agents/$name/state/status.json" | head -n 1)"
    done
}

# stop_all: ends what $folder/processes lists, agents first, and nothing else.
stop_all() {
    local pid since name mine=()
    [ -f "$folder/processes" ] || return 0
    while read -r pid since name; do
        if [ -n "$since" ] && [ "$(born "$pid")" = "$since" ]; then mine=("$pid" "${mine[@]}"); fi
    done <"$folder/processes"
    stop "${mine[@]}"
}

# ---- asking ----

ctl() {
    local broker="$1"
    shift
    "$MUSTER_BIN/musterd" ctl --config "$dir/$broker/musterd.toml" "$@"
}

broker_answers() { ctl "$1" status; }

# operator USER ARGUMENTS…: muster, at noc1.
operator() {
    local user="$1"
    shift
    "$MUSTER_BIN/muster" --config "$dir/muster.toml" --user "$user" --password-file "$dir/passwords/$user" "$@"
}

mesh_is_whole() { operator alice mesh </dev/null; }

# known COUNT: whether so many nodes are connected, and noc1 has heard of all of them.
known() {
    [ "$(operator alice find --all --count </dev/null 2>/dev/null)" = "$1" ] || return 1
    [ "$(operator alice mesh </dev/null 2>/dev/null | awk '$2 == "here" || $2 == "reachable" { sum += $4 } END { print sum + 0 }')" = "$1" ]
}

# ---- telling ----

title() { printf '\n== %s\n' "$*"; }
indent() { sed 's/^/    /'; }

# show COMMAND…: as one would type it.
show() {
    local word line=""
    for word in "$@"; do
        word="${word/#"$folder"\//}"
        case "$word" in
            *[!A-Za-z0-9_./:=,@%+-]*) line="$line '$word'" ;;
            *) line="$line $word" ;;
        esac
    done
    say "  \$${line}"
}

what_to_try() {
    title "To try it:"
    say "  export PATH=\"$MUSTER_BIN:\$PATH\" MUSTER_CONFIG=\"$dir/muster.toml\""
    say "  muster mesh"
    say "  muster find --all"
    say "  muster run process.list name=muster -w 'datacenter=a and class ~ webserver'"
    say "  muster inventory ${node[a-1]}"
    say "  muster --user admin --password-file $dir/passwords/admin admin explain bob write /topic/prod.service.restart"
    say "  musterd ctl --config $dir/noc1/musterd.toml link down dc1   # and: link up dc1"
    say "  kill -9 ${process[dc1]}   # the broker dc1; to have it back: musterd run --config $dir/dc1/musterd.toml"
    say "Logs and configuration are in $folder."
}
