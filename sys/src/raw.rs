//! Typed doors to ioctl and socket options, and the kernel's socket addresses and control messages as plain words.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `struct ifreq`: a name, and a union that we see as octets.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    data: [u8; 24],
}

const _: () = assert!(size_of::<Ifreq>() == size_of::<libc::ifreq>());

impl Ifreq {
    /// A guest's device in the making: the kernel puts a free number in place of `%d`.
    pub(crate) const GUEST: Self = Self { name: *b"weft-new%d\0\0\0\0\0\0", data: [0; 24] };
    /// A tunnel device, as above.
    pub(crate) const TUNNEL: Self = Self { name: *b"weft-out%d\0\0\0\0\0\0", data: [0; 24] };

    /// For the interface of that name; `None` when no interface can have it.
    pub(crate) fn new(ifname: &str) -> Option<Self> {
        let bad = ifname.is_empty() || ifname.len() >= libc::IFNAMSIZ || ifname.contains(['/', ':', '%', '\0', ' ']);
        if bad {
            return None;
        }
        let mut name = [0; libc::IFNAMSIZ];
        name[..ifname.len()].copy_from_slice(ifname.as_bytes());
        Some(Self { name, data: [0; 24] })
    }

    /// The name of the interface.
    pub(crate) fn ifname(&self) -> String {
        String::from_utf8_lossy(self.name.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    }

    pub(crate) fn with(mut self, bytes: &[u8]) -> Self {
        self.data = [0; 24];
        self.data[..bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn word(&self) -> u32 {
        u32::from_ne_bytes([self.data[0], self.data[1], self.data[2], self.data[3]])
    }
}

/// An ioctl whose argument is a `struct ifreq`.
pub(crate) fn ioctl_ifreq(fd: impl AsFd, request: libc::Ioctl, argument: &mut Ifreq) -> io::Result<()> {
    // SAFETY: callers pass TUNSETIFF and SIOC[GS]IF* requests only; these read and write one `struct ifreq`, whose
    // size and alignment `Ifreq` has, and keep no pointer to it.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument as *mut Ifreq) })
}

/// An ioctl whose argument points to an int.
pub(crate) fn ioctl_int(fd: impl AsFd, request: libc::Ioctl, mut value: c_int) -> io::Result<()> {
    // SAFETY: callers pass TUNSETVNETHDRSZ and TUNSETVNETLE only, which read one int.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut value) })
}

/// An ioctl whose argument is the value itself.
pub(crate) fn ioctl_value(fd: impl AsFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: callers pass TUNSETOFFLOAD only, which takes its argument by value.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) })
}

/// What the kernel may read and write as a socket option: any bit pattern is legal, there is no padding.
///
/// # Safety
/// Implement it for integers and `repr(C)` structs of integers without padding only.
pub(crate) unsafe trait Plain: Copy + Default {}
// SAFETY: an integer.
unsafe impl Plain for c_int {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an array of integers has no padding.
unsafe impl Plain for [u32; 2] {}
// SAFETY: an array of integers has no padding.
unsafe impl Plain for [u32; 3] {}
// SAFETY: an array of integers has no padding.
unsafe impl Plain for [u32; 4] {}

pub(crate) fn set_option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value.
    result(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<T>() as libc::socklen_t)
    })
}

pub(crate) fn option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live value, for which any bit pattern is legal.
    result(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

pub(crate) fn result(value: c_int) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for a `struct sockaddr_in` or `struct sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RawAddr {
    bytes: [u8; 32],
}

impl RawAddr {
    /// The address in the kernel's form, and the octets it takes.
    pub(crate) fn new(addr: SocketAddr) -> (Self, usize) {
        let mut raw = Self::default();
        raw.bytes[2..4].copy_from_slice(&addr.port().to_be_bytes());
        match addr {
            SocketAddr::V4(v4) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                (raw, 16)
            }
            SocketAddr::V6(v6) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (raw, 28)
            }
        }
    }

    /// The address; the unspecified one for any other family.
    pub(crate) fn get(&self) -> SocketAddr {
        let b = &self.bytes;
        let port = u16::from_be_bytes([b[2], b[3]]);
        match i32::from(u16::from_ne_bytes([b[0], b[1]])) {
            libc::AF_INET => SocketAddr::new(IpAddr::V4(Ipv4Addr::new(b[4], b[5], b[6], b[7])), port),
            libc::AF_INET6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&b[8..24]);
                let scope = u32::from_ne_bytes([b[24], b[25], b[26], b[27]]);
                SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope).into()
            }
            _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }
}

/// Words of one message's control buffer: room for five control messages of one word each.
pub(crate) const CONTROL_WORDS: usize = 16;

/// A control buffer: each message is a length word, a level-and-type word, and its data, padded to whole words.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(8))]
pub(crate) struct Control {
    pub(crate) words: [u64; CONTROL_WORDS],
}

impl Control {
    /// Writes a control message of at most 8 octets at word `at`; returns the word behind it.
    pub(crate) fn put(&mut self, at: usize, level: c_int, kind: c_int, data: &[u8]) -> usize {
        self.words[at] = 16 + data.len() as u64;
        self.words[at + 1] = pair(level, kind);
        let mut word = [0; 8];
        word[..data.len()].copy_from_slice(data);
        self.words[at + 2] = u64::from_ne_bytes(word);
        at + 3
    }

    /// The control messages in the first `len` octets: (level, kind, first data word in memory order).
    pub(crate) fn messages(&self, len: usize) -> impl Iterator<Item = (c_int, c_int, [u8; 8])> + '_ {
        let end = (len / 8).min(CONTROL_WORDS);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at + 3 > end {
                return None;
            }
            let (level, kind) = unpair(self.words[at + 1]);
            let data = self.words[at + 2].to_ne_bytes();
            let words = (self.words[at] as usize).div_ceil(8);
            at += words.max(3);
            Some((level, kind, data))
        })
    }
}

fn pair(level: c_int, kind: c_int) -> u64 {
    let (l, k) = (level.to_ne_bytes(), kind.to_ne_bytes());
    u64::from_ne_bytes([l[0], l[1], l[2], l[3], k[0], k[1], k[2], k[3]])
}

fn unpair(word: u64) -> (c_int, c_int) {
    let b = word.to_ne_bytes();
    (c_int::from_ne_bytes([b[0], b[1], b[2], b[3]]), c_int::from_ne_bytes([b[4], b[5], b[6], b[7]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_kernels_form() {
        for text in ["192.0.2.7:4789", "[2001:db8::7]:4789", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::new(addr).0.get(), addr);
        }
    }

    #[test]
    fn control_messages_read_back_in_order() {
        let mut control = Control::default();
        let at = control.put(0, 17, 103, &1450u16.to_ne_bytes());
        let at = control.put(at, 0, 1, &7i32.to_ne_bytes());
        let got: Vec<_> = control.messages(at * 8).collect();
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].0, got[0].1, u16::from_ne_bytes([got[0].2[0], got[0].2[1]])), (17, 103, 1450));
        assert_eq!((got[1].0, got[1].1, got[1].2[0]), (0, 1, 7));
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        assert!(Ifreq::new("").is_none());
        assert!(Ifreq::new("a/b").is_none());
        assert!(Ifreq::new("tap%d").is_none());
        assert!(Ifreq::new("sixteen-letters-").is_none());
        assert!(Ifreq::new("fifteen-letters").is_some());
    }
}
