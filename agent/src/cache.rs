//! The memory of the agent: the last program, written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::work::Cached;

/// Changes with the layout of [`Cached`].
const MAGIC: &[u8; 8] = b"weft-a01";

/// Writes the program where [`load`] finds it.
pub fn save(file: &Path, cached: &Cached) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(postcard::to_stdvec(cached).map_err(io::Error::other)?);
    write_atomically(file, &bytes)
}

/// Reads the program; `None` when there is none.
pub fn load(file: &Path) -> io::Result<Option<Cached>> {
    let bytes = match fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("it was written by another build".into()))?;
    postcard::from_bytes(body).map(Some).map_err(|e| bad(e.to_string()))
}

/// Writes a file for its owner only, so that, whatever happens, the old or the new content is there.
pub fn write_atomically(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fresh = file.with_extension("new");
    let mut new = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    fs::rename(&fresh, file)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use weft_program::Position;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        assert_eq!(load(&file).unwrap(), None);
        let position = Position { store_id: "s".into(), generation: 7, digest: "d".into() };
        let cached =
            Cached { position, live: ["red/a".to_owned()].into(), program: vec![1, 2, 3], ..Cached::default() };
        save(&file, &cached).unwrap();
        assert_eq!(load(&file).unwrap(), Some(cached));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "a program tells who is where");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        for bytes in [&b""[..], b"weft-a00", b"weft-a01", b"weft-a01\xff\xff\xff\xff\xff\xff"] {
            fs::write(&file, bytes).unwrap();
            assert_eq!(load(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
