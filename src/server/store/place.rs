//! Whether the database is still where it is to be found at the next start.
//!
//! A file that was removed while it is open takes all that is written, and nobody will ever read
//! it: what was acknowledged would be lost without a word.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tracing::warn;

use super::Database;
use super::opened::{FILE, beside, create};

/// The database's file, as it was when it was opened.
pub(super) struct Place {
    file: PathBuf,
    /// Its device and inode.
    print: (u64, u64),
}

impl Place {
    /// Of the one in `folder`, if there is one.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        let file = folder.join(FILE);
        Some(Self { print: print(&file).ok()?, file })
    }

    /// Sees that `database` is in its place: where its file was removed, all of it is written there
    /// anew.
    ///
    /// # Errors
    /// Why what is written would not be found.
    pub(super) fn hold(&mut self, database: &mut Database) -> Result<(), String> {
        let shown = self.file.display();
        match print(&self.file) {
            Ok(print) if print == self.print => Ok(()),
            Ok(_) => Err(format!(
                "{shown} is not the file that was opened; start the server anew, so that it goes \
                 by this one"
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn!(file = %shown, "what is kept was removed, and is written anew");
                let restored = self.restore(database);
                restored.map_err(|error| format!("{} was removed: {error}", self.file.display()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn restore(&mut self, database: &mut Database) -> Result<(), Box<dyn std::error::Error>> {
        let (folder, copy) = (self.file.with_file_name(""), beside(&self.file, "-new"));
        create(&folder)?;
        remove(&copy)?;
        database.0.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
        // SQLite removes the log by its name when it closes a file, and would go by one that is
        // there when it opens one.
        drop(mem::replace(&mut database.0, Connection::open_in_memory()?));
        remove(&beside(&self.file, "-wal"))?;
        remove(&beside(&self.file, "-shm"))?;
        fs::rename(&copy, &self.file)?;
        File::open(&folder)?.sync_all()?;
        *database = Database::of(Connection::open(&self.file))?;
        self.print = print(&self.file)?;
        Ok(())
    }
}

fn print(file: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(file).map(|found| (found.dev(), found.ino()))
}

/// Removes a file, if it is there.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
