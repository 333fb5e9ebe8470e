//! What guests run in the suites: senders and sinks whose payload is numbered and hashed.
//!
//! A program of its own, so that it can be started in any namespace, and without a tool's own idea of success:
//! every sink prints what arrived, and the suite judges.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sha2::{Digest, Sha256};
use weft_sys::packet_socket;
use weft_sys::tap::VNET_HDR_LEN;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Accepts one connection, reads it to its end, prints `bytes hash`.
    TcpSink { port: u16 },
    /// Connects, sends `bytes` pseudo-random bytes, prints `bytes hash`.
    TcpSource {
        to: SocketAddr,
        bytes: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Receives datagrams until `count` came or `wait_ms` passed, prints `count bytes hash` (the hash over all, sorted).
    UdpSink {
        port: u16,
        count: usize,
        #[arg(long, default_value_t = 3000)]
        wait_ms: u64,
        /// A group to join.
        #[arg(long)]
        group: Option<IpAddr>,
    },
    /// Sends `count` raw frames of noise, most with the start of a plausible header, out of `ifname`.
    Garbage {
        ifname: String,
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Carries frames between two devices until one goes away, and changes the last byte of every large send.
    Relay { left: String, right: String },
    /// Sends `count` datagrams of `size` bytes, prints `sent refused hash`.
    UdpSource {
        to: SocketAddr,
        size: usize,
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Microseconds between two datagrams.
        #[arg(long, default_value_t = 0)]
        gap_us: u64,
    },
}

/// splitmix64: the same bytes for the same seed, everywhere.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::TcpSink { port } => tcp_sink(port),
        Command::TcpSource { to, bytes, seed } => tcp_source(to, bytes, seed),
        Command::UdpSink { port, count, wait_ms, group } => {
            udp_sink(port, count, Duration::from_millis(wait_ms), group)
        }
        Command::Garbage { ifname, count, seed } => garbage(&ifname, count, seed),
        Command::Relay { left, right } => relay(&left, &right),
        Command::UdpSource { to, size, count, seed, gap_us } => {
            udp_source(to, size, count, seed, Duration::from_micros(gap_us))
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn ready() -> Result<()> {
    println!("ready");
    io::stdout().flush().context("standard output is closed")
}

fn tcp_sink(port: u16) -> Result<()> {
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("cannot listen on port {port}"))?;
    ready()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        total += count as u64;
    }
    println!("{total} {}", hex(&hash.finalize()));
    Ok(())
}

fn tcp_source(to: SocketAddr, bytes: u64, seed: u64) -> Result<()> {
    let mut stream =
        TcpStream::connect_timeout(&to, Duration::from_secs(10)).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let (mut hash, mut noise, mut buffer, mut left) = (Sha256::new(), Noise(seed), vec![0; 1 << 18], bytes);
    while left > 0 {
        let count = left.min(buffer.len() as u64) as usize;
        noise.fill(&mut buffer[..count]);
        hash.update(&buffer[..count]);
        stream.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    println!("{bytes} {}", hex(&hash.finalize()));
    Ok(())
}

fn udp_sink(port: u16, count: usize, wait: Duration, group: Option<IpAddr>) -> Result<()> {
    let any: IpAddr = match group {
        Some(IpAddr::V4(_)) => IpAddr::from([0, 0, 0, 0]),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, port)).with_context(|| format!("cannot bind port {port}"))?;
    match group {
        Some(IpAddr::V4(group)) => socket.join_multicast_v4(&group, &[0, 0, 0, 0].into())?,
        Some(IpAddr::V6(group)) => socket.join_multicast_v6(&group, 0)?,
        None => {}
    }
    ready()?;
    let end = Instant::now() + wait;
    let (mut hashes, mut bytes, mut buffer) = (Vec::new(), 0, vec![0; 65_536]);
    while hashes.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
        bytes += len;
        hashes.push(Sha256::digest(&buffer[..len]));
    }
    println!("{} {bytes} {}", hashes.len(), total_hash(hashes));
    Ok(())
}

