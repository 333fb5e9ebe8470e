//! The doing half of the agent: one thread that opens devices, holds every descriptor and speaks with the vswitch.
//!
//! One piece of work after the other, so that what happens to a port happens in order. The duplicates it holds are why
//! guests keep their devices when a vswitch dies: the next one gets them before anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::Serialize;
use weft_api::report::QueryKind;
use weft_program::PortId;
use weft_program::client::{Client, ClientError};
use weft_program::message::{PortDevice, PortKind, Underlay};

use crate::attach::{self, Opened};
use crate::config::Config;
use crate::guard::Guard;
use crate::keep::Keeper;
use crate::report::Labels;
use crate::work::{AttachedPort, Done, NotApplied, NotOpened, Place, Polled, PortRequest, Started, Work};
use crate::{cache, underlay};

/// Devices, descriptors and the session with the vswitch.
#[derive(Debug)]
pub struct Hands {
    config: Config,
    keeper: Keeper,
    seed: u64,
    program_file: PathBuf,
    guard: Guard,
    ports: BTreeMap<PortId, Opened>,
    underlay: Option<(Underlay, Vec<OwnedFd>)>,
    watch: underlay::Watch,
    underlay_problem: String,
    client: Option<Client>,
    workers: usize,
}

impl Hands {
    /// Holds nothing yet.
    pub fn new(config: Config, keeper: Keeper, seed: u64) -> Self {
        Self {
            program_file: config.program_file(),
            guard: Guard::load(config.state_dir.join("netdevs.json")),
            config,
            keeper,
            seed,
            ports: BTreeMap::new(),
            underlay: None,
            watch: underlay::Watch::default(),
            underlay_problem: String::new(),
            client: None,
            workers: 1,
        }
    }

    /// Does a piece of work.
    pub fn work(&mut self, work: Work) -> Done {
        match work {
            Work::StartVswitch => Done::Started(self.start_vswitch()),
            Work::OpenUnderlay => Done::Underlay(self.open_underlay()),
            Work::Open(request) => Done::Opened { id: request.id, result: self.open(&request) },
            Work::Close(id) => {
                self.close(id);
                Done::Closed(id)
            }
            Work::Apply(bundle) => Done::Applied(self.ask(|client| client.apply(*bundle)).map_err(|e| match e {
                Failure::Refused(why) => NotApplied::Refused(why),
                Failure::Lost(why) => NotApplied::Lost(why),
            })),
            Work::Poll => Done::Polled(self.poll()),
            Work::Query { id, kind, labels } => Done::Queried { id, result: self.query(kind, &labels) },
            Work::Save(cached) => {
                let file = &self.program_file;
                Done::Saved(cache::save(file, &cached).map_err(|e| format!("{}: {e}", file.display())))
            }
        }
    }

    fn start_vswitch(&mut self) -> Result<Started, String> {
        self.client = None;
        // What it knows of the underlay may be older than the last change.
        self.watch = underlay::Watch::default();
        let kept = self.keeper.keep()?;
        let instance = kept.client.vswitch().instance.clone();
        self.client = Some(kept.client);
        let started = self.bring_up(kept.fresh).map_err(|e| e.to_string());
        if started.is_err() {
            self.client = None;
        }
        Ok(Started { instance, pid: kept.pid, ..started? })
    }

    /// Takes from a running vswitch what we do not hold, and gives it what it does not have.
    fn bring_up(&mut self, fresh: bool) -> Result<Started, Failure> {
        let mut has = BTreeSet::new();
        let mut has_underlay = false;
        if !fresh {
            let inventory = self.ask(Client::inventory)?;
            for (device, fds) in inventory.ports {
                has.insert(device.id);
                self.ports.entry(device.id).or_insert(Opened { device, fds });
            }
            has_underlay = inventory.underlay.is_some();
            // Whatever we hold instead is of an earlier vswitch; this one's queues hold what is on its way.
            self.underlay = inventory.underlay.or_else(|| self.underlay.take());
        }
        let missing: Vec<PortId> = self.ports.keys().filter(|id| !has.contains(id)).copied().collect();
        for id in missing {
            if let Err(Failure::Refused(why)) = self.give(id) {
                tracing::error!("{id} is let go: {why}");
                self.ports.remove(&id);
            }
        }
        if !has_underlay {
            self.give_underlay()?;
        }
        let status = self.ask(Client::status)?;
        let reports = self.ask(Client::ports)?;
        self.workers = status.workers;
        Ok(Started {
            workers: status.workers,
            position: status.position,
            ports: reports.into_iter().map(|r| AttachedPort { device: r.device, live: r.live }).collect(),
            underlay: self.underlay.as_ref().map(|(underlay, _)| underlay.clone()),
            ..Started::default()
        })
    }

    /// Attaches the underlay that is held, if it is and fits.
    fn give_underlay(&mut self) -> Result<(), Failure> {
        let Some((underlay, fds)) = self.underlay.take() else { return Ok(()) };
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match self.ask(|client| client.attach_underlay(underlay.clone(), &borrowed)) {
            // Such as another number of workers: it is opened anew for this one.
            Err(Failure::Refused(why)) => {
                tracing::warn!("the underlay's sockets are opened anew: {why}");
                Ok(())
            }
            given => {
                self.underlay = Some((underlay, fds));
                given
            }
        }
    }

