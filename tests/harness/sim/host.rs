//! A host: the agent's deciding half, hands that play what its shell does, the vswitch, and the guests' devices.
//!
//! A device is two queues in memory. It exists as long as the agent or the vswitch holds it, as a TAP does: one of them
//! may die, and when both are dead the device is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use weft_agent::core::Core;
use weft_agent::work::{AttachedPort, Cached, Done, NotApplied, NotOpened, Polled, PortRequest, Started, Work};
use weft_program::message::{
    Ledger, LedgerReport, Offloads, PortDevice, PortKind, PortReport, Request, Response, Rung, Status, Underlay,
};
use weft_program::{Bundle, PortId};
use weft_vswitch::Inline;
use weft_vswitch::control::Control;
use weft_vswitch::port::{Attached, Memory, MemoryEnd, memory};
use weft_vswitch::underlay::UnderlayEnd;

use super::guest::Guest;
use super::random::Random;

/// Frames that one direction of a device holds.
const QUEUE_LEN: usize = 256;

/// One host.
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address in the underlay.
    pub addr: IpAddr,
    /// The agent, while it runs.
    pub agent: Option<Core>,
    /// How often it was started.
    pub incarnation: u64,
    /// What the agent remembered.
    pub disk: Option<Cached>,
    /// The vswitch, while it runs.
    pub vswitch: Option<Vswitch>,
    /// The guests' ends of all devices that exist.
    pub devices: BTreeMap<Guest, MemoryEnd>,
    /// Whose namespaces exist.
    pub namespaces: BTreeSet<Guest>,
    /// When the agent's hands have done what they were asked so far.
    pub busy_until: Option<Instant>,
    /// When the agent is to be woken.
    pub wake_at: Option<Instant>,
    /// A step of the vswitch is on the agenda.
    pub step_is_due: bool,
    held: BTreeMap<PortId, Device>,
    setup: Setup,
    vswitches: u64,
}

/// What a host is made of, for all of a world's life.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Workers of its vswitch.
    pub workers: usize,
    /// The rung of its underlay.
    pub rung: Rung,
    /// What its devices take off our hands.
    pub offloads: Offloads,
    /// Keys the vswitch's hash tables.
    pub seed: u64,
}

/// A vswitch with what it holds.
pub struct Vswitch {
    /// The vswitch.
    pub control: Control<Inline>,
    /// Its instance id.
    pub instance: String,
    /// The far end of its underlay.
    pub underlay: Option<UnderlayEnd>,
    underlay_config: Option<Underlay>,
    ports: BTreeMap<PortId, Device>,
}

#[derive(Clone)]
struct Device {
    device: PortDevice,
    guest: Guest,
    memory: Memory,
    end: MemoryEnd,
}

impl Host {
    /// A host on which nothing runs.
    pub fn new(name: &str, addr: IpAddr, namespaces: BTreeSet<Guest>, setup: Setup) -> Self {
        Self {
            name: name.to_owned(),
            addr,
            agent: None,
            incarnation: 0,
            disk: None,
            vswitch: None,
            devices: BTreeMap::new(),
            namespaces,
            busy_until: None,
            wake_at: None,
            step_is_due: false,
            held: BTreeMap::new(),
            setup,
            vswitches: 0,
        }
    }

    /// The agent is killed.
    pub fn kill_agent(&mut self) {
        (self.agent, self.busy_until, self.wake_at) = (None, None, None);
        self.incarnation += 1;
        self.held.clear();
        self.reap();
    }

    /// The vswitch is killed; its instance id. Its ledger has to balance even then.
    pub fn kill_vswitch(&mut self, now: Instant) -> Option<String> {
        self.assert_ledger(now);
        let killed = self.vswitch.take()?;
        self.reap();
        Some(killed.instance)
    }

    /// A guest's namespace is deleted, and its device with it.
    pub fn delete_namespace(&mut self, guest: Guest) {
        self.namespaces.remove(&guest);
        if let Some(end) = self.devices.remove(&guest) {
            end.remove();
        }
    }

