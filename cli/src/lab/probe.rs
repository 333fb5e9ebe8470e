//! Probes: sends a nonce from one guest and listens on every guest for who receives it.
//!
//! Listeners are packet sockets on all interfaces of all guests, so that a frame that leaks is seen even where the
//! guest's own stack would throw it away. A forged probe is written by hand, to the target's MAC address.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_sys::epoll::{Epoll, Interest};
use weft_sys::netlink::Netlink;
use weft_sys::packet_socket::{self, PacketRequest, PacketSocket};

use super::build::Places;
use super::expect::Protocol;
use super::probe_frame as frame;
use super::topology::Topology;
use super::wire::{Probe, Sightings};

/// A guest's interface that is listened on.
struct Ear {
    guest: String,
    mac: [u8; 6],
    addresses: Vec<IpAddr>,
    socket: PacketSocket,
}

/// When each copy of a probe is sent, counted from the start: a lost one is not a lost case.
pub(crate) const COPIES_AT_MS: [u64; 3] = [0, 150, 450];
/// How long probes may be on their way.
const REACH_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long silence is listened to after the last copy of a forged probe.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a guest may lack its interface and addresses when a check begins.
const GUEST_TIMEOUT: Duration = Duration::from_secs(5);
const GUEST_POLL: Duration = Duration::from_millis(10);
const RECEIVE_BUFFER: usize = 1 << 20;
const FRAME_LEN_MAX: usize = 65_600;
const VNET_HDR_LEN: usize = weft_sys::tap::VNET_HDR_LEN;
/// Probes of one request, at most.
pub(crate) const PROBES_MAX: usize = 256;

/// Sends all probes at once and says for each who saw it.
pub(crate) fn run(topology: &Topology, places: &Places, probes: &[Probe]) -> Result<Vec<Sightings>> {
    anyhow::ensure!(probes.len() <= PROBES_MAX, "more than {PROBES_MAX} probes at once");
    await_guests(topology, places, probes)?;
    let ears = open_ears(topology, places)?;
    let mut found = vec![Sightings::default(); probes.len()];
    let servers = Server::all(places, probes);
    let round = Round::start();
    thread::scope(|scope| {
        let senders: Vec<_> = probes.iter().map(|probe| scope.spawn(|| send(places, &ears, probe, &round))).collect();
        for server in servers {
            scope.spawn(move || drop(server.run()));
        }
        let heard = listen(&ears, probes, &mut found, &round);
        for (sightings, sender) in found.iter_mut().zip(senders) {
            let sent = sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the sender panicked")));
            match sent {
                Ok(at) => sightings.count_from(at),
                Err(error) => sightings.error = Some(crate::exit::tell(&error)),
            }
        }
        heard
    })?;
    Ok(found)
}

/// The agents make the guests' devices and the lab addresses them; neither has to be finished when a check begins.
fn await_guests(topology: &Topology, places: &Places, probes: &[Probe]) -> Result<()> {
    let deadline = Instant::now() + GUEST_TIMEOUT;
    let involved = |name: &str| probes.iter().any(|p| p.from == name || p.to == name);
    for guest in topology.guests.iter().filter(|g| involved(&g.name)) {
        let place = places.get(&guest.name).with_context(|| format!("guest `{}` has no namespace", guest.name))?;
        // Those that are not ready by then make their own cases fail.
        while !super::guest::is_configured(guest, place)? && Instant::now() < deadline {
            thread::sleep(GUEST_POLL);
        }
    }
    Ok(())
}

