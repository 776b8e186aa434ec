//! States that others tell, by the API or in a file, for as long as they say.
//!
//! A line of the file is `ADDRESS up` or `ADDRESS down`, with an end such as
//! `2030-01-31T12:00:00Z` after it if it has one. What was told over the API goes first, until it
//! ends. Who was told nothing is what it was, and stale.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::health::{Failure, Outcome};
use crate::server::files::read;
use crate::time::Instant;

/// What was told over the API, by check and address.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Pushed(Arc<Mutex<HashMap<(String, IpAddr), Told>>>);

/// Up or not, and until when.
type Told = (bool, Instant);

impl Pushed {
    /// From `now` until then, an address is up or down, as far as this check goes.
    pub(in crate::server) fn tell(
        &self,
        now: Instant,
        (check, address): (String, IpAddr),
        (is_up, until): Told,
    ) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, (_, until)| *until > now);
        told.insert((check, address), (is_up, until));
    }

    /// Is an address told to be up at `now`? `None`: nobody tells.
    pub(super) fn told(&self, now: Instant, (check, address): (&str, IpAddr)) -> Option<bool> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_up, until) = *told.get(&(check.to_owned(), address))?;
        (until > now).then_some(is_up)
    }
}

/// Does this file tell that an address is up at `now`?
pub(super) async fn look(file: &Path, address: IpAddr, now: Instant) -> Option<bool> {
    let file = file.to_owned();
    let octets = tokio::task::spawn_blocking(move || read(&file)).await.ok()?.ok()?;
    in_file(&String::from_utf8_lossy(&octets), address, now)
}

/// What a probe saw of an address of which this is told.
pub(super) fn outcome(told: Option<bool>) -> Outcome {
    match told {
        Some(true) => Outcome::Success,
        Some(false) => Outcome::Failure(Failure::Told),
        None => Outcome::Failure(Failure::Untold),
    }
}

/// What the lines of a file say of `address` at `now`; the last one counts.
fn in_file(text: &str, address: IpAddr, now: Instant) -> Option<bool> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let is_about = words.next()?.parse::<IpAddr>().ok()? == address;
        let is_up = match words.next()? {
            "up" => true,
            "down" => false,
            _ => return None,
        };
        let until = words.next().map(|until| until.parse::<Timestamp>());
        let is_over = match until {
            None => false,
            Some(until) => u64::try_from(until.ok()?.as_nanosecond()).ok()? <= now.as_nanos(),
        };
        (is_about && !is_over).then_some(is_up)
    };
    text.lines().rev().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_what_its_last_line_on_an_address_says() {
        let text = "# states\n192.0.2.1 up\n192.0.2.2 down\n192.0.2.1 down 2030-01-01T00:00:00Z\n\
                    2001:db8::1 up\n192.0.2.3 perhaps\n192.0.2.4 up soon\n";
        let at = |year: u64| Instant::from_nanos((year - 1970) * 31_556_952 * 1_000_000_000);
        let told = |ip: &str, year| in_file(text, ip.parse().unwrap(), at(year));
        assert_eq!(told("192.0.2.1", 2029), Some(false));
        assert_eq!(told("192.0.2.1", 2031), Some(true), "the last line is over");
        assert_eq!(told("192.0.2.2", 2031), Some(false));
        assert_eq!(told("2001:db8::1", 2031), Some(true));
        for silent in ["192.0.2.3", "192.0.2.4", "192.0.2.5"] {
            assert_eq!(told(silent, 2029), None, "{silent}");
        }
    }
}
