//! The vswitch's contract: rules, maps, operations, hello, codec, client of the control socket
