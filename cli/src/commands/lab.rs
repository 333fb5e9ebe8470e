//! `weft lab`: builds labs, checks them, enters them, takes them down.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use serde::Serialize;

use super::{block_on, live, objects, reports};
use crate::args::{ExecArgs, Global, KeeperStep, LabCommand, LogsArgs, NameArg, RestartArgs, UpArgs};
use crate::client::Client;
use crate::exit::{NotMet, Passed};
use crate::lab::check::{self, Drops, Outcome, World};
use crate::lab::registry::{self, Lab};
use crate::lab::start::{self, Builder};
use crate::lab::topology::Topology;
use crate::lab::wire::{Info, LogTail, PlaceKind, Probe, Reply, Request, Setup, Sightings};
use crate::lab::{exec, keeper};
use crate::output::{Printer, Tone, Toned, count};

/// Runs a subcommand of `weft lab`.
pub fn run(command: LabCommand, global: &Global, printer: &Printer) -> Result<()> {
    let lab = global.lab.as_deref();
    match command {
        LabCommand::Run(args) => run_and_end(printer, &args, lab),
        LabCommand::Up(args) => up(printer, &args, lab),
        LabCommand::Check(args) => check(printer, named(&args, lab)),
        LabCommand::Exec(args) => enter(&args, lab),
        LabCommand::Restart(args) => restart(printer, &args, lab),
        LabCommand::Ls => ls(printer),
        LabCommand::Logs(args) => logs(printer, &args, lab),
        LabCommand::Down(args) => down(printer, named(&args, lab)),
        LabCommand::Keeper { step: KeeperStep::Outer } => keeper::outer(),
        LabCommand::Keeper { step: KeeperStep::Init } => keeper::init(),
    }
}

fn named<'a>(args: &'a NameArg, lab: Option<&'a str>) -> Option<&'a str> {
    args.name.as_deref().or(lab)
}

fn run_and_end(printer: &Printer, args: &UpArgs, lab: Option<&str>) -> Result<()> {
    let topology = start::read(&args.file)?;
    printer.say(&format!("{}: {}", topology.name, topology.description))?;
    let begin = Instant::now();
    // The keeper ends together with this value, however this function is left.
    let (builder, mut running) = build(printer, args, topology.clone(), lab)?;
    let built = begin.elapsed();
    let outcomes = ask(&topology, &mut running)?;
    let checked = begin.elapsed();
    drop(builder);
    print_outcomes(printer, &outcomes)?;
    printer.say(&printer.paint(
        Tone::Quiet,
        &format!(
            "up in {:.1} s, checked in {:.1} s, nothing left behind",
            built.as_secs_f64(),
            (checked - built).as_secs_f64()
        ),
    ))?;
    verdict(&outcomes)?;
    printer.say(&next_steps(&topology, &args.file))
}

/// What to try with a topology that works.
fn next_steps(topology: &Topology, file: &Path) -> String {
    let weft = std::env::args().next().unwrap_or_else(|| "weft".into());
    let file = if file == Path::new("-") { "FILE".into() } else { file.display().to_string() };
    let cases = topology.expectations.iter().flat_map(|e| e.cases(topology));
    let ping = cases
        .filter(|c| c.reach)
        .map(|c| (format!("lab exec {} -- ping -c 3 {}", c.from, c.address), "in a guest"))
        .next();
    let host = topology.hosts.first().map(|h| h.name.as_str()).unwrap_or_default();
    let steps = [(format!("lab up {file}"), "build it and leave it running")].into_iter().chain(ping).chain([
        ("status".into(), "how hosts and ports stand"),
        (format!("flows {host}"), "every rule, the object behind it, its counters"),
        ("drops".into(), "what was dropped, where and why"),
        ("lab down".into(), "take it down"),
    ]);
    let steps: Vec<(String, &str)> = steps.map(|(words, what)| (format!("{weft} {words}"), what)).collect();
    let width = steps.iter().map(|(words, _)| words.len()).max().unwrap_or_default();
    let lines: Vec<String> = steps.iter().map(|(words, what)| format!("  {words:width$}   # {what}")).collect();
    format!("\nTry next:\n{}", lines.join("\n"))
}