fn open_ears(topology: &Topology, places: &Places) -> Result<Vec<Ear>> {
    let mut ears = Vec::new();
    for guest in &topology.guests {
        let place = places.get(&guest.name).with_context(|| format!("guest `{}` has no namespace", guest.name))?;
        for port in &guest.ports {
            let open = || -> Result<Option<(OwnedFd, [u8; 6])>> {
                let Some(link) = Netlink::open()?.link(&port.ifname)? else { return Ok(None) };
                let request = PacketRequest { ifname: &port.ifname, fanout: None, receive_buffer: RECEIVE_BUFFER };
                Ok(Some((packet_socket::open(&request)?, link.mac.unwrap_or_default())))
            };
            // A guest whose port has no device yet receives nothing.
            if let Some((fd, mac)) = place.inside(open)?.with_context(|| format!("guest `{}`", guest.name))? {
                let addresses = port.addresses.iter().map(|a| a.addr).collect();
                ears.push(Ear { guest: guest.name.clone(), mac, addresses, socket: PacketSocket::from_fd(fd)? });
            }
        }
    }
    Ok(ears)
}

/// Notes who receives what, until all is seen that can be, or it is time.
fn listen(ears: &[Ear], probes: &[Probe], found: &mut [Sightings], round: &Round) -> Result<()> {
    let mut epoll = Epoll::new()?;
    for (index, ear) in ears.iter().enumerate() {
        epoll.add(&ear.socket, index as u64, Interest::Read)?;
    }
    let forged = probes.iter().any(|p| p.forged);
    let last_copy = Duration::from_millis(COPIES_AT_MS[COPIES_AT_MS.len() - 1]);
    let deadline = round.start + if forged { last_copy + SILENCE } else { REACH_TIMEOUT };
    let mut buffer = vec![0; VNET_HDR_LEN + FRAME_LEN_MAX];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let complete = !forged && probes.iter().zip(found.iter()).all(|(p, f)| is_complete(p, f));
        if complete {
            round.end();
        }
        if left.is_zero() || complete {
            return Ok(());
        }
        let ready: Vec<usize> = epoll.wait(Some(left))?.iter().map(|e| e.token as usize).collect();
        for ear in ready.into_iter().map(|index| &ears[index]) {
            while let Ok(received) = ear.socket.recv(&mut buffer) {
                let bytes = &buffer[VNET_HDR_LEN..VNET_HDR_LEN + received.len];
                note(ear, bytes, probes, found, round.micros());
            }
        }
    }
}

fn is_complete(probe: &Probe, found: &Sightings) -> bool {
    let arrived = found.seen.iter().any(|(guest, _)| *guest == probe.to);
    arrived && (probe.protocol == Protocol::Udp || found.answered.is_some())
}

fn note(ear: &Ear, bytes: &[u8], probes: &[Probe], found: &mut [Sightings], micros: u64) {
    for (probe, found) in probes.iter().zip(found).filter(|(probe, _)| frame::carries(bytes, probe)) {
        if ear.guest != probe.from {
            if !found.seen.iter().any(|(guest, _)| *guest == ear.guest) {
                found.seen.push((ear.guest.clone(), micros));
            }
        } else if !frame::is_echo_request(bytes) {
            found.answered.get_or_insert(micros);
        }
    }
}

/// Sends a probe; returns when its first copy left.
fn send(places: &Places, ears: &[Ear], probe: &Probe, round: &Round) -> Result<u64> {
    let place = places.get(&probe.from).with_context(|| format!("there is no guest `{}`", probe.from))?;
    if probe.forged {
        return send_forged(ears, probe, round);
    }
    place.inside(|| match probe.protocol {
        Protocol::Icmp => send_echo(probe, round),
        Protocol::Udp => send_udp(probe, round),
        Protocol::Tcp => send_tcp(probe, round),
    })?
}

fn send_forged(ears: &[Ear], probe: &Probe, round: &Round) -> Result<u64> {
    let ear = |guest: &str| ears.iter().find(|e| e.guest == guest);
    let source = ear(&probe.from).with_context(|| format!("guest `{}` has no interface yet", probe.from))?;
    let target = ear(&probe.to).with_context(|| format!("guest `{}` has no interface yet", probe.to))?;
    let mut bytes = vec![0; VNET_HDR_LEN];
    let family = |a: &&IpAddr| a.is_ipv4() == probe.address.is_ipv4();
    let address = source.addresses.iter().find(family).copied();
    let address = address.with_context(|| format!("guest `{}` has no address to send from", probe.from))?;
    bytes.extend(frame::forge(probe, address, source.mac, target.mac)?);
    round.send_copies(|| source.socket.send(&bytes).context("the guest's interface refused the frame"))
}

