//! Headers, addresses, checksums, frames with their offload state, flow keys, drop reasons
