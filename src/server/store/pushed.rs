//! What others told of addresses over the API, for as long as it is to be believed.
//!
//! It is told again and again, and written behind the back of whoever tells it: what waits for the
//! disk is the latest of each check and address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::params;

use super::{Database, Store, moment, number};
use crate::time::Instant;

/// What was told last of an address, as far as a check of this name goes: whether it is up, and
/// until when that is to be believed.
pub(in crate::server) type Pushing = (Of, Told);
type Of = (String, IpAddr);
type Told = (bool, Instant);

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS pushed (
        name TEXT NOT NULL, address TEXT NOT NULL, up INTEGER NOT NULL, until INTEGER NOT NULL,
        PRIMARY KEY (name, address)) STRICT;
    CREATE INDEX IF NOT EXISTS pushed_until ON pushed (until);
";

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    told: Arc<Mutex<HashMap<Of, Told>>>,
    /// Whether somebody is about to take it.
    is_queued: Arc<AtomicBool>,
}

impl Store {
    /// Keeps what was told at `now`, soon.
    pub(in crate::server) fn pushed(&self, now: Instant, (of, told): Pushing) {
        let Waiting { told: waiting, is_queued } = self.waiting.clone();
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(of, told);
        if is_queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let is_over = is_queued.clone();
        let keep = move |database: &Database| {
            // Whoever tells something from here on has it written by the next one.
            is_queued.store(false, Ordering::SeqCst);
            let all = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
            database.keep_pushed(now, all)
        };
        // If nothing could be written at all, this was not done.
        self.write(keep, move |_kept| is_over.store(false, Ordering::SeqCst));
    }
}

impl Database {
    fn keep_pushed(
        &self,
        now: Instant,
        all: impl IntoIterator<Item = Pushing>,
    ) -> rusqlite::Result<()> {
        self.0.execute("DELETE FROM pushed WHERE until <= ?1", [number(now)])?;
        let sql = "INSERT OR REPLACE INTO pushed VALUES (?1, ?2, ?3, ?4)";
        for ((check, address), (is_up, until)) in all {
            self.0.execute(sql, params![check, address.to_string(), is_up, number(until)])?;
        }
        Ok(())
    }

    pub(super) fn recall_pushed(&self, unread: &mut Vec<String>) -> rusqlite::Result<Vec<Pushing>> {
        // A file of an earlier version that cannot be written has no such table.
        if !self.0.table_exists(None, "pushed")? {
            return Ok(Vec::new());
        }
        self.readable(unread, "pushed", "name, address, up, until", |row| {
            let address = row.get_ref(1)?.as_str()?.parse();
            let address = address.map_err(|_| rusqlite::Error::InvalidQuery)?;
            Ok(((row.get(0)?, address), (row.get(2)?, moment(row.get(3)?))))
        })
    }
}
