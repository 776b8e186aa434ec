//! What outlives the process: operators' words, the last state and the history, in SQLite.
//!
//! One thread owns the database; who has something to keep sends it a job. All that waits is done
//! in one transaction, as each transaction waits for the disk: words wait for no history. What an
//! operator is told is kept has been written and synced before. Health and history are written
//! soon after, and what cannot be written is counted and lost: a full disk stops no failover, and
//! no start. A file that is no database is put aside, and costs what was in it and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use metrics::counter;
use rusqlite::ErrorCode::{
    CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use tokio::sync::oneshot;
use tracing::warn;

use super::history::{Kind, Record};
use super::overrides::Said;
use crate::health::State;
use crate::steer::Named;
use crate::time::{Instant, Ttl};

mod history;
#[cfg(test)]
mod tests;

/// A target's last state, as it is kept: by what identifies the target in any process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    /// [`Target::key`](crate::config::Target::key).
    pub target: String,
    /// What was believed.
    pub state: State,
    /// Since when.
    pub since: Instant,
}

/// A TTL that a service's answers have, or had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Given {
    /// The service's name.
    pub service: String,
    /// The TTL.
    pub ttl: Ttl,
    /// When the last answer with it is forgotten; none: such are given.
    pub until: Option<Instant>,
}

/// What slows down moves, by name: services' regions with a family, and regions.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Moves {
    /// What is out.
    pub out: Vec<String>,
    /// What is down, and kept.
    pub kept: Vec<String>,
    /// The regions that left lately, when each did, and with how much of the traffic.
    pub left: Vec<(String, Instant, f64)>,
}

/// What an earlier process knew.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Recalled {
    /// What operators have said.
    pub said: Vec<Said>,
    /// The last state of the targets, and when it was last known to be true.
    pub states: Vec<Kept>,
    /// When it was last alive.
    pub alive: Option<Instant>,
    /// What was out, what was kept, and what had left.
    pub moves: Moves,
    /// The incarnation in which it spoke to other nodes; 0: it did not.
    pub incarnation: u64,
    /// The list of nodes that was agreed last, by name.
    pub nodes: Option<Vec<String>>,
    /// Who is to write, as operators said, by service.
    pub named: BTreeMap<String, Named>,
    /// Which TTLs answers were given with.
    pub given: Vec<Given>,
    /// What is wrong with the file: nothing of all that is known, or nothing more is kept.
    pub lost: Option<String>,
}

/// What part of the history is asked for: the newest first.
#[derive(Clone, Debug)]
pub(super) struct Page {
    /// Only those with lower numbers.
    pub before: Option<i64>,
    /// Only this kind.
    pub kind: Option<Kind>,
    /// At most so many.
    pub limit: usize,
}

/// What is to be done, if there is a way to do it; it gives back who is told whether that is kept.
type Job = Box<dyn FnOnce(Result<&Database, String>) -> Told + Send>;

/// Who is told of something that was done whether it is kept, and if not, why.
type Told = Box<dyn FnOnce(Result<(), String>, &Database)>;

/// At most so many things are done in one transaction: who waits for the first of them waits for
/// all of them, some milliseconds.
const MOST_AT_ONCE: usize = 1_000;

/// The way to the database. Its thread ends when the last of these is gone, after the last job.
#[derive(Clone, Debug)]
pub struct Store(Sender<Job>);

impl Store {
    /// Opens the database in `folder`, or one in memory, and reads what it knows.
    ///
    /// # Errors
    /// Why there can be none.
    pub(super) fn open(folder: Option<&Path>) -> Result<(Self, Recalled), String> {
        let opened = match folder {
            None => Database::of(Connection::open_in_memory())
                .map(|database| (database, None))
                .map_err(|error| error.to_string()),
            Some(folder) => Database::in_folder(folder)
                .map_err(|reason| format!("{}: {reason}", folder.display())),
        };
        let (database, lost) = opened?;
        let recalled = database.recall().map_err(|error| error.to_string())?;
        let recalled = Recalled { lost, ..recalled };
        let (jobs, taken) = channel();
        let thread = thread::Builder::new().name("store".to_owned());
        thread.spawn(move || while database.take(&taken) {}).map_err(|error| error.to_string())?;
        Ok((Self(jobs), recalled))
    }

