//! What outlives the process: operators' words, the last state and the history, in SQLite.
//!
//! One thread owns the database; who has something to keep sends it a job. All that waits is done
//! in one transaction, as each transaction waits for the disk: words wait for no history. What an
//! operator is told is kept has been written and synced before. Health and history are written
//! soon after, and what cannot be written is counted and lost: a full disk stops no failover, and
//! no start. A file that is no database is put aside, and costs what was in it and nothing else; a
//! row that cannot be read is passed over, and costs no other.

use std::collections::{BTreeMap, HashSet};
use std::iter;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot;
use tracing::warn;

use super::history::{Kind, Record};
use super::overrides::Said;
use crate::health::State;
use crate::steer::Named;
use crate::time::{Instant, Ttl};

use fault::Fault;
use place::Place;
pub(super) use pushed::Pushing;
use pushed::Waiting;

mod fault;
mod history;
mod opened;
mod place;
mod pushed;
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
    /// What others told of addresses.
    pub pushed: Vec<Pushing>,
    /// What is wrong with the file: nothing of all that is known, or nothing more is kept.
    pub lost: Option<String>,
    /// The rows that cannot be read, and are passed over: the table, and what it is of.
    pub unread: Vec<String>,
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
pub struct Store {
    jobs: Sender<Job>,
    fault: Fault,
    waiting: Waiting,
}

impl Store {
    /// Opens the database in `folder`, or one in memory, and reads what it knows.
    ///
    /// # Errors
    /// Why there can be none.
    pub(super) fn open(folder: Option<&Path>) -> Result<(Self, Recalled), String> {
        let opened = match folder {
            None => Database::of(Connection::open_in_memory())
                .map(|database| (database, None, Fault::none()))
                .map_err(|error| error.to_string()),
            Some(folder) => Database::in_folder(folder)
                .map_err(|reason| format!("{}: {reason}", folder.display())),
        };
        let (mut database, lost, fault) = opened?;
        let mut place = folder.and_then(Place::of);
        let recalled = database.recall().map_err(|error| error.to_string())?;
        for row in &recalled.unread {
            warn!(row, "a part of the state cannot be read, and is passed over");
        }
        let recalled = Recalled { lost, ..recalled };
        let (jobs, taken) = channel();
        let thread = thread::Builder::new().name("store".to_owned());
        let seen = fault.clone();
        thread
            .spawn(move || while database.take(place.as_mut(), &taken, &seen) {})
            .map_err(|error| error.to_string())?;
        Ok((Self { jobs, fault, waiting: Waiting::default() }, recalled))
    }

    /// Why the last thing that was to be kept could not be, or is not yet, and where.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.told()
    }

    /// For how long what is being written has been waiting for the disk.
    pub(super) fn waiting(&self) -> Duration {
        self.fault.waiting()
    }

    /// What is kept by now, as another process may have the same database.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn again(&self) -> impl Future<Output = Result<Recalled, String>> + use<> {
        self.ask(Database::recall)
    }

    /// Keeps an operator's word: it is on disk when this returns.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn say(&self, said: Said) -> impl Future<Output = Result<(), String>> + use<> {
        self.ask(move |database| database.say(&said))
    }

    /// Keeps who is to write for a service, the same way, unless it is a word of a later epoch that
    /// is on disk: how far a word has come may be written after the next one was.
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

    /// These targets are configured, and no others: the last states of others are forgotten, soon.
    pub(super) fn only(&self, targets: HashSet<String>) {
        self.soon(move |database| database.forget_but(&targets));
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
        let (reply, answer) = oneshot::channel();
        // That it can be read does not tell that it can be written.
        self.send(move |database| database.read(&page), |read| drop(reply.send(read)));
        answer.await.unwrap_or_else(|_| Err(ENDED.to_owned()))
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
        let _ended = self.jobs.send(job);
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
        let _ended = self.jobs.send(job);
    }

    /// Has something kept, and sees whether it is.
    fn write<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
        told: impl FnOnce(Result<T, String>) + Send + 'static,
    ) {
        let fault = self.fault.clone();
        self.send(what, move |kept| told(fault.note(kept)));
    }

    /// Has something done that nobody waits for.
    fn soon(&self, what: impl FnOnce(&Database) -> rusqlite::Result<()> + Send + 'static) {
        self.write(what, drop);
    }

    /// Has something done, and tells what came of it.
    fn ask<T, W>(&self, what: W) -> impl Future<Output = Result<T, String>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Who asked may have stopped waiting.
        self.write(what, |kept| drop(reply.send(kept)));
        async { answer.await.unwrap_or_else(|_| Err(ENDED.to_owned())) }
    }
}

/// What is said when nothing can be asked any more.
const ENDED: &str = "the state's thread has ended";

struct Database(Connection);

/// What is said of what SQLite has undone with something else.
const UNDONE: &str = "something else could not be written, and this was undone with it";

