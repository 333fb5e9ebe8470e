#!/usr/bin/env bash
# Open vSwitch with the userspace datapath as Debian ships it, two guests on its TAP ports.
. "$(dirname "$0")/lib.sh"
up() {
    mkns h a b
    # OVS_CONFIG is the DPDK build's.
    IN="ip netns exec $P-h" ovs_start local ${OVS_CONFIG:+"${OVS_CONFIG[@]}"}
    vsctl add-br br0 -- set bridge br0 datapath_type=netdev
    i=1
    for x in a b; do
        vsctl add-port br0 "bolt$x" -- set interface "bolt$x" type=tap
        ip -n "$P-h" link set "bolt$x" netns "$P-$x"
        ip -n "$P-$x" addr add "10.9.0.$i/24" dev "bolt$x"
        ip -n "$P-$x" link set "bolt$x" up
        i=$((i + 1))
    done
}
down() {
    ovs_stop
    rmns
    # What DPDK leaves of a process that was killed.
    rm -rf "/var/run/dpdk/$(basename "$0" .sh)"
}
main "$@"
