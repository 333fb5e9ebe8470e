#!/usr/bin/env bash
# Open vSwitch's best case between TAP ports: the DPDK build with userspace TSO. It leaves the machine's NICs alone, and
# takes no huge pages: its TAP ports are served by the main thread and copy from ordinary memory either way.
VSWITCHD=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
OVS_CONFIG=(
    other_config:dpdk-init=true
    other_config:userspace-tso-enable=true
    "other_config:dpdk-extra=--no-pci --no-huge --legacy-mem -m 512 --file-prefix=$(basename "$0" .sh)"
)
. "$(dirname "$0")/ovs-local.sh"
