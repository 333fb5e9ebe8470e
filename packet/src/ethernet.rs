//! Ethernet II (IEEE 802.3) and 802.1Q tags.

/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// 802.1ad tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