fn udp_source(to: SocketAddr, size: usize, count: usize, seed: u64, gap: Duration) -> Result<()> {
    if size > 65_507 {
        bail!("{size} bytes do not fit a datagram: 65507 at most");
    }
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_broadcast(to.is_ipv4())?;
    let (mut noise, mut payload, mut hashes, mut refused) = (Noise(seed), vec![0; size], Vec::new(), 0);
    for _ in 0..count {
        noise.fill(&mut payload);
        match socket.send_to(&payload, to) {
            Ok(_) => hashes.push(Sha256::digest(&payload)),
            Err(_) => refused += 1,
        }
        if !gap.is_zero() {
            std::thread::sleep(gap);
        }
    }
    println!("{} {refused} {}", hashes.len(), total_hash(hashes));
    Ok(())
}

/// Starts of frames that reach every parser: ARP, IPv4 with TCP, UDP and ICMP, IPv6 with extension headers, a tag, VXLAN.
const STARTS: [&[u8]; 6] = [
    b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01",
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0\0\x40\0\0\0\0\x40\x06\0\0\x0a\x09\0\x01\x0a\x09\0\x02",
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x4f\0\0\x64\0\0\x20\0\x40\x11\0\0\x0a\x09\0\x01\x0a\x09\0\x02",
    b"\x33\x33\0\0\0\x01\x02\0\0\0\0\x01\x86\xdd\x60\0\0\0\0\x40\0\xff\xfe\x80\0\0\0\0\0\0\0\0\0\xff\xfe\0\0\x01",
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x81\0\0\x2a\x81\0\0\x2b\x88\xb5",
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01",
];

fn garbage(ifname: &str, count: usize, seed: u64) -> Result<()> {
    let request = packet_socket::PacketRequest { ifname, fanout: None, receive_buffer: 1 << 16 };
    let socket = packet_socket::PacketSocket::from_fd(packet_socket::open(&request)?)?;
    let (mut noise, mut dice) = (Noise(seed), [0; 4]);
    let (mut buffer, mut refused) = (vec![0; VNET_HDR_LEN + 1514], 0);
    for number in 0..count {
        noise.fill(&mut dice);
        let len = 14 + usize::from(u16::from_le_bytes([dice[0], dice[1]])) % 1500;
        let frame = &mut buffer[VNET_HDR_LEN..VNET_HDR_LEN + len];
        noise.fill(frame);
        let start = STARTS[number % STARTS.len()];
        let start = &start[..start.len().min(len)];
        frame[..start.len()].copy_from_slice(start);
        refused += usize::from(socket.send(&buffer[..VNET_HDR_LEN + len]).is_err());
    }
    println!("{} {refused}", count - refused);
    Ok(())
}

fn relay(left: &str, right: &str) -> Result<()> {
    let open = |ifname| -> Result<packet_socket::PacketSocket> {
        let request = packet_socket::PacketRequest { ifname, fanout: None, receive_buffer: 8 << 20 };
        Ok(packet_socket::PacketSocket::from_fd(packet_socket::open(&request)?)?)
    };
    let (left, right) = (open(left)?, open(right)?);
    std::thread::scope(|scope| {
        for (from, to) in [(&left, &right), (&right, &left)] {
            scope.spawn(|| {
                let error = carry(from, to);
                eprintln!("the relay ends: {error}");
                std::process::exit(0);
            });
        }
    });
    Ok(())
}

/// What a device with broken segmentation offload does: the last segment of a large send arrives changed.
fn carry(from: &packet_socket::PacketSocket, to: &packet_socket::PacketSocket) -> io::Error {
    let mut buffer = vec![0; VNET_HDR_LEN + (68 << 10)];
    loop {
        match from.recv(&mut buffer) {
            Ok(received) => {
                let end = VNET_HDR_LEN + received.len;
                if buffer[1] != 0 {
                    buffer[end - 1] ^= 1;
                }
                // One that the kernel does not take is lost, as on a wire.
                let _ = to.send(&buffer[..end]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_micros(100)),
            Err(error) => return error,
        }
    }
}

/// One hash of all payloads, whatever their order was.
fn total_hash<D: AsRef<[u8]> + Ord>(mut hashes: Vec<D>) -> String {
    hashes.sort();
    let mut all = Sha256::new();
    hashes.iter().for_each(|h| all.update(h));
    hex(&all.finalize())
}