    /// Does a piece of work. With `faults` some of it fails.
    pub fn work(&mut self, now: Instant, work: Work, faults: bool, random: &mut Random) -> Done {
        let fails = faults && random.chance(5);
        match work {
            Work::StartVswitch if fails => Done::Started(Err("a fault".into())),
            Work::StartVswitch => Done::Started(self.start_vswitch(now, random)),
            Work::OpenUnderlay if fails => Done::Underlay(Err("a fault".into())),
            Work::OpenUnderlay => Done::Underlay(self.open_underlay()),
            Work::Open(request) => {
                let id = request.id;
                let result = if fails { Err(NotOpened::Failed("a fault".into())) } else { self.open(now, &request) };
                Done::Opened { id, result }
            }
            Work::Close(id) => {
                self.detach(now, id);
                self.held.remove(&id);
                self.reap();
                Done::Closed(id)
            }
            Work::Apply(bundle) => Done::Applied(self.apply(now, *bundle)),
            Work::Poll => Done::Polled(self.poll(now)),
            Work::Query { id, .. } => Done::Queried { id, result: Ok(b"[]".to_vec()) },
            Work::Save(_) if fails => Done::Saved(Err("a fault".into())),
            Work::Save(cached) => {
                self.disk = Some(*cached);
                Done::Saved(Ok(()))
            }
        }
    }

    /// Asks the vswitch; `None` when there is none.
    pub fn ask(&mut self, now: Instant, request: Request) -> Option<Response> {
        let answers = self.vswitch.as_mut()?.control.handle(now, request, Vec::new());
        answers.into_iter().next_back().map(|answer| answer.response)
    }

