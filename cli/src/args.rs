//! The command line, as clap sees it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use weft_api::object::Kind;

const EXAMPLES: &str = "\
Try it on this machine, no configuration needed:
  weft lab run topologies/two-hosts.yaml     build a lab, check who reaches whom, take it down
  weft lab up topologies/two-hosts.yaml      build it and leave it running
  weft lab exec a -- ping -c 3 10.9.0.2      run a command in a guest
  weft status                                how hosts and ports stand
  weft flows h1                              rules, their owners and counters
  weft drops                                 what was dropped, where and why
  weft lab down

Manage a fabric:
  weft apply -f fabric.yaml --wait           put objects, wait until every host has them in force
  weft get port --tenant red -o yaml         print objects as they would be applied
  weft delete port a --tenant red

Exit codes:
  0  done
  1  failed; the controller, too, ends here when it or a host could not do it
  2  the command line was not understood
  3  apply --wait: hosts did not acknowledge, or ports did not go live, in time (they are named)
  4  a lab's expectation was not met
  5  no controller or lab could be reached
  6  the API refused: the object is wrong, missing, or was changed meanwhile
`lab exec` ends with the exit code of its command.";

/// Virtual networks over VXLAN: hosts, tenants, networks and ports from manifests.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_help = EXAMPLES, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// Which API and how to print.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every subcommand takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Talk to this lab [default: the only one running]
    #[arg(long, global = true, value_name = "NAME")]
    pub lab: Option<String>,
    /// Talk to this controller, unless --lab is given: unix:/run/weft/api.sock or https://HOST:PORT
    #[arg(long, global = true, value_name = "URL", env = "WEFT_API", hide_env_values = true)]
    pub api: Option<String>,
    /// File with the bearer token for https
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// File with the certificates (PEM) that the controller's certificate is checked against
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_CA", hide_env_values = true)]
    pub ca: Option<PathBuf>,
    /// How to print: table, json or yaml
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    #[arg(hide_possible_values = true)]
    pub output: Format,
    /// When to colour: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    #[arg(hide_possible_values = true)]
    pub color: Color,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put objects from a manifest
    Apply(ApplyArgs),
    /// Print objects
    Get(GetArgs),
    /// Delete objects
    Delete(DeleteArgs),
    /// Show how hosts, their programs and ports stand
    Status,
    /// Show the ports of a host, or of all hosts, with counters
    Ports(HostArg),
    /// Show the rules of a host with owners and counters
    Flows(FlowsArgs),
    /// Show where a host believes MAC addresses to be
    Fdb(OneHost),
    /// Show what was dropped and why, and whether the ledger balances
    Drops(HostArg),
    /// Build hosts and guests as network namespaces on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// Make the certificates of a fabric
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Manage the hosts of a fabric
    #[command(subcommand)]
    Host(HostCommand),
    /// Run the controller in the foreground
    Controller(crate::commands::process::ControllerArgs),
    /// Run a host's agent in the foreground
    Agent(crate::commands::process::AgentArgs),
    /// Run a host's vswitch in the foreground (the agent starts it)
    Vswitch(crate::commands::process::VswitchArgs),
    /// Measure Weft beside the kernel, Open vSwitch and a bare wire on this machine (root)
    Bench(weft_bench::Args),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `weft apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Manifest, YAML or JSON, several documents or a list; `-` reads standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// Wait until every host has it in force and no port is on its way, at most this long [default: 30s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Check it and say what would change, but change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
}

/// `weft get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// tenant, network, subnet, port or host
    #[arg(value_parser = KindParser, hide_possible_values = true)]
    pub kind: Kind,
    /// Only this one
    pub name: Option<String>,
    /// Only of this tenant
    #[arg(long, short)]
    pub tenant: Option<String>,
}

/// `weft delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// tenant, network, subnet, port or host
    #[arg(required_unless_present = "file", value_parser = KindParser, hide_possible_values = true)]
    pub kind: Option<Kind>,
    /// Which
    #[arg(required_unless_present = "file")]
    pub name: Option<String>,
    /// Of this tenant
    #[arg(long, short)]
    pub tenant: Option<String>,
    /// Delete everything that this manifest names
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["kind", "name"])]
    pub file: Option<PathBuf>,
}

/// An optional host.
#[derive(Debug, Args)]
pub struct HostArg {
    /// Which host [default: all]
    pub host: Option<String>,
}

/// A host.
#[derive(Debug, Args)]
pub struct OneHost {
    /// Which host
    pub host: String,
}

/// `weft flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Which host
    pub host: String,
    /// Only rules whose owner contains this
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<String>,
    /// Only rules that matched frames
    #[arg(long)]
    pub hit: bool,
}

