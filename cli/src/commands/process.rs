//! Front-ends of the long-running processes: options in, configuration out.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use tracing_subscriber::EnvFilter;
use weft_controller::{ApiTcp, PushSecurity, pki};
use weft_program::message::Rung;

use crate::args::RungName;

/// `weft controller`.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Directory that `weft pki init` made
    #[arg(long, value_name = "DIR", default_value = "/etc/weft/pki")]
    pub pki: PathBuf,
    /// File of the store
    #[arg(long, value_name = "FILE", default_value = "/var/lib/weft/store.redb")]
    pub store: PathBuf,
    /// Where agents connect (gRPC with mutual TLS)
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:7443")]
    pub listen: SocketAddr,
    /// Unix socket of the API, for the user that runs the controller
    #[arg(long, value_name = "PATH", default_value = "/run/weft/api.sock")]
    pub api_socket: PathBuf,
    /// Offer the API on TCP as well (TLS and the bearer token in DIR/api.token)
    #[arg(long, value_name = "ADDR:PORT")]
    pub api_listen: Option<SocketAddr>,
    /// No TLS towards agents; on loopback only
    #[arg(long)]
    pub insecure: bool,
}

/// `weft agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The controller, https://HOST:PORT
    #[arg(long, value_name = "URL", env = "WEFT_CONTROLLER")]
    pub controller: String,
    /// Directory that `weft host enroll` made for this host
    #[arg(long, value_name = "DIR", default_value = "/etc/weft/host")]
    pub pki: PathBuf,
    /// This host's underlay address, the VTEP
    #[arg(long, value_name = "ADDR")]
    pub address: IpAddr,
    /// UDP port of VXLAN
    #[arg(long, value_name = "PORT", default_value_t = weft_api::object::UDP_PORT_DEFAULT)]
    pub udp_port: u16,
    /// The Host object's name [default: the one in the certificate]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Where the last program is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    pub state_dir: PathBuf,
    /// The vswitch's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/weft/vswitch.sock")]
    pub control: PathBuf,
    /// Worker threads of the vswitch; 0 lets it choose
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub workers: usize,
    /// Microseconds for which an idle worker looks for frames before it sleeps [default: 50, or 0 without a spare CPU]
    #[arg(long, value_name = "N", env = "WEFT_SPIN_US")]
    pub spin_us: Option<u32>,
    /// Use no better rung of the capability ladder than this
    #[arg(long, value_enum)]
    pub rung: Option<RungName>,
    /// No TLS towards the controller; on loopback only
    #[arg(long, requires = "host")]
    pub insecure: bool,
}

/// `weft vswitch`.
#[derive(Debug, Args)]
pub struct VswitchArgs {
    /// Where its agent finds it
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,
    /// Worker threads; 0 leaves one processor free
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub workers: usize,
    /// Microseconds for which an idle worker looks for frames before it sleeps [default: 50, or 0 without a spare CPU]
    #[arg(long, value_name = "N")]
    pub spin_us: Option<u32>,
}

impl From<RungName> for Rung {
    fn from(name: RungName) -> Self {
        match name {
            RungName::Single => Self::Single,
            RungName::Batch => Self::Batch,
            RungName::Segment => Self::Segment,
            RungName::Tunnel => Self::Tunnel,
        }
    }
}

/// `weft controller`.
pub fn controller(args: ControllerArgs) -> Result<()> {
    log_to_stderr();
    let file = |name: &str| args.pki.join(name);
    let push_security = if args.insecure {
        PushSecurity::Insecure
    } else {
        PushSecurity::Tls {
            certificate: file(pki::file::CONTROLLER),
            key: file(pki::file::CONTROLLER_KEY),
            ca: file(pki::file::CA),
        }
    };
    let api_tcp = args.api_listen.map(|listen| ApiTcp {
        listen,
        certificate: file(pki::file::CONTROLLER),
        key: file(pki::file::CONTROLLER_KEY),
        token_file: file(pki::file::TOKEN),
    });
    let config = weft_controller::Config {
        store: args.store,
        api_socket: args.api_socket,
        api_tcp,
        push_listen: args.listen,
        push_security,
        build: env!("CARGO_PKG_VERSION").into(),
    };
    Ok(weft_controller::run(config)?)
}