fn up(printer: &Printer, args: &UpArgs, lab: Option<&str>) -> Result<()> {
    let topology = start::read(&args.file)?;
    let (builder, mut running) = build(printer, args, topology, lab)?;
    let info = running.info()?;
    running.publish(&info)?;
    let name = running.name.clone();
    builder.detach()?;
    printer.say(&format!(
        "lab `{name}` is up: `weft lab check`, `weft status`, `weft lab exec NAME -- CMD`, `weft lab down`"
    ))
}

/// A lab with its manifests in force.
fn build(printer: &Printer, args: &UpArgs, topology: Topology, lab: Option<&str>) -> Result<(Builder, Lab)> {
    let manifests = serde_json::to_string(&topology.manifests)?;
    let name = args.name.as_deref().or(lab).unwrap_or(&topology.name).to_owned();
    let setup = Setup { name, topology, workers: args.workers, rung: args.rung };
    let mut builder = Builder::start(setup)?;
    let mut running = builder.connect()?;
    let client = Client::of_lab(&running);
    let generation =
        if args.no_apply { None } else { Some(block_on(objects::put(&client, &manifests, false))?.generation) };
    // Only now: an agent whose Host object is not there yet is refused, and comes back later than it need.
    builder.start_agents()?;
    if let Some(generation) = generation {
        let waited = block_on(objects::await_all(&client, generation, args.wait));
        let not_live = waited.map_err(|error| with_logs(error, &mut running))?.not_live;
        if not_live.iter().any(|port| port.state == "failed") {
            return Err(with_logs(anyhow!(live::describe(&not_live, printer)), &mut running));
        }
        if !not_live.is_empty() {
            printer.say(&live::describe(&not_live, printer))?;
        }
    }
    Ok((builder, running))
}

/// An error with the ends of the lab's logs, which are gone when the lab is.
fn with_logs(error: anyhow::Error, lab: &mut Lab) -> anyhow::Error {
    let Ok(Reply::Logs(logs)) = lab.ask(&Request::Logs { place: None, lines: 8 }) else { return error };
    for log in logs.iter().filter(|l| !l.text.is_empty()) {
        eprintln!("--- {}/{} ---\n{}\n", log.place, log.name, log.text);
    }
    error
}

fn check(printer: &Printer, lab: Option<&str>) -> Result<()> {
    let mut lab = registry::connect(lab)?;
    let topology = lab.info()?.topology;
    let outcomes = ask(&topology, &mut lab)?;
    print_outcomes(printer, &outcomes)?;
    verdict(&outcomes)
}

fn ask(topology: &Topology, lab: &mut Lab) -> Result<Vec<Outcome>> {
    let client = Client::of_lab(lab);
    check::check(topology, &mut Running { lab, client })
}

fn print_outcomes(printer: &Printer, outcomes: &[Outcome]) -> Result<()> {
    let met = outcomes.iter().all(|o| o.met);
    printer.print(&outcomes, |p| {
        let tone = if met { Tone::Good } else { Tone::Bad };
        format!("{}\n\n{}", check::table(outcomes, p), p.paint(tone, &check::summary(outcomes)))
    })
}

fn verdict(outcomes: &[Outcome]) -> Result<()> {
    if outcomes.iter().all(|o| o.met) { Ok(()) } else { Err(NotMet(check::summary(outcomes)).into()) }
}

/// A running lab as a check sees it.
struct Running<'a> {
    lab: &'a mut Lab,
    client: Client,
}

impl World for Running<'_> {
    fn probe(&mut self, probes: Vec<Probe>) -> Result<Vec<Sightings>> {
        match self.lab.ask(&Request::Probe(probes))? {
            Reply::Sightings(found) => Ok(found),
            other => bail!("the keeper answered strangely: {other:?}"),
        }
    }

    fn drops(&mut self) -> Result<Drops> {
        let mut sum = Drops::new();
        for drop in block_on(reports::read_drops(&self.client))?.into_values().flatten() {
            *sum.entry((drop.port, drop.reason)).or_default() += drop.frames;
        }
        Ok(sum)
    }

    fn nonce(&mut self) -> Result<[u8; 16]> {
        super::random()
    }
}

