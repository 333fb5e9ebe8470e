//! Network namespaces: opening, entering, making them.
//!
//! A namespace belongs to a thread, and a thread that moved must not run other work: everything that happens inside
//! another namespace happens in a short-lived thread of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::netlink::Netlink;

/// Opens a namespace by path, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstatfs(&fd)?.f_type as u64 != NSFS_MAGIC {
        let text = format!("{} is no network namespace: its name is there, the namespace is not", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(fd)
}

/// The namespace of this thread.
pub fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// A number that two descriptors share exactly when they are of the same namespace, while one of them is open.
pub fn inode(netns: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(netns)?.st_ino)
}

/// Moves this thread into the namespace.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?)
}

/// Does something inside a namespace, in a thread that ends with it.
pub fn in_namespace<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(|| {
        enter(netns)?;
        Ok(work())
    })
}

/// Makes a namespace without a name, with its loopback up. It lives as long as the descriptor, or as somebody in it.
pub fn create() -> io::Result<OwnedFd> {
    in_thread(|| {
        // SAFETY: the descriptor table stays shared: FILES is not among the flags.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
        Netlink::open().and_then(|mut netlink| netlink.set_up("lo")).map_err(io::Error::other)?;
        current()
    })
}

/// Makes a namespace with a name in the file system; below `/run/netns` it is visible to `ip netns`.
pub fn create_at(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let netns = create()?;
    std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let source = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&netns));
    if let Err(error) = rustix::mount::mount_bind(&source, path) {
        std::fs::remove_file(path)?;
        return Err(error.into());
    }
    Ok(netns)
}

/// Takes the name away, and with it the namespace once nobody uses it.
pub fn delete_at(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => std::fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const NSFS_MAGIC: u64 = 0x6e73_6673;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_happens_inside_and_the_caller_stays_outside() {
        if !crate::may_test_as_root() {
            return;
        }
        let outside = inode(current().unwrap()).unwrap();
        let netns = create().unwrap();
        let inside = in_namespace(netns.as_fd(), || inode(current().unwrap()).unwrap()).unwrap();
        assert_eq!(inside, inode(&netns).unwrap());
        assert_ne!(inside, outside);
        assert_eq!(inode(current().unwrap()).unwrap(), outside);
    }

    #[test]
    fn a_named_namespace_opens_by_its_path_until_it_is_deleted() {
        if !crate::may_test_as_root() {
            return;
        }
        let path = std::env::temp_dir().join(format!("weft-netns-{}", std::process::id()));
        let netns = create_at(&path).unwrap();
        assert_eq!(inode(open(&path).unwrap()).unwrap(), inode(&netns).unwrap());
        assert_eq!(create_at(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        delete_at(&path).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_plain_file_is_no_namespace() {
        let error = open(Path::new("/proc/self/status")).unwrap_err();
        assert!(error.to_string().contains("is no network namespace"), "{error}");
    }
}
