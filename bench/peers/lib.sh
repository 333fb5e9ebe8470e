# Shared by the peers: each script is `NAME.sh up` or `NAME.sh down`, makes guests a and b in namespaces
# `bench-NAME-a` and `bench-NAME-b` with 10.9.0.1 and 10.9.0.2, and removes all it made.
set -euo pipefail
P=bench-$(basename "$0" .sh)
W=/tmp/$P
ns() { ip netns exec "$P-$1" "${@:2}"; }
mkns() { for n in "$@"; do ip netns add "$P-$n"; ip -n "$P-$n" link set lo up; done; }
rmns() {
    for n in $(ip netns list | awk '{print $1}' | grep "^$P-" || true); do
        ip netns pids "$n" | xargs -r kill 2>/dev/null || true
        ip netns del "$n"
    done
}
# A guest's TAP or veth $2 moved into namespace $1 with address 10.9.0.$3.
guest() {
    ip -n "$P-$1" link set "$2" name eth0 2>/dev/null || true
    ip -n "$P-$1" addr add "10.9.0.$3/24" dev eth0
    ip -n "$P-$1" link set eth0 mtu 1500 up
}
# Namespaces h1 and h2 with a device `u` each, joined by a bridge, as the hosts of a lab are.
fabric() {
    mkns fabric
    no_nf fabric
    ip -n "$P-fabric" link add br0 mtu 1600 type bridge
    ip -n "$P-fabric" link set br0 up
    for i in 1 2; do
        ip link add u netns "$P-h$i" type veth peer name "u$i" netns "$P-fabric"
        ip -n "$P-h$i" link set u mtu 1600 up
        ip -n "$P-fabric" link set "u$i" mtu 1600 master br0 up
    done
}
# The fair setting: a bridge that hands frames to netfilter is slower than users see it.
no_nf() { ns "$1" sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true; }

# A private Open vSwitch (Debian package) with the userspace datapath: ovs_start INSTANCE [KEY=VALUE...]
ovs_use() { export OVS_RUNDIR=$W/$1 OVS_LOGDIR=$W/$1 OVS_DBDIR=$W/$1; }
ovs_start() {
    ovs_use "$1"; shift
    mkdir -p "$OVS_RUNDIR"
    ovsdb-tool create "$OVS_DBDIR/conf.db" /usr/share/openvswitch/vswitch.ovsschema
    ovsdb-server "$OVS_DBDIR/conf.db" --remote=punix:"$OVS_RUNDIR/db.sock" --pidfile="$OVS_RUNDIR/ovsdb.pid" \
        --log-file="$OVS_RUNDIR/ovsdb.log" --detach --no-chdir >/dev/null 2>&1
    vsctl --no-wait init
    for o in "$@"; do vsctl --no-wait set Open_vSwitch . "$o"; done
    ${IN:-} ${VSWITCHD:-ovs-vswitchd} unix:"$OVS_RUNDIR/db.sock" --pidfile="$OVS_RUNDIR/vsw.pid" \
        --log-file="$OVS_RUNDIR/vsw.log" --unixctl="$OVS_RUNDIR/vsw.ctl" --detach --no-chdir >/dev/null 2>&1
}
vsctl() { ovs-vsctl --db=unix:"$OVS_RUNDIR/db.sock" "$@"; }
ovs_stop() {
    local f
    for f in "$W"/*/vsw.pid "$W"/*/ovsdb.pid; do [ -f "$f" ] && kill "$(cat "$f")" 2>/dev/null || true; done
    sleep 0.5
    rm -rf "$W"
}
main() {
    case "${1:-}" in
    up) down 2>/dev/null || true; up ;;
    down) down ;;
    *) echo "usage: $0 up|down" >&2; exit 2 ;;
    esac
}
