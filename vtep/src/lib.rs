//! VXLAN endpoint, without I/O: encap, decap, remotes, coalescing, MTU
