//! The vswitch as a whole: in memory, over its control socket, and against the kernel.

mod common;
mod control_socket;
mod kernel_vtep;
mod probes;
mod two_vswitches;