fn send_echo(probe: &Probe, round: &Round) -> Result<u64> {
    let socket = frame::echo_socket(probe.address).context("cannot open a raw ICMP socket")?;
    let packet = frame::echo_request(probe);
    let to = SocketAddr::new(probe.address, 0);
    // A raw socket sees every ICMP packet of the guest; nobody reads them, and the packet socket hears the reply.
    round.send_copies(|| {
        rustix::net::sendto(&socket, &packet, rustix::net::SendFlags::empty(), &to)
            .with_context(|| format!("cannot send to {}", probe.address))?;
        Ok(())
    })
}

fn send_udp(probe: &Probe, round: &Round) -> Result<u64> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(probe.address), probe.source_port))?;
    let to = SocketAddr::new(probe.address, probe.port);
    round.send_copies(|| {
        socket.send_to(&probe.nonce, to).with_context(|| format!("cannot send to {to}"))?;
        Ok(())
    })
}

/// One copy: TCP repeats itself.
fn send_tcp(probe: &Probe, round: &Round) -> Result<u64> {
    let (to, at) = (SocketAddr::new(probe.address, probe.port), round.micros());
    let mut stream =
        TcpStream::connect_timeout(&to, REACH_TIMEOUT).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(REACH_TIMEOUT))?;
    stream.write_all(&probe.nonce)?;
    stream.read_exact(&mut [0; 16]).context("connected, but no answer came")?;
    Ok(at)
}

/// The time of one batch of probes, and its early end once everything has arrived.
struct Round {
    start: Instant,
    over: Mutex<bool>,
    ended: Condvar,
}

impl Round {
    fn start() -> Self {
        Self { start: Instant::now(), over: Mutex::new(false), ended: Condvar::new() }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.notify_all();
    }

    /// Sends copies until the round is over; returns when the first one left.
    fn send_copies(&self, mut send: impl FnMut() -> Result<()>) -> Result<u64> {
        let first = self.micros();
        for at in COPIES_AT_MS {
            let due = Duration::from_millis(at).saturating_sub(self.start.elapsed());
            let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.ended.wait_timeout_while(over, due, |over| !*over);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                break;
            }
            send()?;
        }
        Ok(first)
    }
}

/// What answers the TCP probes to one guest and port: echoes each nonce.
struct Server {
    listener: TcpListener,
    /// Connections that will come.
    wanted: usize,
}

impl Server {
    /// One for each guest and port. None where the guest has a server of its own on that port.
    fn all(places: &Places, probes: &[Probe]) -> Vec<Self> {
        let mut wanted = BTreeMap::new();
        for probe in probes.iter().filter(|p| p.protocol == Protocol::Tcp && !p.forged) {
            *wanted.entry((probe.to.as_str(), probe.port)).or_insert(0) += 1;
        }
        wanted.into_iter().filter_map(|((guest, port), wanted)| Self::open(places, guest, port, wanted)).collect()
    }

    fn open(places: &Places, guest: &str, port: u16, wanted: usize) -> Option<Self> {
        // The IPv6 wildcard takes IPv4 connections as well; a kernel without IPv6 has the other.
        let any =
            [SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)];
        let listener = places.get(guest)?.inside(|| TcpListener::bind(&any[..])).ok()?.ok()?;
        listener.set_nonblocking(true).ok()?;
        Some(Self { listener, wanted })
    }

    fn run(self) -> Result<()> {
        let deadline = Instant::now() + REACH_TIMEOUT;
        let mut epoll = Epoll::new()?;
        epoll.add(&self.listener, 0, Interest::Read)?;
        for _ in 0..self.wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || epoll.wait(Some(left))?.is_empty() {
                break;
            }
            let (mut stream, _) = self.listener.accept()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(REACH_TIMEOUT))?;
            let mut nonce = [0; 16];
            if stream.read_exact(&mut nonce).is_ok() {
                stream.write_all(&nonce)?;
            }
        }
        Ok(())
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