    /// Where the vswitch stands.
    pub fn status(&mut self, now: Instant) -> Option<Status> {
        match self.ask(now, Request::Status)? {
            Response::Status(status) => Some(status),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// The vswitch's ports.
    pub fn ports(&mut self, now: Instant) -> Vec<PortReport> {
        match self.ask(now, Request::Ports) {
            Some(Response::Ports(ports)) => ports,
            None => Vec::new(),
            Some(other) => panic!("{}: {other:?}", self.name),
        }
    }

    /// The vswitch's counters.
    pub fn ledger(&mut self, now: Instant) -> Option<LedgerReport> {
        match self.ask(now, Request::Ledger)? {
            Response::Ledger(report) => Some(report),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// Every frame that came in ended in one stated way.
    ///
    /// # Panics
    /// When one did not.
    pub fn assert_ledger(&mut self, now: Instant) {
        let Some(report) = self.ledger(now) else { return };
        let mut sum = Ledger::default();
        report.workers.iter().for_each(|worker| sum += *worker);
        assert_eq!(sum.imbalance(), 0, "the ledger of {} does not balance: {report:?}", self.name);
        let drops: u64 = report.drops.iter().map(|row| row.frames).sum();
        assert_eq!(sum.dropped, drops, "{}: drops without a reason: {report:?}", self.name);
        assert_eq!(sum.held, 0, "{} holds frames between two bursts: {report:?}", self.name);
    }

    fn start_vswitch(&mut self, now: Instant, random: &mut Random) -> Result<Started, String> {
        if self.vswitch.is_none() {
            self.vswitches += 1;
            let seed = self.setup.seed.wrapping_add(self.vswitches);
            let control = Control::inline(self.setup.workers, seed, now).map_err(|e| e.to_string())?;
            let instance = format!("{}-{}", self.name, self.vswitches);
            let (underlay, underlay_config, ports) = (None, None, BTreeMap::new());
            self.vswitch = Some(Vswitch { control, instance, underlay, underlay_config, ports });
            for device in self.held.clone().into_values() {
                self.attach(device)?;
            }
            // A shell may give the sockets that it holds at once, or be asked to.
            if random.chance(50) {
                self.open_underlay()?;
            }
        }
        let status = self.status(now).unwrap_or_default();
        let attached = |port: PortReport| (port.device.id, port.live);
        let live: BTreeMap<PortId, bool> = self.ports(now).into_iter().map(attached).collect();
        let Some(vswitch) = &self.vswitch else { return Err("no vswitch".into()) };
        self.held.clone_from(&vswitch.ports);
        let ports = vswitch.ports.iter().map(|(id, device)| AttachedPort {
            device: device.device.clone(),
            live: live.get(id).copied().unwrap_or(false),
        });
        Ok(Started {
            instance: vswitch.instance.clone(),
            pid: 1,
            workers: self.setup.workers,
            position: status.position,
            ports: ports.collect(),
            underlay: vswitch.underlay_config.clone(),
        })
    }

    fn open_underlay(&mut self) -> Result<Underlay, String> {
        let rung = self.setup.rung;
        let config = Underlay {
            addr: self.addr,
            udp_port: 4789,
            rx_fds: 0,
            tx_fds: 0,
            mtu: 1600,
            rung,
            tunnel: None,
            refused: Vec::new(),
        };
        let vswitch = self.vswitch.as_mut().ok_or("there is no vswitch")?;
        let end = vswitch.control.attach_memory_underlay(config.clone(), 1024).map_err(|why| why.to_string())?;
        (vswitch.underlay, vswitch.underlay_config) = (Some(end), Some(config.clone()));
        Ok(config)
    }

    fn open(&mut self, now: Instant, request: &PortRequest) -> Result<PortDevice, NotOpened> {
        let text = request.place.netns_text();
        let is_of = |guest: &Guest| text.strip_prefix("/run/netns/") == Some(guest.netns().as_str());
        let Some(guest) = Guest::all().find(is_of).filter(|guest| self.namespaces.contains(guest)) else {
            return Err(NotOpened::Waiting(format!("there is no namespace {text}")));
        };
        if self.vswitch.is_none() {
            return Err(NotOpened::Lost("there is no vswitch".into()));
        }
        let device = PortDevice {
            id: request.id,
            name: request.name.clone(),
            kind: PortKind::Tap,
            fds: 0,
            mtu: request.mtu,
            offloads: self.setup.offloads,
            netns: text.clone(),
            ifname: request.place.ifname().to_owned(),
        };
        let known = self.held.get(&request.id).filter(|held| held.device.netns == text);
        let (memory, end) = match known {
            Some(held) => (held.memory.clone(), held.end.clone()),
            None if self.devices.contains_key(&guest) => {
                return Err(NotOpened::Failed(format!("the device in {text} is busy")));
            }
            None => memory(QUEUE_LEN),
        };
        self.detach(now, request.id);
        let opened = Device { device: device.clone(), guest, memory, end };
        self.devices.insert(guest, opened.end.clone());
        self.held.insert(request.id, opened.clone());
        if let Err(why) = self.attach(opened) {
            self.held.remove(&request.id);
            self.reap();
            return Err(NotOpened::Failed(why));
        }
        Ok(device)
    }

    fn attach(&mut self, device: Device) -> Result<(), String> {
        let vswitch = self.vswitch.as_mut().ok_or("there is no vswitch")?;
        let described = PortDevice { kind: PortKind::Memory, ..device.device.clone() };
        let attached = Attached::in_memory(described, vec![device.memory.clone()]);
        vswitch.control.attach_device(attached).map_err(|why| why.to_string())?;
        vswitch.ports.insert(device.device.id, device);
        Ok(())
    }

    fn detach(&mut self, now: Instant, id: PortId) {
        let Some(vswitch) = self.vswitch.as_mut() else { return };
        if vswitch.ports.remove(&id).is_some() {
            vswitch.control.handle(now, Request::Detach(id), Vec::new());
        }
    }

    fn apply(&mut self, now: Instant, bundle: Bundle) -> Result<(), NotApplied> {
        match self.ask(now, Request::Apply(bundle)) {
            None => Err(NotApplied::Lost("there is no vswitch".into())),
            Some(Response::Done) => Ok(()),
            // Nothing that the controller compiles and the agent lowers may be refused.
            Some(other) => panic!("{}: {other:?}", self.name),
        }
    }

    fn poll(&mut self, now: Instant) -> Result<Polled, String> {
        let status = self.status(now).ok_or("there is no vswitch")?;
        let gone = self.ports(now).into_iter().filter(|port| port.gone).map(|port| port.device.id).collect();
        let Status { rung, rungs_not_taken, remote_rungs, .. } = status;
        Ok(Polled { gone, rung, rungs_not_taken, remote_rungs, ..Polled::default() })
    }

    /// Devices that nobody holds any more are gone.
    fn reap(&mut self) {
        let attached = self.vswitch.iter().flat_map(|vswitch| vswitch.ports.values());
        let held: BTreeSet<Guest> = self.held.values().chain(attached).map(|device| device.guest).collect();
        self.devices.retain(|guest, end| {
            let stays = held.contains(guest);
            if !stays {
                end.remove();
            }
            stays
        });
    }
}