    fn open_underlay(&mut self) -> Result<Underlay, String> {
        // Sockets of before are closed first, their port is wanted again.
        self.underlay = None;
        self.watch = underlay::Watch::default();
        self.underlay_problem.clear();
        let Config { underlay: addr, udp_port, rung, .. } = self.config;
        let (underlay, fds) = underlay::open(addr, udp_port, self.workers, rung, self.seed)?;
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.ask(|client| client.attach_underlay(underlay.clone(), &borrowed)).map_err(|e| e.to_string())?;
        self.underlay = Some((underlay.clone(), fds));
        Ok(underlay)
    }

    fn open(&mut self, request: &PortRequest) -> Result<PortDevice, NotOpened> {
        if let Some(held) = self.ports.get_mut(&request.id) {
            held.device = attach::adjust(request, &held.device)?;
            // The vswitch knows a device's MTU from its attaching. It may not have the port: then there is nothing to take.
            if let Err(Failure::Lost(why)) = self.ask(|client| client.detach(request.id)) {
                return Err(NotOpened::Lost(why));
            }
        } else {
            if let Place::Netdev { ifname } = &request.place {
                attach::find_netdev(ifname)?;
                self.guard.silence(ifname).map_err(NotOpened::Failed)?;
            }
            let opened = attach::open(request, self.workers)?;
            self.ports.insert(request.id, opened);
        }
        match self.give(request.id) {
            Ok(()) => Ok(self.ports[&request.id].device.clone()),
            Err(Failure::Refused(why)) => {
                self.ports.remove(&request.id);
                Err(NotOpened::Failed(why))
            }
            Err(Failure::Lost(why)) => Err(NotOpened::Lost(why)),
        }
    }

    /// Attaches a device that is held.
    fn give(&mut self, id: PortId) -> Result<(), Failure> {
        let Some(Opened { device, fds }) = self.ports.remove(&id) else { return Ok(()) };
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let given = self.ask(|client| client.attach(device.clone(), &borrowed));
        self.ports.insert(id, Opened { device, fds });
        given
    }

    fn close(&mut self, id: PortId) {
        // One that does not have it, or is lost, has nothing to give back.
        let _ = self.ask(|client| client.detach(id));
        self.ports.remove(&id);
        self.release_netdevs();
    }

    fn release_netdevs(&mut self) {
        let devices = self.ports.values().map(|p| &p.device).filter(|d| d.kind == PortKind::Netdev);
        let held: BTreeSet<&str> = devices.map(|d| d.ifname.as_str()).collect();
        self.guard.release_others(&held);
    }

    fn poll(&mut self) -> Result<Polled, String> {
        let reports = self.ask(Client::ports).map_err(|e| e.to_string())?;
        let status = self.ask(Client::status).map_err(|e| e.to_string())?;
        self.release_netdevs();
        self.look_at_underlay()?;
        Ok(Polled {
            gone: reports.iter().filter(|r| r.gone).map(|r| r.device.id).collect(),
            rung: status.rung,
            rungs_not_taken: status.rungs_not_taken,
            remote_rungs: status.remote_rungs,
            underlay_mtu: self.underlay.as_ref().map(|(underlay, _)| underlay.mtu),
            underlay_problem: self.underlay_problem.clone(),
        })
    }

    /// Tells the vswitch when the way out may be another one; the sockets stay as they are.
    fn look_at_underlay(&mut self) -> Result<(), String> {
        let Some((Underlay { addr, mtu: known, .. }, _)) = self.underlay else { return Ok(()) };
        if !self.watch.may_have_changed() {
            return Ok(());
        }
        let mtu = match underlay::mtu_of(addr) {
            Ok(mtu) => mtu,
            Err(why) => {
                if self.underlay_problem != why {
                    tracing::warn!("{why}");
                }
                self.underlay_problem = why;
                return Ok(());
            }
        };
        self.underlay_problem.clear();
        match self.ask(|client| client.underlay_changed(mtu)) {
            Ok(()) if mtu == known => return Ok(()),
            Ok(()) => tracing::info!("the underlay's MTU is {mtu} now, it was {known}"),
            Err(Failure::Refused(why)) => {
                self.underlay_problem = format!("the vswitch does not take the underlay's MTU of {mtu}: {why}");
                return Ok(());
            }
            Err(lost) => return Err(lost.to_string()),
        }
        if let Some((underlay, _)) = &mut self.underlay {
            underlay.mtu = mtu;
        }
        Ok(())
    }

    fn query(&mut self, kind: QueryKind, labels: &Labels) -> Result<Vec<u8>, String> {
        let answer = match kind {
            QueryKind::Flows => self.ask(Client::rules).map(|rules| json(&labels.flows(&rules))),
            QueryKind::Fdb => self.ask(Client::fdb).map(|entries| json(&labels.fdb_reports(&entries))),
            QueryKind::Drops => self.ask(Client::ledger).map(|ledger| json(&labels.drop_reports(&ledger))),
            QueryKind::Ledger => self.ask(Client::ledger).map(|ledger| json(&labels.ledger_report(&ledger))),
            QueryKind::Ports => self.ask(Client::ports).map(|mut ports| {
                for port in &mut ports {
                    let lost = attach::tx_dropped(&port.device).map(|count| ("tx_dropped".to_owned(), count));
                    port.device_drops.extend(lost);
                }
                json(&labels.port_reports(&ports))
            }),
        };
        answer.map_err(|e| e.to_string())?
    }

    fn ask<T>(&mut self, request: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
        let client = self.client.as_mut().ok_or_else(|| Failure::Lost("there is no vswitch".into()))?;
        request(client).map_err(|error| {
            if matches!(error, ClientError::Refused(_)) {
                return Failure::Refused(error.to_string());
            }
            self.client = None;
            Failure::Lost(error.to_string())
        })
    }
}

/// Why the vswitch did not do something.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Lost(String),
}

fn json(report: &impl Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(report).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