fn enter(args: &ExecArgs, lab: Option<&str>) -> Result<()> {
    match exec::exec(registry::connect(lab)?, &args.place, &args.command)? {
        0 => Ok(()),
        code => Err(Passed(code).into()),
    }
}

fn restart(printer: &Printer, args: &RestartArgs, lab: Option<&str>) -> Result<()> {
    let mut lab = registry::connect(lab)?;
    lab.ask(&Request::Restart { place: args.host.clone(), process: args.process, kill: args.kill })?;
    let what = args.process.map_or_else(String::new, |p| format!(" {p:?}").to_lowercase());
    printer.say(&format!("restarted {}{what}", args.host))
}

fn logs(printer: &Printer, args: &LogsArgs, lab: Option<&str>) -> Result<()> {
    let mut lab = registry::connect(lab)?;
    let Reply::Logs(logs) = lab.ask(&Request::Logs { place: args.place.clone(), lines: args.lines })? else {
        bail!("the keeper of lab `{}` answered strangely", lab.name);
    };
    printer.print(&logs, |p| {
        let head = |l: &LogTail| p.paint(Tone::Quiet, &format!("--- {}/{} ---", l.place, l.name));
        logs.iter().map(|l| format!("{}\n{}\n", head(l), l.text)).collect()
    })
}

fn down(printer: &Printer, lab: Option<&str>) -> Result<()> {
    // First of all, what a killed lab left: it goes even when the lab that was asked for is not there any more.
    registry::sweep()?;
    let running = registry::names()?;
    if running.is_empty() && lab.is_none() {
        // Asking for what is already so is no error.
        return printer.say("no lab is running");
    }
    let name = to_take_down(lab, &running, is_held)?;
    let mut lab = registry::connect(Some(&name))?;
    let keeper = weft_sys::process::open_pid(lab.keeper_pid)?;
    lab.ask(&Request::Down)?;
    if !weft_sys::process::wait_exit(&keeper, Some(start::END_TIMEOUT))? {
        bail!("the keeper of lab `{}` (pid {}) does not end: `kill -9 {}`", lab.name, lab.keeper_pid, lab.keeper_pid);
    }
    registry::sweep()?;
    printer.say(&format!("lab `{}` is down", lab.name))
}

/// Which lab is meant: the named one, or the only one that nobody else is at work with.
fn to_take_down(named: Option<&str>, running: &[String], held: impl Fn(&str) -> bool) -> Result<String> {
    if let Some(name) = named {
        return match running {
            [] => bail!("no lab `{name}`: none is running"),
            _ if running.iter().any(|n| n == name) => Ok(name.to_owned()),
            _ => bail!("no lab `{name}`: running are {}", running.join(", ")),
        };
    }
    let free: Vec<&String> = running.iter().filter(|name| !held(name)).collect();
    match free.as_slice() {
        [only] => Ok((*only).clone()),
        [] => bail!("whoever builds or runs {} takes it down: give the name to do it all the same", running.join(", ")),
        _ => bail!("which lab? Running are {}", running.join(", ")),
    }
}

/// Whether another process builds or runs it at the moment; one that cannot say is not set up yet.
fn is_held(name: &str) -> bool {
    registry::connect(Some(name)).and_then(|mut lab| lab.info()).map_or(true, |info| info.held)
}

/// A lab in `weft lab ls`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    keeper_pid: u32,
    ready: bool,
    /// Whether another process builds or runs it at the moment, and takes it down.
    held: bool,
    /// Controller, agents and vswitches: those that run, and those that should.
    daemons: usize,
    daemons_expected: usize,
    topology: String,
    /// Everything that has a network namespace, with the processes in it; ids are those that the caller sees.
    places: Vec<ListedPlace>,
}

