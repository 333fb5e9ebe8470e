//! Tests that need what a machine may lack. They say so; where `WEFT_NO_SKIP` is set (CI), lacking it fails.

/// Says that a test did not run. Returns `false`, so that a guard reads `return skip(...)`-like.
///
/// # Panics
/// When `WEFT_NO_SKIP` is set.
pub fn skip(why: &str) -> bool {
    assert!(std::env::var_os("WEFT_NO_SKIP").is_none(), "may not be skipped here, but {why}");
    println!("SKIPPED: {why}");
    false
}

/// Whether a suite that builds namespaces can run.
pub fn may_run() -> bool {
    let root =
        std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t0")));
    if !root {
        return skip("network namespaces that `ip netns` shows need root");
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return skip("/dev/net/tun is missing: modprobe tun");
    }
    true
}
