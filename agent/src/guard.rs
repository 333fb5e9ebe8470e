//! While a device of somebody else is a port, the host's own IPv6 and ARP are silent on it; afterwards all is as before.
//!
//! What was before is written down before it is changed, so that a successor of a killed agent can put it back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_sys::netlink::Netlink;

use crate::cache::write_atomically;

/// The devices that are silenced.
#[derive(Debug)]
pub struct Guard {
    file: PathBuf,
    before: BTreeMap<String, Before>,
}

/// How a device was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    arp: bool,
    /// `None` where the kernel has no IPv6.
    disable_ipv6: Option<String>,
}

impl Guard {
    /// Takes over what an earlier agent wrote down. What cannot be read cannot be put back: that is said, and no reason
    /// to stop.
    pub fn load(file: PathBuf) -> Self {
        let before = match std::fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            read => read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)).unwrap_or_else(|error| {
                tracing::warn!(
                    "{}: {error}; devices that an earlier agent silenced stay so: `ip link set DEV arp on`, `sysctl net.ipv6.conf.DEV.disable_ipv6=0`",
                    file.display()
                );
                BTreeMap::new()
            }),
        };
        Self { file, before }
    }

    /// Silences the host on a device.
    pub fn silence(&mut self, ifname: &str) -> Result<(), String> {
        let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
        if !self.before.contains_key(ifname) {
            let link = netlink.link(ifname).map_err(|e| e.to_string())?;
            let link = link.ok_or_else(|| format!("there is no network device {ifname}"))?;
            let disable_ipv6 = std::fs::read_to_string(ipv6_switch(ifname)).ok().map(|text| text.trim().to_owned());
            self.before.insert(ifname.to_owned(), Before { arp: link.arp, disable_ipv6 });
            self.write_down().map_err(|e| format!("{}: {e}", self.file.display()))?;
        }
        netlink.set_arp(ifname, false).map_err(|e| e.to_string())?;
        if self.before[ifname].disable_ipv6.is_some() {
            let path = ipv6_switch(ifname);
            std::fs::write(&path, "1").map_err(|e| format!("{path}: {e}: mount /proc writable for the agent"))?;
        }
        Ok(())
    }

    /// Puts every silenced device back that is not among `held`.
    pub fn release_others(&mut self, held: &BTreeSet<&str>) {
        let done: Vec<String> = self.before.keys().filter(|name| !held.contains(name.as_str())).cloned().collect();
        if done.is_empty() {
            return;
        }
        for ifname in done {
            if let Some(before) = self.before.remove(&ifname) {
                put_back(&ifname, &before);
            }
        }
        if let Err(error) = self.write_down() {
            tracing::warn!("{}: {error}", self.file.display());
        }
    }

    fn write_down(&self) -> io::Result<()> {
        if self.before.is_empty() {
            return match std::fs::remove_file(&self.file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        }
        write_atomically(&self.file, &serde_json::to_vec(&self.before)?)
    }
}

/// A device that is gone needs nothing; for one that refuses, the log is all that is left.
fn put_back(ifname: &str, before: &Before) {
    let exists = Netlink::open().and_then(|mut netlink| netlink.link(ifname));
    if !matches!(exists, Ok(Some(_))) {
        return;
    }
    if let Err(error) = Netlink::open().and_then(|mut netlink| netlink.set_arp(ifname, before.arp)) {
        tracing::warn!("{error}");
    }
    if let Some(value) = &before.disable_ipv6
        && let Err(error) = std::fs::write(ipv6_switch(ifname), value)
    {
        tracing::warn!("{}: {error}", ipv6_switch(ifname));
    }
}

fn ipv6_switch(ifname: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use weft_sys::{netns, process};

    #[test]
    fn a_device_is_silent_while_held_and_as_before_afterwards_even_by_a_successor() {
        if !process::holds(process::Capability::SysAdmin) {
            eprintln!("SKIPPED: needs CAP_SYS_ADMIN");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netdevs.json");
        let host = netns::create().unwrap();
        netns::in_namespace(host.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth("va", "vb").unwrap();
            let mut state =
                || (netlink.link("va").unwrap().unwrap().arp, std::fs::read_to_string(ipv6_switch("va")).unwrap());
            let before = state();
            assert!(before.0);
            let mut guard = Guard::load(file.clone());
            guard.silence("va").unwrap();
            guard.release_others(&BTreeSet::from(["va"]));
            assert_eq!(state(), (false, "1\n".into()));
            drop(guard);
            let mut successor = Guard::load(file.clone());
            successor.silence("va").unwrap();
            successor.release_others(&BTreeSet::new());
            assert_eq!(state(), before);
            assert!(!file.exists());
        })
        .unwrap();
    }

    #[test]
    fn a_damaged_record_is_no_reason_to_stop_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netdevs.json");
        std::fs::write(&file, "{\"va\": ").unwrap();
        let mut guard = Guard::load(file.clone());
        assert!(guard.before.is_empty());
        guard.before.insert("vb".into(), Before { arp: true, disable_ipv6: None });
        guard.write_down().unwrap();
        assert_eq!(Guard::load(file).before, guard.before);
    }
}