#[derive(Debug, Serialize)]
struct ListedPlace {
    name: String,
    kind: PlaceKind,
    processes: Vec<ListedProcess>,
}

#[derive(Debug, Serialize)]
struct ListedProcess {
    pid: u32,
    /// `controller`, `agent`, `vswitch`, or the program's name.
    role: String,
    command: String,
}

fn ls(printer: &Printer) -> Result<()> {
    registry::sweep()?;
    let mut labs = Vec::new();
    for name in registry::names()? {
        let asked = registry::connect(Some(&name)).and_then(|mut lab| Ok((lab.info()?, lab)));
        match asked {
            Ok((info, lab)) => labs.push(listed(&lab, info)),
            // It ended between the two looks.
            Err(_) if !registry::names()?.contains(&name) => {}
            Err(error) => eprintln!("weft: lab `{name}`: {}", crate::exit::tell(&error)),
        }
    }
    printer.print(&labs, |p| {
        let rows = labs.iter().map(|lab| {
            let of = |kind| lab.places.iter().filter(|p| p.kind == kind).count();
            let (running, expected) = (lab.daemons, lab.daemons_expected);
            let daemons = if running == expected { running.to_string() } else { format!("{running} of {expected}") };
            let state = match lab.ready {
                false => Toned(Tone::Warn, "starting".into()),
                true if running < expected => Toned(Tone::Bad, "broken".into()),
                true => Toned(Tone::Good, "up".into()),
            };
            [
                lab.name.as_str().into(),
                state,
                lab.topology.as_str().into(),
                lab.keeper_pid.to_string().into(),
                count(of(PlaceKind::Host), "host").into(),
                count(of(PlaceKind::Guest), "guest").into(),
                daemons.into(),
            ]
        });
        p.table(&["LAB", "STATE", "TOPOLOGY", "KEEPER", "HOSTS", "GUESTS", "DAEMONS"], rows)
    })
}

fn listed(lab: &Lab, info: Info) -> Listed {
    let mut processes = registry::processes(lab.keeper_pid);
    let place = |namespace: crate::lab::wire::NamespaceInfo| {
        let here = processes.remove(&namespace.inode).unwrap_or_default();
        let process = |(pid, command): (u32, String)| ListedProcess { pid, role: role(&command), command };
        ListedPlace { name: namespace.name, kind: namespace.kind, processes: here.into_iter().map(process).collect() }
    };
    // Each agent keeps a vswitch.
    let agents = info.processes.iter().filter(|p| p.role == "agent").count();
    let places: Vec<ListedPlace> = info.namespaces.into_iter().map(place).collect();
    let roles = places.iter().flat_map(|p| &p.processes).map(|p| p.role.as_str());
    Listed {
        name: info.name,
        keeper_pid: lab.keeper_pid,
        ready: info.ready,
        held: info.held,
        daemons: roles.filter(|role| DAEMONS.contains(role)).count(),
        daemons_expected: info.processes.len() + agents,
        topology: info.topology.name,
        places,
    }
}

const DAEMONS: [&str; 3] = ["controller", "agent", "vswitch"];

fn role(command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    match words.next() {
        Some(role) if DAEMONS.contains(&role) => role.to_owned(),
        _ => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_that_somebody_else_holds_is_taken_down_by_its_name_only() {
        let labs = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let held = |name: &str| name == "theirs";
        let meant = |named, running: &[&str]| to_take_down(named, &labs(running), held).map_err(|e| e.to_string());
        assert_eq!(meant(None, &["mine", "theirs"]), Ok("mine".into()));
        assert_eq!(meant(Some("theirs"), &["mine", "theirs"]), Ok("theirs".into()));
        assert!(meant(None, &["theirs"]).unwrap_err().contains("theirs takes it down"));
        assert_eq!(meant(None, &["a", "b"]), Err("which lab? Running are a, b".into()));
        assert_eq!(meant(Some("c"), &["a", "b"]), Err("no lab `c`: running are a, b".into()));
    }
}
