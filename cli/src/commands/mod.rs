//! What each subcommand does. Commands that talk to a controller run on a small runtime of their own; processes bring
//! theirs.

pub mod lab;
pub mod live;
pub mod objects;
pub mod pki;
pub mod process;
pub mod reports;

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, Command, Global, HostCommand, PkiCommand};
use crate::client::Client;
use crate::output::Printer;

/// Runs a subcommand.
pub fn run(cli: Cli) -> Result<()> {
    let global = &cli.global;
    let printer = Printer::new(global);
    match cli.command {
        Command::Apply(args) => objects::apply(&open(global)?, &printer, &args),
        Command::Get(args) => objects::get(&open(global)?, &printer, &args),
        Command::Delete(args) => objects::delete(&open(global)?, &printer, &args),
        Command::Status => reports::status(&open(global)?, &printer),
        Command::Ports(args) => reports::ports(&open(global)?, &printer, args.host.as_deref()),
        Command::Flows(args) => reports::flows(&open(global)?, &printer, &args),
        Command::Fdb(args) => reports::fdb(&open(global)?, &printer, &args.host),
        Command::Drops(args) => reports::drops(&open(global)?, &printer, args.host.as_deref()),
        Command::Lab(command) => lab::run(command, global, &printer),
        Command::Pki(PkiCommand::Init(args)) => pki::init(&args, &printer),
        Command::Host(HostCommand::Enroll(args)) => pki::enroll(&args, &printer),
        Command::Controller(args) => process::controller(args),
        Command::Agent(args) => process::agent(args),
        Command::Vswitch(args) => process::vswitch(args),
        Command::Bench(args) => weft_bench::run(&args, &["bench"]),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
            printer.line(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

fn open(global: &Global) -> Result<Client> {
    Client::open(global)
}

/// Fresh randomness; read here, at the edge, and handed on as an argument.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// Runs a conversation with the controller to its end.
fn block_on<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(conversation)
}
