//! What an agent is started with.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use weft_program::message::Rung;

/// Everything that an agent is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Host object's name.
    pub host: String,
    /// The controller: `https://HOST:PORT`, or `http://127.0.0.1:PORT` with [`Security::Insecure`].
    pub controller: String,
    /// How the session is protected.
    pub security: Security,
    /// Where the last program and other state is kept.
    pub state_dir: PathBuf,
    /// The vswitch's control socket.
    pub control: PathBuf,
    /// The host's own end of the tunnels.
    pub underlay: IpAddr,
    /// Where VXLAN is received.
    pub udp_port: u16,
    /// The vswitch's worker threads; 0 lets it choose.
    pub workers: usize,
    /// Microseconds for which an idle worker looks for frames before it sleeps; `None` lets the vswitch choose.
    pub spin_us: Option<u32>,
    /// The best rung of the capability ladder that may be used; `None` for the best there is.
    pub rung: Option<Rung>,
    /// The program and first arguments that start a vswitch; empty for `weft vswitch` of this very executable.
    pub vswitch: Vec<OsString>,
}

/// How the session to the controller is protected.
#[derive(Debug, Clone)]
pub enum Security {
    /// Mutual TLS: who the host is stands in its certificate.
    Tls {
        /// Certificates (PEM) that the controller's is checked against.
        ca: PathBuf,
        /// The host's certificate (PEM).
        cert: PathBuf,
        /// Its key (PEM).
        key: PathBuf,
        /// The name in the controller's certificate, when it is not that of the URI.
        server_name: Option<String>,
    },
    /// None: on loopback only, for tests.
    Insecure,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URI is none.
    #[error("`{uri}` is no controller address: {why}; write https://HOST:PORT")]
    Uri {
        /// What was given.
        uri: String,
        /// What is wrong.
        why: String,
    },
    /// Plaintext over a network.
    #[error(
        "a session without TLS is for loopback only, and `{0}` is not: give the CA, the host's certificate and its key"
    )]
    PlaintextOffLoopback(String),
    /// TLS wanted, http given.
    #[error("`{0}` is not https, and a certificate was given: write https://HOST:PORT")]
    NotHttps(String),
    /// A certificate or key cannot be read.
    #[error("{path}: {source}: make it with `weft host enroll`, and let the agent's user read it")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel does not take the control socket's path.
    #[error(
        "{path}: {len} bytes are too long for a socket's path (at most {SOCKET_PATH_MAX}): choose a shorter --control"
    )]
    Control {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The TLS library refuses them.
    #[error("certificate, key or CA cannot be used: {0}")]
    Tls(String),
}

/// `sun_path` of sockaddr_un, without its final zero.
const SOCKET_PATH_MAX: usize = 107;

impl Config {
    /// Refuses a control socket that no vswitch could open.
    pub fn check_control(&self) -> Result<(), ConfigError> {
        let len = self.control.as_os_str().len();
        if len > SOCKET_PATH_MAX {
            return Err(ConfigError::Control { path: self.control.clone(), len });
        }
        Ok(())
    }

    /// Where the last program is remembered.
    pub fn program_file(&self) -> PathBuf {
        self.state_dir.join("program")
    }

    /// The controller's address, checked against what protects the session.
    pub fn controller_uri(&self) -> Result<tonic::transport::Uri, ConfigError> {
        let text = &self.controller;
        let bad = |why: String| ConfigError::Uri { uri: text.clone(), why };
        let uri: tonic::transport::Uri = text.parse().map_err(|e| bad(format!("{e}")))?;
        let host = uri.host().ok_or_else(|| bad("it has no host".into()))?;
        match (&self.security, uri.scheme_str()) {
            (Security::Tls { .. }, Some("https")) => Ok(uri),
            (Security::Tls { .. }, _) => Err(ConfigError::NotHttps(text.clone())),
            (Security::Insecure, Some("http")) if is_loopback(host) => Ok(uri),
            (Security::Insecure, _) => Err(ConfigError::PlaintextOffLoopback(text.clone())),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(controller: &str, security: Security) -> Config {
        Config {
            host: "h1".into(),
            controller: controller.into(),
            security,
            state_dir: PathBuf::new(),
            control: PathBuf::new(),
            underlay: IpAddr::from([192, 0, 2, 1]),
            udp_port: 4789,
            workers: 1,
            spin_us: None,
            rung: None,
            vswitch: Vec::new(),
        }
    }

    fn tls() -> Security {
        let path = PathBuf::from("x");
        Security::Tls { ca: path.clone(), cert: path.clone(), key: path, server_name: None }
    }

    #[test]
    fn plaintext_is_for_loopback_only() {
        for good in ["http://127.0.0.1:7001", "http://[::1]:7001"] {
            config(good, Security::Insecure).controller_uri().unwrap();
        }
        for bad in ["http://192.0.2.1:7001", "http://localhost.example:1", "https://127.0.0.1:7001"] {
            assert!(config(bad, Security::Insecure).controller_uri().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_control_socket_that_no_kernel_takes_is_refused_at_start() {
        let mut config = config("http://127.0.0.1:1", Security::Insecure);
        config.control = "x".repeat(SOCKET_PATH_MAX).into();
        config.check_control().unwrap();
        config.control = "x".repeat(SOCKET_PATH_MAX + 1).into();
        assert!(config.check_control().unwrap_err().to_string().ends_with("choose a shorter --control"));
    }

    #[test]
    fn tls_wants_https() {
        config("https://controller.example:7001", tls()).controller_uri().unwrap();
        assert!(matches!(config("http://127.0.0.1:1", tls()).controller_uri(), Err(ConfigError::NotHttps(_))));
        assert!(matches!(config("not a uri", tls()).controller_uri(), Err(ConfigError::Uri { .. })));
    }
}