impl Database {
    fn recall(&self) -> rusqlite::Result<Recalled> {
        let mut unread = Vec::new();
        let said = self.readable(&mut unread, "overrides", "subject, said", |row| {
            let (subject, text) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
            Said::recalled(subject, text).ok_or(rusqlite::Error::InvalidQuery)
        })?;
        let states = self.readable(&mut unread, "states", "target, state, since", |row| {
            let state = match row.get_ref(1)?.as_str()? {
                "up" => State::Up,
                "down" => State::Down,
                _ => State::Unknown,
            };
            Ok(Kept { target: row.get(0)?, state, since: moment(row.get(2)?) })
        })?;
        let alive = self.0.query_row("SELECT at FROM alive", [], |row| row.get(0));
        let alive: Option<i64> = alive.optional()?;
        let last = self.0.query_row("SELECT number FROM incarnation", [], |row| row.get(0));
        let incarnation: Option<i64> = last.optional()?;
        let incarnation = incarnation.map_or(0, i64::unsigned_abs);
        // All of them or none: fewer would be another majority.
        let mut statement = self.0.prepare("SELECT name FROM nodes ORDER BY name")?;
        let nodes = statement.query_map([], |row| row.get(0))?;
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let nodes = Some(nodes).filter(|nodes| !nodes.is_empty());
        let named = self.readable(&mut unread, "writers", "service, named", |row| {
            let named = serde_json::from_str(row.get_ref(1)?.as_str()?);
            Ok((row.get(0)?, named.map_err(|_| rusqlite::Error::InvalidQuery)?))
        })?;
        let named = named.into_iter().collect();
        let given = self.readable(&mut unread, "given", "service, ttl, until", |row| {
            let until = row.get::<_, Option<i64>>(2)?.map(moment);
            Ok(Given { service: row.get(0)?, ttl: Ttl::from_secs(row.get(1)?), until })
        })?;
        let alive = alive.map(moment);
        let moves = self.recall_moves(&mut unread)?;
        let (pushed, lost) = (self.recall_pushed(&mut unread)?, None);
        Ok(Recalled {
            nodes,
            named,
            said,
            states,
            alive,
            moves,
            incarnation,
            given,
            pushed,
            lost,
            unread,
        })
    }

    fn recall_moves(&self, unread: &mut Vec<String>) -> rusqlite::Result<Moves> {
        let left = self.readable(unread, "moved", "region, at, share", |row| {
            Ok((row.get(0)?, moment(row.get(1)?), row.get(2)?))
        })?;
        let out = self.readable(unread, "out", "pool", |row| row.get(0))?;
        let kept = self.readable(unread, "kept", "pool", |row| row.get(0))?;
        Ok(Moves { out, kept, left })
    }

    /// What can be read of a table. A row that makes no sense here, as a newer version may have
    /// written it, costs what is in it and stays where it is: it is `unread`, by its first column.
    fn readable<T>(
        &self,
        unread: &mut Vec<String>,
        table: &str,
        columns: &str,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut statement = self.0.prepare(&format!("SELECT {columns} FROM {table}"))?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            match read(row) {
                Ok(one) => all.push(one),
                Err(_) => {
                    let of = row.get(0).unwrap_or_else(|_| "?".to_owned());
                    unread.push(format!("{table}: {of}"));
                }
            }
        }
        Ok(all)
    }

    /// Does what waits, once something does; `false`: nobody can ask any more.
    fn take(&mut self, place: Option<&mut Place>, jobs: &Receiver<Job>, fault: &Fault) -> bool {
        let Ok(first) = jobs.recv() else { return false };
        fault.set_writing(true);
        let held = place.map_or(Ok(()), |place| place.hold(self));
        // At once, as another process may have the same database.
        let begin = || Transaction::new_unchecked(&self.0, TransactionBehavior::Immediate);
        let begun = held.and_then(|()| begin().map_err(|error| error.to_string()));
        let way = begun.as_ref().map(|_| &*self).map_err(Clone::clone);
        let jobs = iter::once(first).chain(jobs.try_iter()).take(MOST_AT_ONCE);
        let told: Vec<Told> = jobs.map(|job| job(way.clone())).collect();
        let kept = begun.and_then(|begun| {
            if self.0.is_autocommit() {
                return Err(UNDONE.to_owned());
            }
            begun.commit().map_err(|error| error.to_string())
        });
        fault.set_writing(false);
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
        let sql = "SELECT named FROM writers WHERE service = ?1";
        let kept = self.0.query_row(sql, [service], |row| row.get(0)).optional()?;
        // What cannot be read is replaced.
        let kept = kept.and_then(|kept: String| serde_json::from_str::<Named>(&kept).ok());
        if kept.is_some_and(|kept| kept.outlasts(named)) {
            return Ok(());
        }
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

    fn forget_but(&self, targets: &HashSet<String>) -> rusqlite::Result<()> {
        let mut statement = self.0.prepare("SELECT target FROM states")?;
        let kept =
            statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        for target in kept.iter().filter(|kept| !targets.contains(*kept)) {
            self.0.execute("DELETE FROM states WHERE target = ?1", [target])?;
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
