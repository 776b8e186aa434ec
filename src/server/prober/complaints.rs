//! What programs write to their standard error before they fail: the last line, beside what the
//! probe saw.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::health::Outcome;
use crate::ids::TargetId;
use crate::server::http::changes::misleads;

/// So many octets of a line are kept.
const LONGEST: usize = 200;

/// What is read at once.
const PIECE: usize = 4096;

/// By target, what the program said whose probe failed last.
pub(in crate::server) type Complained = HashMap<TargetId, Arc<str>>;

/// The table of what was said last.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Complaints(Arc<Mutex<Complained>>);

impl Complaints {
    /// A probe of `target` ended with this; or with nothing to tell.
    pub(super) fn tell(&self, target: TargetId, said: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
            Some(said) => all.insert(target, said.into()),
            None => all.remove(&target),
        };
    }

    /// Nothing is known any more of other targets than these.
    pub(in crate::server) fn keep(&self, is_kept: impl Fn(TargetId) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|target, _| is_kept(*target));
    }

    /// What `target`'s program said.
    pub(in crate::server) fn of(&self, target: TargetId) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&target).cloned()
    }

    /// All of it, as it is now.
    pub(in crate::server) fn all(&self) -> Complained {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a probe saw, with what the program said of it.
pub(in crate::server) fn told(outcome: Outcome, said: Option<&Arc<str>>) -> String {
    match (outcome, said) {
        (Outcome::Failure(failure), Some(said)) => format!("{failure}: {said}"),
        _ => outcome.to_string(),
    }
}

/// A program's standard error, and the last line of it that is not empty.
pub(super) struct Stderr<P> {
    /// None once everybody has closed the other end.
    pipe: Option<P>,
    whole: Vec<u8>,
    begun: Vec<u8>,
}

impl<P: AsyncRead + Unpin> Stderr<P> {
    pub(super) fn of(pipe: Option<P>) -> Self {
        Self { pipe, whole: Vec::new(), begun: Vec::new() }
    }

    /// Takes all that comes, so that nobody waits to be heard, until nobody can say more.
    pub(super) async fn listen(&mut self) {
        // On the heap: all probes are as large as the largest.
        let mut piece = vec![0; PIECE];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut piece).await {
                Ok(read @ 1..) => self.hear(piece.get(..read).unwrap_or_default()),
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
    }

    fn hear(&mut self, octets: &[u8]) {
        for octet in octets {
            match octet {
                b'\n' | b'\r' => self.end_line(),
                _ if self.begun.len() < LONGEST => self.begun.push(*octet),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        if !self.begun.trim_ascii().is_empty() {
            std::mem::swap(&mut self.whole, &mut self.begun);
        }
        self.begun.clear();
    }

    /// The last line, as it can be shown on one.
    pub(super) fn last(mut self) -> Option<String> {
        self.end_line();
        let shown = |of: char| match of {
            '\t' => ' ',
            _ if misleads(of) => char::REPLACEMENT_CHARACTER,
            _ => of,
        };
        let line = String::from_utf8_lossy(self.whole.trim_ascii()).chars().map(shown).collect();
        Some(line).filter(|line: &String| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_line_is_kept_as_it_can_be_shown() {
        let long = [b'x'; 5000];
        for (said, expected) in [
            (&b""[..], None),
            (b"\n \n\r\n", None),
            (b"no end", Some("no end".to_owned())),
            (b"first\n  last\tone \r\n\n", Some("last one".to_owned())),
            (b"\x1b[31mred\x07", Some("\u{fffd}[31mred\u{fffd}".to_owned())),
            (b"no \xff UTF-8", Some("no \u{fffd} UTF-8".to_owned())),
            (&long, Some("x".repeat(LONGEST))),
        ] {
            let mut stderr = Stderr::of(Some(said));
            stderr.listen().await;
            assert!(stderr.pipe.is_none());
            assert_eq!(stderr.last(), expected);
        }
    }
}
