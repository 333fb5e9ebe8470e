#!/usr/bin/env bash
# Linux bridge, two guests over veth on one host.
. "$(dirname "$0")/lib.sh"
up() {
    mkns h a b
    no_nf h
    ip -n "$P-h" link add br0 type bridge
    ip -n "$P-h" link set br0 up
    i=1
    for x in a b; do
        ip link add "v$x" netns "$P-h" type veth peer name eth0 netns "$P-$x"
        ip -n "$P-h" link set "v$x" master br0 up
        guest $x eth0 $i
        i=$((i + 1))
    done
}
down() { rmns; }
main "$@"
