//! Packet-throughput benchmarks, side by side with the kernel and Open vSwitch