    /// Keeps an operator's word: it is on disk when this returns.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn say(&self, said: Said) -> impl Future<Output = Result<(), String>> + use<> {
        self.ask(move |database| database.say(&said))
    }

    /// Keeps who is to write for a service, the same way.
    ///
    /// # Errors
    /// Why it is not kept.
    pub(super) fn name(
        &self,
        service: String,
        named: Named,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        self.ask(move |database| database.name(&service, &named))
    }

    /// Forgets an operator's word, the same way.
    ///
    /// # Errors
    /// Why it is still known.
    pub(super) fn clear(
        &self,
        subject: String,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        self.ask(move |Database(connection)| {
            connection.execute("DELETE FROM overrides WHERE subject = ?1", [subject]).map(drop)
        })
    }

    /// Writes to the history, soon.
    pub(super) fn tell(&self, record: Record) {
        self.soon(move |database| database.tell(&record));
    }

    /// Keeps what is believed now, soon.
    pub(super) fn keep(&self, states: Vec<Kept>) {
        self.soon(move |database| database.keep(&states));
    }

    /// These are out, kept and have left, and no others.
    pub(super) fn moves(&self, moves: Moves) {
        self.soon(move |database| database.keep_moves(&moves));
    }

    /// The same, after an operator has let one back: it is on disk when this returns.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn let_back(
        &self,
        moves: Moves,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        self.ask(move |database| database.keep_moves(&moves))
    }

    /// Answers are given with these TTLs, or were, and with no others.
    pub(super) fn given(&self, ttls: Vec<Given>) {
        self.soon(move |database| database.keep_given(&ttls));
    }

    /// In which incarnation this process speaks to other nodes from now on: `least`, or one higher
    /// than that of whichever process spoke for the node last. It is on disk when this returns.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn incarnation(
        &self,
        least: u64,
    ) -> impl Future<Output = Result<u64, String>> + use<> {
        self.ask(move |database| database.incarnation(least))
    }

    /// The nodes have agreed on this list of their names, or this one decides alone.
    pub(super) fn list(&self, names: Option<Vec<String>>) {
        self.soon(move |database| database.keep_list(&names.unwrap_or_default()));
    }

    /// What is kept was true at `now`.
    pub(super) fn alive(&self, now: Instant) {
        self.soon(move |Database(connection)| {
            let sql = "INSERT OR REPLACE INTO alive VALUES (1, ?1)";
            connection.execute(sql, [number(now)]).map(drop)
        });
    }

    /// A part of the history, each record with its number.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) async fn read(&self, page: Page) -> Result<Vec<(i64, Record)>, String> {
        self.ask(move |database| database.read(&page)).await
    }

    /// A webhook has been told what happened until then, soon.
    pub(super) fn told(&self, webhook: String, until: Instant) {
        self.soon(move |Database(connection)| {
            let sql = "INSERT OR REPLACE INTO told VALUES (?1, ?2)";
            connection.execute(sql, params![webhook, number(until)]).map(drop)
        });
    }

    /// What a webhook has not been told, the oldest first: of one that is new, what is told to the
    /// history from `now` on.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn untold(
        &self,
        webhook: String,
        now: Instant,
    ) -> impl Future<Output = Result<Vec<Record>, String>> + use<> {
        self.ask(move |database| database.untold(&webhook, now))
    }

    /// All that was to be kept until now is kept, or counted as lost, when this returns; and it is
    /// in the file itself, which can be read on a full disk too.
    pub(super) async fn settled(&self) {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(|_| {
            Box::new(|_kept, Database(connection)| {
                let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
                let _later = connection.query_row(sql, [], |_| Ok(()));
                let _gone = reply.send(());
            })
        });
        // Else the thread has ended.
        let _ended = self.0.send(job);
        let _ended = answer.await;
    }

    /// Has something done at once, so that of two words the later one is kept, whoever waits for
    /// it.
    fn send<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
        told: impl FnOnce(Result<T, String>) + Send + 'static,
    ) {
        let job: Job = Box::new(move |database| {
            let done = database.and_then(|of| of.step(what).map_err(|error| error.to_string()));
            Box::new(move |kept, _| told(done.and_then(|done| kept.map(|()| done))))
        });
        // The thread ends after the last sender.
        let _ended = self.0.send(job);
    }

    /// Has something done that nobody waits for.
    fn soon(&self, what: impl FnOnce(&Database) -> rusqlite::Result<()> + Send + 'static) {
        self.send(what, |kept| {
            if let Err(error) = kept {
                counter!("meridian_state_lost_total").increment(1);
                warn!(error, "something that happened could not be kept");
            }
        });
    }

    /// Has something done, and tells what came of it.
    fn ask<T, W>(&self, what: W) -> impl Future<Output = Result<T, String>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Who asked may have stopped waiting.
        self.send(what, |kept| drop(reply.send(kept)));
        async { answer.await.unwrap_or_else(|_| Err("the state's thread has ended".to_owned())) }
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
    for tail in ["", "-wal", "-shm"] {
        let named = |end: &str| PathBuf::from(format!("{}{tail}{end}", file.display()));
        if named("").exists() {
            fs::rename(named(""), named(".broken")).map_err(|error| error.to_string())?;
        }
    }
    counter!("meridian_state_lost_total").increment(1);
    Ok(format!("{LOST}: {reason}; what was there is in {}.broken", file.display()))
}

