#!/usr/bin/env bash
# Two Open vSwitch userspace datapaths, VXLAN between them.
. "$(dirname "$0")/lib.sh"
up() {
    mkns h1 h2 a b
    fabric
    for i in 1 2; do
        g=$(echo a b | cut -d' ' -f$i)
        IN="ip netns exec $P-h$i" ovs_start "vx$i"
        vsctl add-br br-phy -- set bridge br-phy datapath_type=netdev
        vsctl add-port br-phy u
        ip -n "$P-h$i" addr add "192.168.9.$i/24" dev br-phy
        ip -n "$P-h$i" link set br-phy mtu 1600 up
        vsctl add-br br-int -- set bridge br-int datapath_type=netdev
        vsctl add-port br-int "bovt$i" -- set interface "bovt$i" type=tap
        vsctl add-port br-int vx0 -- set interface vx0 type=vxlan options:remote_ip="192.168.9.$((3 - i))" options:key=42
        ip -n "$P-h$i" link set "bovt$i" netns "$P-$g"
        ip -n "$P-$g" addr add "10.9.0.$i/24" dev "bovt$i"
        ip -n "$P-$g" link set "bovt$i" mtu 1500 up
    done
}
down() { ovs_stop; rmns; }
main "$@"
