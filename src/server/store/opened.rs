//! How the database is opened, whatever is in its place.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics::counter;
use rusqlite::ErrorCode::{
    CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
};
use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use super::{Database, Page, pushed};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS overrides (subject TEXT PRIMARY KEY, said TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS writers (service TEXT PRIMARY KEY, named TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS incarnation (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER)
        STRICT;
    CREATE TABLE IF NOT EXISTS nodes (name TEXT PRIMARY KEY) STRICT;
    CREATE TABLE IF NOT EXISTS states (
        target TEXT PRIMARY KEY, state TEXT NOT NULL, since INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS out (pool TEXT PRIMARY KEY) STRICT;
    CREATE TABLE IF NOT EXISTS kept (pool TEXT PRIMARY KEY) STRICT;
    CREATE TABLE IF NOT EXISTS moved (
        region TEXT PRIMARY KEY, at INTEGER NOT NULL, share REAL NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS given (
        service TEXT NOT NULL, ttl INTEGER NOT NULL, until INTEGER,
        PRIMARY KEY (service, ttl)) STRICT;
    CREATE TABLE IF NOT EXISTS alive (one INTEGER PRIMARY KEY CHECK (one = 1), at INTEGER) STRICT;
    CREATE TABLE IF NOT EXISTS history (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL,
        subject TEXT NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL, who TEXT NOT NULL,
        took INTEGER, generation INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS told (webhook TEXT PRIMARY KEY, until INTEGER NOT NULL) STRICT;
";

/// What the database is called in its folder.
pub(super) const FILE: &str = "meridian.db";

/// The file beside `file` whose name has this at its end.
pub(super) fn beside(file: &Path, tail: &str) -> PathBuf {
    PathBuf::from(format!("{}{tail}", file.display()))
}

/// Makes a folder for what is kept, which is nobody else's to read: reasons, owners, history.
pub(super) fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

impl Database {
    /// The one in `folder`, and why it knows nothing of before, if it could not be read.
    pub(super) fn in_folder(folder: &Path) -> Result<(Self, Option<String>, Fault), String> {
        create(folder).map_err(|error| error.to_string())?;
        let file = folder.join(FILE);
        // To SQLite that is a new one. None of ours is left so.
        let is_empty = fs::metadata(&file).is_ok_and(|of| of.len() == 0);
        let error = match Self::of(Connection::open(&file)) {
            Ok(database) => {
                let lost = is_empty.then(|| lost(&format!("{} was empty", file.display())));
                return Ok((database, lost, Fault::seen(folder)));
            }
            Err(error) => error,
        };
        if is_full(&error) {
            let (database, why) = Self::unwritten(&file, &error)?;
            // That nothing is kept is told by this already.
            return Ok((database, Some(why), Fault::known(folder)));
        }
        let lost = put_aside(&file, &error)?;
        let database = Self::of(Connection::open(&file)).map_err(|error| error.to_string())?;
        Ok((database, Some(lost), Fault::seen(folder)))
    }

    pub(super) fn of(connection: rusqlite::Result<Connection>) -> rusqlite::Result<Self> {
        let connection = connection?;
        // A write-ahead log that is synced at every commit: what was acknowledged survives a
        // power cut (SQLite, "PRAGMA synchronous").
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::from_secs(1))?;
        connection.execute_batch(TABLES)?;
        connection.execute_batch(pushed::TABLE)?;
        Self::sound(connection)
    }

    /// What is in `file`, as far as it can be read where nothing can be written. Whatever is to be
    /// kept is refused, as who asks for that counts on its being on disk.
    fn unwritten(file: &Path, reason: &rusqlite::Error) -> Result<(Self, String), String> {
        let log = fs::metadata(format!("{}-wal", file.display())).map_or(0, |log| log.len());
        // What is in the log would be passed over.
        let read = Some(file).filter(|_| log == 0).and_then(|file| Self::of_immutable(file).ok());
        let (database, before) = match read {
            Some(database) => (database, "what was said before is known"),
            // It may not be there, or not be ours to read.
            None if matches!(reason.sqlite_error_code(), Some(CannotOpen | ReadOnly)) => {
                return Err(reason.to_string());
            }
            None => (Self::of_nothing().map_err(|error| error.to_string())?, LOST),
        };
        counter!("meridian_state_lost_total").increment(1);
        let shown = file.display();
        let why =
            format!("nothing is kept on disk until the next start: {shown}: {reason}; {before}");
        Ok((database, why))
    }

    fn of_immutable(file: &Path) -> rusqlite::Result<Self> {
        let path = file.display().to_string();
        let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        Self::sound(Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)?)
    }

    fn of_nothing() -> rusqlite::Result<Self> {
        let database = Self::of(Connection::open_in_memory())?;
        database.0.pragma_update(None, "query_only", true)?;
        Ok(database)
    }

    fn sound(connection: Connection) -> rusqlite::Result<Self> {
        let database = Self(connection);
        // Whatever is wrong with it is wrong now, and not when it is needed.
        database.recall()?;
        database.read(&Page { before: None, kind: None, limit: 1 })?;
        Ok(database)
    }
}

/// Is it the disk that has no room, or cannot be written, whatever is in the file?
fn is_full(reason: &rusqlite::Error) -> bool {
    matches!(reason.sqlite_error_code(), Some(SystemIoFailure | DiskFull | CannotOpen | ReadOnly))
}

/// What is to be told of it.
const LOST: &str = "what operators said before the start is lost, the history too; say again what \
                    is to hold";

/// Renames a file that is no database of ours, with what SQLite keeps beside it, and tells where
/// it is and why.
fn put_aside(file: &Path, reason: &rusqlite::Error) -> Result<String, String> {
    let is_broken = match reason.sqlite_error_code() {
        Some(code) => matches!(code, DatabaseCorrupt | NotADatabase),
        // Tables that are not ours.
        None => true,
    };
    if !is_broken {
        return Err(reason.to_string());
    }
    let named = |tail: &str, end: &str| beside(file, &format!("{tail}{end}"));
    let tails = ["", "-wal", "-shm"];
    // What was put aside before is not written over: it may be all that is left of what was said.
    let is_taken = |end: &String| tails.iter().any(|tail| named(tail, end).exists());
    let (mut end, mut number) = (".broken".to_owned(), 1);
    while is_taken(&end) {
        number += 1;
        end = format!(".broken.{number}");
    }
    for tail in tails {
        if named(tail, "").exists() {
            fs::rename(named(tail, ""), named(tail, &end)).map_err(|error| error.to_string())?;
        }
    }
    Ok(lost(&format!("{reason}; what was there is in {}{end}", file.display())))
}

/// Counts that all is lost, and tells why.
fn lost(why: &str) -> String {
    counter!("meridian_state_lost_total").increment(1);
    format!("{LOST}: {why}")
}