struct Database(Connection);

/// What is said of what SQLite has undone with something else.
const UNDONE: &str = "something else could not be written, and this was undone with it";

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

impl Database {
    /// The one in `folder`, and why it knows nothing of before, if it could not be read.
    fn in_folder(folder: &Path) -> Result<(Self, Option<String>), String> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let file = folder.join("meridian.db");
        Self::of(Connection::open(&file)).map(|database| (database, None)).or_else(|error| {
            if is_full(&error) {
                return Self::unwritten(&file, &error);
            }
            let lost = put_aside(&file, &error)?;
            let database = Self::of(Connection::open(&file)).map_err(|error| error.to_string())?;
            Ok((database, Some(lost)))
        })
    }

    fn of(connection: rusqlite::Result<Connection>) -> rusqlite::Result<Self> {
        let connection = connection?;
        // A write-ahead log that is synced at every commit: what was acknowledged survives a
        // power cut (SQLite, "PRAGMA synchronous").
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::from_secs(1))?;
        connection.execute_batch(TABLES)?;
        Self::sound(connection)
    }

    /// What is in `file`, as far as it can be read where nothing can be written. Whatever is to be
    /// kept is refused, as who asks for that counts on its being on disk.
    fn unwritten(file: &Path, reason: &rusqlite::Error) -> Result<(Self, Option<String>), String> {
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
        let why = format!("nothing is kept on disk until the next start: {reason}; {before}");
        Ok((database, Some(why)))
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

    fn recall(&self) -> rusqlite::Result<Recalled> {
        let mut statement = self.0.prepare("SELECT subject, said FROM overrides")?;
        let said = statement.query_map([], |row| {
            let (subject, text) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
            Said::recalled(subject, text).ok_or(rusqlite::Error::InvalidQuery)
        })?;
        let said = said.collect::<Result<Vec<_>, _>>()?;
        let mut statement = self.0.prepare("SELECT target, state, since FROM states")?;
        let kept = |row: &Row<'_>| {
            let state = match row.get_ref(1)?.as_str()? {
                "up" => State::Up,
                "down" => State::Down,
                _ => State::Unknown,
            };
            Ok(Kept { target: row.get(0)?, state, since: moment(row.get(2)?) })
        };
        let states = statement.query_map([], kept)?.collect::<Result<Vec<_>, _>>()?;
        let alive = self.0.query_row("SELECT at FROM alive", [], |row| row.get(0));
        let alive: Option<i64> = alive.optional()?;
        let last = self.0.query_row("SELECT number FROM incarnation", [], |row| row.get(0));
        let incarnation: Option<i64> = last.optional()?;
        let incarnation = incarnation.map_or(0, i64::unsigned_abs);
        let mut statement = self.0.prepare("SELECT name FROM nodes ORDER BY name")?;
        let nodes = statement.query_map([], |row| row.get(0))?;
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let nodes = Some(nodes).filter(|nodes| !nodes.is_empty());
        let mut statement = self.0.prepare("SELECT service, named FROM writers")?;
        let named = statement.query_map([], |row| {
            let named = serde_json::from_str(row.get_ref(1)?.as_str()?);
            Ok((row.get(0)?, named.map_err(|_| rusqlite::Error::InvalidQuery)?))
        })?;
        let named = named.collect::<Result<_, _>>()?;
        let mut statement = self.0.prepare("SELECT service, ttl, until FROM given")?;
        let given = |row: &Row<'_>| {
            let until = row.get::<_, Option<i64>>(2)?.map(moment);
            Ok(Given { service: row.get(0)?, ttl: Ttl::from_secs(row.get(1)?), until })
        };
        let given = statement.query_map([], given)?.collect::<Result<Vec<_>, _>>()?;
        let alive = alive.map(moment);
        let moves = self.recall_moves()?;
        Ok(Recalled { nodes, named, said, states, alive, moves, incarnation, given, lost: None })
    }

    fn recall_moves(&self) -> rusqlite::Result<Moves> {
        let pools = |sql| {
            let mut statement = self.0.prepare(sql)?;
            statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
        };
        let mut statement = self.0.prepare("SELECT region, at, share FROM moved")?;
        let left = |row: &Row<'_>| Ok((row.get(0)?, moment(row.get(1)?), row.get(2)?));
        let left = statement.query_map([], left)?.collect::<Result<_, _>>()?;
        let [out, kept] = [pools("SELECT pool FROM out")?, pools("SELECT pool FROM kept")?];
        Ok(Moves { out, kept, left })
    }

    /// Does what waits, once something does; `false`: nobody can ask any more.
    fn take(&self, jobs: &Receiver<Job>) -> bool {
        let Ok(first) = jobs.recv() else { return false };
        // At once, as another process may have the same database.
        let begun = Transaction::new_unchecked(&self.0, TransactionBehavior::Immediate);
        let begun = begun.map_err(|error| error.to_string());
        let way = begun.as_ref().map(|_| self).map_err(Clone::clone);
        let jobs = iter::once(first).chain(jobs.try_iter()).take(MOST_AT_ONCE);
        let told: Vec<Told> = jobs.map(|job| job(way.clone())).collect();
        let kept = begun.and_then(|begun| {
            if self.0.is_autocommit() {
                return Err(UNDONE.to_owned());
            }
            begun.commit().map_err(|error| error.to_string())
        });
        told.into_iter().for_each(|told| told(kept.clone(), self));
        true
    }

    /// Does one of several things of a transaction, or nothing of it.
    fn step<T>(&self, what: impl FnOnce(&Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        if self.0.is_autocommit() {
            // SQLite itself has ended the transaction, as it may when the disk is full.
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT);
            return Err(rusqlite::Error::SqliteFailure(error, Some(UNDONE.to_owned())));
        }
        self.0.execute_batch("SAVEPOINT step")?;
        let done = what(self);
        if done.is_err() {
            // If there is nothing left to go back to, all is undone.
            let _undone = self.0.execute_batch("ROLLBACK TO step");
        }
        let ended = self.0.execute_batch("RELEASE step");
        done.and_then(|done| ended.map(|()| done))
    }

    /// In one statement, as another process may have the same database.
    fn incarnation(&self, least: u64) -> rusqlite::Result<u64> {
        let sql = "INSERT INTO incarnation VALUES (1, ?1) ON CONFLICT (one) \
                   DO UPDATE SET number = max(excluded.number, number + 1) RETURNING number";
        let least = i64::try_from(least).unwrap_or(i64::MAX);
        let given: i64 = self.0.query_row(sql, [least], |row| row.get(0))?;
        Ok(given.unsigned_abs())
    }

    fn say(&self, said: &Said) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO overrides VALUES (?1, ?2)";
        self.0.execute(sql, [said.subject.to_string(), said.spoken()]).map(drop)
    }

    fn name(&self, service: &str, named: &Named) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO writers VALUES (?1, ?2)";
        // Text and numbers can always be written.
        let named = serde_json::to_string(named).unwrap_or_default();
        self.0.execute(sql, [service, &named]).map(drop)
    }

    fn keep(&self, states: &[Kept]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO states VALUES (?1, ?2, ?3)";
        for kept in states {
            let state = kept.state.to_string();
            self.0.execute(sql, params![kept.target, state, number(kept.since)])?;
        }
        Ok(())
    }

    fn keep_moves(&self, moves: &Moves) -> rusqlite::Result<()> {
        self.0.execute_batch("DELETE FROM out; DELETE FROM kept; DELETE FROM moved;")?;
        for pool in &moves.out {
            self.0.execute("INSERT OR REPLACE INTO out VALUES (?1)", [pool])?;
        }
        for pool in &moves.kept {
            self.0.execute("INSERT OR REPLACE INTO kept VALUES (?1)", [pool])?;
        }
        for (region, at, share) in &moves.left {
            let sql = "INSERT OR REPLACE INTO moved VALUES (?1, ?2, ?3)";
            self.0.execute(sql, params![region, number(*at), share])?;
        }
        Ok(())
    }

    fn keep_list(&self, names: &[String]) -> rusqlite::Result<()> {
        self.0.execute("DELETE FROM nodes", [])?;
        for name in names {
            self.0.execute("INSERT OR REPLACE INTO nodes VALUES (?1)", [name])?;
        }
        Ok(())
    }

    fn keep_given(&self, given: &[Given]) -> rusqlite::Result<()> {
        self.0.execute("DELETE FROM given", [])?;
        for Given { service, ttl, until } in given {
            let sql = "INSERT INTO given VALUES (?1, ?2, ?3)";
            self.0.execute(sql, params![service, ttl.as_secs(), until.map(number)])?;
        }
        Ok(())
    }
}

/// A moment as SQLite keeps it: nanoseconds since the Unix epoch.
fn number(moment: Instant) -> i64 {
    i64::try_from(moment.as_nanos()).unwrap_or(i64::MAX)
}

fn moment(number: i64) -> Instant {
    Instant::from_nanos(u64::try_from(number).unwrap_or(0))
}
