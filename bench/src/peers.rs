//! The peers' scripts, carried in the program and unpacked while it runs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

const FILES: &[(&str, &str)] = &[
    ("kernel-local.sh", include_str!("../peers/kernel-local.sh")),
    ("kernel-vxlan.sh", include_str!("../peers/kernel-vxlan.sh")),
    ("lib.sh", include_str!("../peers/lib.sh")),
    ("ovs-local.sh", include_str!("../peers/ovs-local.sh")),
    ("ovs-local-tso.sh", include_str!("../peers/ovs-local-tso.sh")),
    ("ovs-vxlan.sh", include_str!("../peers/ovs-vxlan.sh")),
];

/// A folder with the scripts, until it is dropped.
#[derive(Debug)]
pub(crate) struct Scripts {
    folder: PathBuf,
}

impl Scripts {
    pub(crate) fn unpack() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("weft-bench-peers-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let scripts = Self { folder };
        for (name, text) in FILES {
            std::fs::write(scripts.folder.join(name), text)?;
        }
        Ok(scripts)
    }

    /// `up` or `down` of a peer.
    pub(crate) fn command(&self, script: &str, verb: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.folder.join(format!("{script}.sh"))).arg(verb);
        command
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("left behind: {}: {error}", self.folder.display());
        }
    }
}
