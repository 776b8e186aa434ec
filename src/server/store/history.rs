//! The history, as it is kept and told.

use std::time::Duration;

use rusqlite::{Row, params};

use super::super::history::{Kind, Record};
use super::{Database, Page, moment, number};
use crate::time::Instant;

/// How many records of the history are kept: at ten a minute, a week.
const KEPT: i64 = 100_000;

impl Database {
    pub(super) fn tell(&self, record: &Record) -> rusqlite::Result<()> {
        let sql = "INSERT INTO history (at, kind, subject, what, why, who, took, generation) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let Record { subject, what, why, who, .. } = record;
        let took = record.took.map(|took| i64::try_from(took.as_micros()).unwrap_or(i64::MAX));
        let generation = i64::try_from(record.generation).unwrap_or(i64::MAX);
        self.0.execute(
            sql,
            params![
                number(record.at),
                record.kind.label(),
                subject,
                what,
                why,
                who,
                took,
                generation
            ],
        )?;
        let newest = self.0.last_insert_rowid();
        self.0.execute("DELETE FROM history WHERE number <= ?1", [newest - KEPT]).map(drop)
    }

    pub(super) fn read(&self, page: &Page) -> rusqlite::Result<Vec<(i64, Record)>> {
        let sql = "SELECT number, at, kind, subject, what, why, who, took, generation \
                   FROM history WHERE number < ?1 AND (?2 IS NULL OR kind = ?2) \
                   ORDER BY number DESC LIMIT ?3";
        let mut statement = self.0.prepare(sql)?;
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
        let before = page.before.unwrap_or(i64::MAX);
        let kind = page.kind.map(Kind::label);
        statement.query_map(params![before, kind, limit], record)?.collect()
    }

    pub(super) fn untold(&self, webhook: &str, now: Instant) -> rusqlite::Result<Vec<Record>> {
        let sql = "INSERT OR IGNORE INTO told VALUES (?1, ?2)";
        self.0.execute(sql, params![webhook, number(now)])?;
        let sql = "SELECT number, at, kind, subject, what, why, who, took, generation \
                   FROM history WHERE at > (SELECT until FROM told WHERE webhook = ?1) \
                   ORDER BY number";
        let mut statement = self.0.prepare(sql)?;
        statement.query_map([webhook], |row| record(row).map(|(_, record)| record))?.collect()
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<(i64, Record)> {
    let kind = row.get_ref(2)?.as_str()?;
    let kind = Kind::ALL.into_iter().find(|known| known.label() == kind).unwrap_or(Kind::Node);
    let took: Option<i64> = row.get(7)?;
    let record = Record {
        at: moment(row.get(1)?),
        kind,
        subject: row.get(3)?,
        what: row.get(4)?,
        why: row.get(5)?,
        who: row.get(6)?,
        took: took.and_then(|took| u64::try_from(took).ok()).map(Duration::from_micros),
        generation: row.get::<_, i64>(8)?.unsigned_abs(),
    };
    Ok((row.get(0)?, record))
}
