//! The only room with `unsafe`: devices, sockets, batched I/O, namespaces, processes.
//!
//! What rustix has a safe call for goes through rustix; what it lacks is here, each unsafe block with the reason why
//! it is sound, and safe to call from outside. Nothing here knows of ports, tunnels or programs, MAC addresses are
//! plain octets, and errors say which device, address or permission is missing and what to do about it.

#![allow(unsafe_code, reason = "system calls that no library offers: this room exists to hold them")]

#[cfg(feature = "alloc-count")]
pub mod alloc_count;
pub mod clock;
pub mod epoll;
pub mod netlink;
pub mod netns;
pub mod packet_socket;
pub mod prefetch;
pub mod process;
mod raw;
pub mod tap;
pub mod tunnel;
pub mod udp;
pub mod unshare;

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("weft-sys speaks to the kernel of 64-bit Linux only");

/// Whether tests may make network namespaces here; prints why not.
#[cfg(test)]
pub(crate) fn may_test_as_root() -> bool {
    if process::holds(process::Capability::NetAdmin) && process::holds(process::Capability::SysAdmin) {
        return true;
    }
    eprintln!("SKIPPED: needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
    false
}
