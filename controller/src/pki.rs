//! The fabric's certificates: one authority, one certificate for the controller, one per host.
//!
//! A host is who its certificate's URI names, `weft://host/NAME`, and nobody else; what it says of itself counts for
//! nothing. Nothing that exists is overwritten: a second authority by mistake would lock every host out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use weft_api::object::Name;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name that every controller's certificate has, so that an agent can verify it whatever address it dials.
pub const CONTROLLER_NAME: &str = "weft-controller";
/// What a host's URI begins with.
pub const HOST_URI_PREFIX: &str = "weft://host/";
/// How long an authority is valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * YEAR);
/// How long a certificate of the controller or a host is valid.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(2 * YEAR);

const YEAR: u64 = 365 * 24 * 3600;
/// Clocks differ: a new certificate is valid from a little before now.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// Names of the files of an authority's directory.
pub mod file {
    /// The authority's certificate.
    pub const CA: &str = "ca.pem";
    /// The authority's key: only `init` and `enroll` need it.
    pub const CA_KEY: &str = "ca.key";
    /// The controller's certificate.
    pub const CONTROLLER: &str = "controller.pem";
    /// The controller's key.
    pub const CONTROLLER_KEY: &str = "controller.key";
    /// The bearer token of the API.
    pub const TOKEN: &str = "api.token";
    /// A host's certificate.
    pub const HOST: &str = "host.pem";
    /// A host's key.
    pub const HOST_KEY: &str = "host.key";
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is there already.
    #[error("{0} exists and is not overwritten: remove it if it is not needed, or use another directory")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No authority there.
    #[error("{0} has no fabric authority: run `weft pki init` with that directory first")]
    NoAuthority(PathBuf),
    /// A name that cannot be in a certificate.
    #[error("`{0}` is neither a DNS name nor an IP address: give the names that agents and clients dial")]
    San(String),
    /// A certificate that cannot be read.
    #[error("{path} is not a certificate: {why}")]
    NotACertificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The library cannot make it.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The file.
    pub path: PathBuf,
    /// Whom it names: DNS names, addresses, URIs; the common name of an authority.
    pub names: Vec<String>,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Described {
    /// Days until it ends, zero when it has.
    pub fn days_left(&self, now: SystemTime) -> u64 {
        self.not_after.duration_since(now).map_or(0, |left| left.as_secs() / (24 * 3600))
    }
}

/// Makes an authority, a certificate for the controller with the given names, and a token for the API.
pub fn init(dir: &Path, sans: &[String], random: [u8; 32], now: SystemTime) -> Result<Vec<Described>, PkiError> {
    make_dir(dir)?;
    let names = [file::CA, file::CA_KEY, file::CONTROLLER, file::CONTROLLER_KEY, file::TOKEN];
    refuse_existing(dir, &names)?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let (id, token) = hex.split_at(16);

    let mut params = params(&format!("Weft fabric {id}"), now, CA_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let ca = params.self_signed(&key)?;
    let key_pem = key.serialize_pem();
    let issuer = Issuer::new(params, key);
    let mut san = vec![san(CONTROLLER_NAME)?, san("localhost")?, san("127.0.0.1")?, san("::1")?];
    for name in sans {
        san.push(self::san(name)?);
    }
    let (controller, controller_key) = leaf(&issuer, CONTROLLER_NAME, san, ExtendedKeyUsagePurpose::ServerAuth, now)?;

    write_new(&dir.join(file::CA_KEY), &key_pem)?;
    write_new(&dir.join(file::CA), &ca.pem())?;
    write_new(&dir.join(file::CONTROLLER_KEY), &controller_key)?;
    write_new(&dir.join(file::CONTROLLER), &controller)?;
    write_new(&dir.join(file::TOKEN), &format!("{token}\n"))?;
    describe(dir)
}

/// Makes a certificate for a host, signed by the authority in `dir`, and puts all that its agent needs in `out`.
pub fn enroll(dir: &Path, host: &Name, out: &Path, now: SystemTime) -> Result<Vec<Described>, PkiError> {
    if !dir.join(file::CA_KEY).exists() {
        return Err(PkiError::NoAuthority(dir.to_owned()));
    }
    let ca = read(&dir.join(file::CA))?;
    let key = KeyPair::from_pem(&read(&dir.join(file::CA_KEY))?)?;
    let issuer = Issuer::from_ca_cert_pem(&ca, key)?;
    make_dir(out)?;
    refuse_existing(out, &[file::HOST, file::HOST_KEY])?;
    let uri = format!("{HOST_URI_PREFIX}{host}");
    let san = vec![SanType::URI(uri.as_str().try_into()?)];
    let (certificate, key) = leaf(&issuer, host.as_str(), san, ExtendedKeyUsagePurpose::ClientAuth, now)?;
    write_new(&out.join(file::HOST_KEY), &key)?;
    write_new(&out.join(file::HOST), &certificate)?;
    if !out.join(file::CA).exists() {
        write_new(&out.join(file::CA), &ca)?;
    }
    describe(out)
}

/// All certificates of a directory, by file name.
pub fn describe(dir: &Path) -> Result<Vec<Described>, PkiError> {
    let names = [file::CA, file::CONTROLLER, file::HOST];
    names.iter().map(|name| dir.join(name)).filter(|path| path.exists()).map(|path| describe_file(&path)).collect()
}

/// The host that a certificate names, or why it names none. The signature is the TLS library's to judge.
pub fn host_of(certificate: &[u8]) -> Result<Name, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| format!("it cannot be read: {e}"))?;
    let uris: Vec<&str> =
        general_names(&certificate).filter_map(|n| if let GeneralName::URI(u) = n { Some(*u) } else { None }).collect();
    let mut hosts = uris.iter().filter_map(|uri| uri.strip_prefix(HOST_URI_PREFIX));
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Name::new(host).map_err(|e| e.to_string()),
        (None, _) => Err(format!("it has no URI {HOST_URI_PREFIX}NAME")),
        (Some(_), Some(_)) => Err("it names more than one host".into()),
    }
}

fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    san: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    now: SystemTime,
) -> Result<(String, String), PkiError> {
    let mut params = params(name, now, LEAF_VALIDITY);
    params.subject_alt_names = san;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn params(common_name: &str, now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + validity).into();
    params
}

fn san(name: &str) -> Result<SanType, PkiError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if name.is_empty() || !plain {
        return Err(PkiError::San(name.to_owned()));
    }
    Ok(SanType::DnsName(name.try_into()?))
}

fn describe_file(path: &Path) -> Result<Described, PkiError> {
    let bad = |why: String| PkiError::NotACertificate { path: path.to_owned(), why };
    let pem = read(path)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let certificate = pem.parse_x509().map_err(|e| bad(e.to_string()))?;
    let mut names: Vec<String> = general_names(&certificate).map(general_name).collect();
    if names.is_empty() {
        names.push(certificate.subject().to_string());
    }
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Described { path: path.to_owned(), names, not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) })
}

fn general_names<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| &extension.value.general_names)
}

fn general_name(name: &GeneralName<'_>) -> String {
    let ip = |octets: &[u8]| {
        let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).map(|ip| ip.to_string())
    };
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
        GeneralName::IPAddress(octets) => ip(octets).unwrap_or_else(|_| format!("{octets:?}")),
        other => format!("{other:?}"),
    }
}

fn make_dir(dir: &Path) -> Result<(), PkiError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| PkiError::File { path: dir.to_owned(), source })
}

fn refuse_existing(dir: &Path, names: &[&str]) -> Result<(), PkiError> {
    match names.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
        Some(path) => Err(PkiError::Exists(path)),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, PkiError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|source| PkiError::File { path: path.to_owned(), source })?;
    Ok(text)
}

fn write_new(path: &Path, text: &str) -> Result<(), PkiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::File { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn der(path: &Path) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(read(path).unwrap().as_bytes()).unwrap().1.contents
    }

    #[test]
    fn a_host_is_who_its_certificate_names() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, h1) = (dir.path().join("pki"), dir.path().join("h1"));
        let now = SystemTime::now();
        let made = init(&ca, &["ctl.example".into(), "192.0.2.9".into()], [7; 32], now).unwrap();
        assert_eq!(made.len(), 2);
        assert!(made[1].names.contains(&"ctl.example".to_owned()) && made[1].names.contains(&"192.0.2.9".to_owned()));
        assert_eq!(made[1].days_left(now), 729);
        let enrolled = enroll(&ca, &"h1".parse().unwrap(), &h1, now).unwrap();
        assert_eq!(enrolled[1].names, ["weft://host/h1"]);
        assert_eq!(host_of(&der(&h1.join(file::HOST))).unwrap().as_str(), "h1");
        assert!(host_of(&der(&ca.join(file::CONTROLLER))).unwrap_err().contains("has no URI"));
        for path in [ca.join(file::CA_KEY), ca.join(file::TOKEN), h1.join(file::HOST_KEY)] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_errors_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, now) = (dir.path().join("pki"), SystemTime::now());
        let host: Name = "h1".parse().unwrap();
        let missing = enroll(&ca, &host, dir.path(), now).unwrap_err();
        assert!(missing.to_string().contains("weft pki init"), "{missing}");
        assert!(init(&ca, &["no good".into()], [7; 32], now).unwrap_err().to_string().contains("DNS name"));
        init(&ca, &[], [7; 32], now).unwrap();
        assert!(matches!(init(&ca, &[], [8; 32], now), Err(PkiError::Exists(_))));
        enroll(&ca, &host, dir.path(), now).unwrap();
        assert!(matches!(enroll(&ca, &host, dir.path(), now), Err(PkiError::Exists(_))));
        assert_eq!(host_of(b"rubbish").unwrap_err().split(':').next(), Some("it cannot be read"));
    }
}
