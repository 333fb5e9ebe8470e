//! `weft pki init` and `weft host enroll`: the fabric's certificates.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use weft_api::object::Name;
use weft_controller::pki::{self, Described};
use weft_sys::clock::wall;

use crate::output::Printer;

/// `weft pki init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to put the authority's and the controller's files
    #[arg(long, default_value = "/etc/weft/pki")]
    pub dir: PathBuf,
    /// DNS name or address that agents and users reach the controller by; may be given several times
    #[arg(long, value_name = "NAME", required = true)]
    pub controller: Vec<String>,
}

/// `weft host enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The Host object's name
    pub host: String,
    /// The authority's directory
    #[arg(long, default_value = "/etc/weft/pki")]
    pub pki: PathBuf,
    /// Where to put what the host's agent needs; copy it to the host
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// A certificate, as it is printed.
#[derive(Debug, Serialize)]
struct Certificate {
    file: PathBuf,
    names: Vec<String>,
    days_left: u64,
}

/// `weft pki init`.
pub fn init(args: &InitArgs, printer: &Printer) -> Result<()> {
    print(&init_at(&args.dir, &args.controller)?, printer)?;
    printer.say(&format!(
        "\n{0} holds the keys of the fabric: keep it on the controller's host, readable by its user only.\n\
         Next: `weft controller --pki {0}`, and `weft host enroll NAME --pki {0} --out NAME/` for each host.",
        args.dir.display()
    ))
}

/// `weft host enroll`.
pub fn enroll(args: &EnrollArgs, printer: &Printer) -> Result<()> {
    print(&enroll_at(&args.pki, &args.host, &args.out)?, printer)?;
    printer.say(&format!(
        "\nCopy {} to host `{}` and start `weft agent --pki DIR --controller https://... --address ...` there.",
        args.out.display(),
        args.host
    ))
}

/// Makes the authority.
pub fn init_at(dir: &Path, controller: &[String]) -> Result<Vec<Described>> {
    Ok(pki::init(dir, controller, super::random()?, wall())?)
}

/// Makes a host's certificate.
pub fn enroll_at(dir: &Path, host: &str, out: &Path) -> Result<Vec<Described>> {
    let host = Name::new(host).with_context(|| format!("`{host}` cannot be a host's name"))?;
    Ok(pki::enroll(dir, &host, out, wall())?)
}

fn print(described: &[Described], printer: &Printer) -> Result<()> {
    let now = wall();
    let certificate =
        |d: &Described| Certificate { file: d.path.clone(), names: d.names.clone(), days_left: d.days_left(now) };
    let list: Vec<Certificate> = described.iter().map(certificate).collect();
    printer.print(&list, |p| {
        let row = |c: &Certificate| [c.file.display().to_string(), c.names.join(", "), format!("{} days", c.days_left)];
        p.table(&["CERTIFICATE", "NAMES", "VALID FOR"], list.iter().map(row))
    })
}
