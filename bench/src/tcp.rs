//! TCP from guest to guest by our own hands: ping-pong, and connections that come and go.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use weft_sys::netns;

use crate::generator::Place;
use crate::numbers::quantile;

/// Half a round trip, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Messages of 64 bytes to and fro, one at a time.
pub(crate) fn ping_pong(from: &Place<'_>, to: &Place<'_>, window: Duration) -> Result<Latency> {
    let mut trips = between(from.netns, to, echo, move |server| pings(server, window))?;
    let us = |nanos: Option<u64>| nanos.map(|n| n as f64 / 2e3).context("no message came back");
    Ok(Latency { p50_us: us(quantile(&mut trips, 0.5))?, p99_us: us(quantile(&mut trips, 0.99))? })
}

/// Connections per second, one at a time: opened, closed by the server, read to the end, closed.
pub(crate) fn connect_rate(from: &Place<'_>, to: &Place<'_>, window: Duration) -> Result<f64> {
    between(
        from.netns,
        to,
        |_| Ok(()),
        move |server| {
            let start = Instant::now();
            let mut count = 0_u32;
            while start.elapsed() < window {
                let mut stream = connect(server)?;
                stream.read_to_end(&mut Vec::new())?;
                count += 1;
            }
            Ok(f64::from(count) / start.elapsed().as_secs_f64())
        },
    )
}

/// A server thread in `to`'s namespace that gives each connection to `serve`, and `client` in the other one.
fn between<T: Send>(
    from: BorrowedFd<'_>,
    to: &Place<'_>,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send,
    client: impl FnOnce(SocketAddr) -> io::Result<T> + Send,
) -> Result<T> {
    let listen = |address: Ipv4Addr| TcpListener::bind((address, 0));
    let listener = netns::in_namespace(to.netns, || listen(to.address))??;
    let server = listener.local_addr()?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || {
            loop {
                let (stream, peer) = listener.accept()?;
                // A client that has all it wanted says so by a connection from the server's own address.
                if peer.ip() == server.ip() {
                    return Ok(());
                }
                serve(stream)?;
            }
        });
        let result = netns::in_namespace(from, || client(server))?;
        // Refused when the server has failed already, which it tells itself.
        let _ended = netns::in_namespace(to.netns, || connect(server).map(drop))?;
        let served: io::Result<()> = serving.join().map_err(|_| anyhow!("the server panicked"))?;
        let result = result.context("the client failed")?;
        served.context("the server failed")?;
        Ok(result)
    })
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut message = [0; MESSAGE_LEN];
    loop {
        match stream.read_exact(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        stream.write_all(&message)?;
    }
}

/// Round trips in nanoseconds, without those of the first moments.
fn pings(server: SocketAddr, window: Duration) -> io::Result<Vec<u64>> {
    let mut stream = connect(server)?;
    let mut message = [0x5a; MESSAGE_LEN];
    let mut trips = Vec::new();
    let start = Instant::now();
    loop {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let back = Instant::now();
        if back - start > window + WARM_UP {
            return Ok(trips);
        }
        if sent - start > WARM_UP {
            trips.push((back - sent).as_nanos() as u64);
        }
    }
}

const MESSAGE_LEN: usize = 64;
const PATIENCE: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Guests;

    #[test]
    fn messages_come_back_and_connections_end_in_order() {
        let Some(guests) = Guests::new() else { return };
        let [from, to] = guests.places();
        let window = Duration::from_millis(100);
        let latency = ping_pong(&from, &to, window).unwrap();
        assert!(latency.p50_us > 0.0 && latency.p50_us <= latency.p99_us, "{latency:?}");
        assert!(connect_rate(&from, &to, window).unwrap() > 10.0);
    }

    #[test]
    fn a_guest_that_nobody_reaches_is_an_error_and_no_hang() {
        let Some(guests) = Guests::new() else { return };
        let [from, to] = guests.places();
        let nowhere = netns::create().unwrap();
        let from = Place { netns: std::os::fd::AsFd::as_fd(&nowhere), ..from };
        assert!(ping_pong(&from, &to, Duration::from_millis(100)).is_err());
    }
}
