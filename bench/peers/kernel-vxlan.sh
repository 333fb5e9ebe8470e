#!/usr/bin/env bash
# Linux bridge and kernel vxlan, two hosts.
. "$(dirname "$0")/lib.sh"
host() {
    local i=$1 g=$2
    no_nf "h$i"
    ip -n "$P-h$i" addr add "192.168.9.$i/24" dev u
    ip link add v netns "$P-h$i" type veth peer name eth0 netns "$P-$g"
    ip -n "$P-h$i" link add br0 type bridge
    ip -n "$P-h$i" link set br0 up
    ip -n "$P-h$i" link set v master br0 up
    ip -n "$P-h$i" link add vx type vxlan id 42 dstport 4789 local "192.168.9.$i" remote "192.168.9.$((3 - i))" nolearning
    ip -n "$P-h$i" link set vx mtu 1500
    ip -n "$P-h$i" link set vx master br0 up
    guest "$g" eth0 "$i"
}
up() {
    mkns h1 h2 a b
    fabric
    host 1 a
    host 2 b
}
down() { rmns; }
main "$@"