/// `weft pki`.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make the fabric's certificate authority and the controller's certificate
    Init(crate::commands::pki::InitArgs),
}

/// `weft host`.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Make a host's certificate and key, to be copied to it
    Enroll(crate::commands::pki::EnrollArgs),
}

/// `weft lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Build a lab, check its expectations, take it down
    Run(UpArgs),
    /// Build a lab and leave it running
    Up(UpArgs),
    /// Check the expectations of a running lab
    Check(NameArg),
    /// Run a command in a guest, on a host, or in `ctl`
    Exec(ExecArgs),
    /// Restart a process of a lab: HOST agent, HOST vswitch, or controller
    Restart(RestartArgs),
    /// List the running labs
    Ls,
    /// Print the logs of a lab's processes
    Logs(LogsArgs),
    /// Take a lab down; one that another process builds or runs at the moment only by its name
    Down(NameArg),
    /// The process that holds a lab
    #[command(hide = true)]
    Keeper {
        /// Which of the two steps
        #[arg(value_enum)]
        step: KeeperStep,
    },
}

/// Steps of becoming a keeper: new namespaces hold for the next process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeeperStep {
    /// Make the namespaces
    Outer,
    /// Be the lab's init
    Init,
}

/// `weft lab up` and `run`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Topology file; `-` reads standard input
    pub file: PathBuf,
    /// Name of the lab [default: the topology's]
    #[arg(long)]
    pub name: Option<String>,
    /// Worker threads of every vswitch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Let vswitches use no better rung of the capability ladder than this
    #[arg(long, value_enum)]
    pub rung: Option<RungName>,
    /// Do not apply the topology's manifests
    #[arg(long)]
    pub no_apply: bool,
    /// How long hosts may take to have them in force, and ports to go live
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// A rung of the capability ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RungName {
    /// One datagram per system call
    Single,
    /// Many datagrams per system call
    Batch,
    /// Many segments per datagram
    Segment,
    /// Besides, TCP super-frames uncut (Linux 6.17)
    Tunnel,
}

impl RungName {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Segment => "segment",
            Self::Tunnel => "tunnel",
        }
    }
}

/// An optional lab.
#[derive(Debug, Args)]
pub struct NameArg {
    /// Which lab [default: the only one running]
    pub name: Option<String>,
}

/// `weft lab exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Guest, host, `ctl` or `fabric`
    pub place: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// `weft lab restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// A host, or `controller`
    pub host: String,
    /// Which of the host's processes
    #[arg(value_enum, required_unless_present = "host")]
    pub process: Option<HostProcess>,
    /// End the process with SIGKILL instead of asking it
    #[arg(long)]
    pub kill: bool,
}

/// A process of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostProcess {
    /// The agent, which leaves the vswitch alone
    Agent,
    /// The vswitch, which its agent starts anew
    Vswitch,
}

/// `weft lab logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Only of this host, or of `ctl`
    pub place: Option<String>,
    /// Lines from the end of each
    #[arg(short = 'n', long, default_value_t = 50)]
    pub lines: usize,
}

/// Reads a kind as a person types it, and lists the kinds for completion.
#[derive(Debug, Clone)]
struct KindParser;

impl TypedValueParser for KindParser {
    type Value = Kind;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&clap::Arg>, value: &OsStr) -> Result<Kind, clap::Error> {
        StringValueParser::new().try_map(|text| text.parse::<Kind>()).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Kind::ALL.into_iter().map(|kind| PossibleValue::new(kind.word()))))
    }
}

/// Reads `250ms`, `30s`, `2m`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time: write it such as 500ms, 30s or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1s", "1h", "1.5s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_command() {
        let cli = Cli::parse_from(["weft", "--lab", "two-hosts", "lab", "exec", "a", "--", "ping", "-o", "x"]);
        let Command::Lab(LabCommand::Exec(exec)) = cli.command else { panic!("{cli:?}") };
        assert_eq!(exec.command, ["ping", "-o", "x"]);
        assert_eq!(cli.global.lab.as_deref(), Some("two-hosts"));
    }

    #[test]
    fn an_unknown_kind_is_a_mistake_in_the_command_line() {
        for words in [&["weft", "get", "wombat"][..], &["weft", "delete", "wombat", "x"]] {
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("wombat"), "{error}");
        }
    }

    #[test]
    fn wait_takes_a_time_only_behind_an_equals_sign() {
        let wait = |args: &[&str]| match Cli::parse_from([&["weft", "apply", "-f", "x"], args].concat()).command {
            Command::Apply(apply) => apply.wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&["--wait"]), Some(Duration::from_secs(30)));
        assert_eq!(wait(&["--wait=5s"]), Some(Duration::from_secs(5)));
        assert_eq!(wait(&[]), None);
    }
}