/// `weft agent`.
pub fn agent(args: AgentArgs) -> Result<()> {
    log_to_stderr();
    let security = if args.insecure {
        weft_agent::Security::Insecure
    } else {
        weft_agent::Security::Tls {
            ca: args.pki.join(pki::file::CA),
            cert: args.pki.join(pki::file::HOST),
            key: args.pki.join(pki::file::HOST_KEY),
            server_name: Some(pki::CONTROLLER_NAME.into()),
        }
    };
    let host = match &args.host {
        // Without TLS there is no certificate; clap wants a name then.
        Some(host) if args.insecure => host.clone(),
        given => identity(&args.pki, given.as_deref(), weft_sys::clock::wall())?,
    };
    let config = weft_agent::Config {
        host,
        controller: args.controller,
        security,
        state_dir: args.state_dir,
        control: args.control,
        underlay: args.address,
        udp_port: args.udp_port,
        workers: args.workers,
        spin_us: args.spin_us,
        rung: args.rung.map(Rung::from),
        vswitch: Vec::new(),
    };
    Ok(weft_agent::run(config)?)
}

/// `weft vswitch`.
pub fn vswitch(args: VswitchArgs) -> Result<()> {
    log_to_stderr();
    let spin = args.spin_us.map(|us| Duration::from_micros(us.into()));
    Ok(weft_vswitch::run(weft_vswitch::Config { control: args.control, workers: args.workers, spin })?)
}

/// Who the certificate says this host is; another name given besides is refused, since the controller goes by the
/// certificate. One that has ended is no reason not to start: the host goes on by the program it remembers.
fn identity(dir: &Path, given: Option<&str>, now: SystemTime) -> Result<String> {
    let path = dir.join(pki::file::HOST);
    let certificates = pki::describe(dir).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(certificate) = certificates.into_iter().find(|c| c.path == path) else {
        bail!("no host's certificate at {}: make it with `weft host enroll NAME --out DIR`", path.display());
    };
    let Some(host) = certificate.names.iter().find_map(|name| name.strip_prefix(pki::HOST_URI_PREFIX)) else {
        bail!("{} names no host: make another with `weft host enroll NAME --out DIR`", path.display());
    };
    if let Some(given) = given.filter(|given| *given != host) {
        let dir = dir.display();
        bail!(
            "the certificate in {dir} is of host `{host}`, not `{given}`: leave out --host, or give that host's --pki"
        );
    }
    match certificate.days_left(now) {
        _ if certificate.not_after <= now => tracing::error!(
            "the certificate {} has ended: no controller takes it, make another with `weft host enroll {host}`",
            path.display()
        ),
        days if days < WARN_DAYS => tracing::warn!(
            "the certificate {} ends in {days} days: make another with `weft host enroll {host}`",
            path.display()
        ),
        _ => {}
    }
    Ok(host.to_owned())
}

/// A certificate that ends sooner is worth a warning.
const WARN_DAYS: u64 = 30;

/// Logs go where a supervisor collects them; WEFT_LOG chooses what, as in `WEFT_LOG=debug`.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::pki::{enroll_at, init_at};
    use weft_sys::clock::wall;

    #[test]
    fn the_certificate_says_who_the_host_is_and_another_name_is_refused() {
        let fabric = tempfile::tempdir().unwrap();
        init_at(fabric.path(), &["127.0.0.1".into()]).unwrap();
        let dir = fabric.path().join("h2");
        enroll_at(fabric.path(), "h2", &dir).unwrap();
        assert_eq!(identity(&dir, None, wall()).unwrap(), "h2");
        assert_eq!(identity(&dir, Some("h2"), wall()).unwrap(), "h2");
        let error = identity(&dir, Some("h1"), wall()).unwrap_err().to_string();
        assert!(error.contains("is of host `h2`, not `h1`"), "{error}");
        let later = wall() + pki::LEAF_VALIDITY * 2;
        assert_eq!(identity(&dir, None, later).unwrap(), "h2", "a host goes on by what it remembers");
    }
}
