//! Files: read with care, and watched by what the file system says of them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The largest file that is read: larger than any GeoIP database.
const LARGEST: u64 = 1 << 30;

/// All of `file`.
///
/// # Errors
/// Why it cannot be had. What is no regular file is not read: a pipe could be waited for for ever.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no file {}", file.display()),
        std::io::ErrorKind::PermissionDenied => {
            format!("no permission to read {}", file.display())
        }
        _ => error.to_string(),
    };
    let metadata = fs::metadata(file).map_err(told)?;
    if metadata.is_dir() {
        return Err(format!("{} is a directory; expected a file", file.display()));
    }
    if !metadata.is_file() {
        return Err(format!("{} is no regular file", file.display()));
    }
    if metadata.len() > LARGEST {
        return Err(format!("{} is larger than {LARGEST} octets", file.display()));
    }
    let mut bytes = Vec::new();
    fs::File::open(file).map_err(told)?.take(LARGEST).read_to_end(&mut bytes).map_err(told)?;
    Ok(bytes)
}

/// By what a changed file is noticed: when it was written, its size and its inode; nothing of one
/// that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Print(Option<(i64, i64, u64, u64)>);

impl Print {
    /// Of `file`, as it is now.
    pub fn of(file: &Path) -> Self {
        let metadata = fs::metadata(file).ok();
        Self(metadata.map(|of| (of.mtime(), of.mtime_nsec(), of.size(), of.ino())))
    }
}
