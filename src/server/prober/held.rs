//! Connections that are held open, to hear at once when an endpoint goes away.
//!
//! What they tell is a hint, never a verdict: the next probe comes at once instead of in its turn,
//! and finds out. A server that closes idle connections costs a probe more each time, and is left
//! alone for longer each time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::ids::TargetId;

/// The pause after a connection that ended, before the next one; each that ends soon doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A connection that lasted for so long was not closed for being idle.
const LONG: Duration = Duration::from_secs(120);

const CONNECT: Duration = Duration::from_secs(5);

/// Who says more than this without being asked is not listened to.
const MOST_READ: usize = 64 * 1024;

/// The connections that are held.
#[derive(Debug)]
pub(in crate::server) struct Held {
    hints: UnboundedSender<TargetId>,
    room: Arc<Semaphore>,
    tasks: HashMap<TargetId, AbortHandle>,
}

impl Held {
    /// None is held yet; at most `sockets` will be. The target of each that ends goes to `hints`.
    pub(super) fn new(sockets: usize, hints: UnboundedSender<TargetId>) -> Self {
        Self { hints, room: Arc::new(Semaphore::new(sockets)), tasks: HashMap::new() }
    }

    /// Holds one to each of these from now on, and none to any other.
    pub(in crate::server) fn set(
        &mut self,
        targets: impl IntoIterator<Item = (TargetId, SocketAddr)>,
    ) {
        let mut before = std::mem::take(&mut self.tasks);
        for (target, address) in targets {
            let task = before.remove(&target).unwrap_or_else(|| {
                let task = hold(target, address, self.room.clone(), self.hints.clone());
                tokio::spawn(task).abort_handle()
            });
            self.tasks.insert(target, task);
        }
        before.values().for_each(AbortHandle::abort);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

async fn hold(
    target: TargetId,
    address: SocketAddr,
    room: Arc<Semaphore>,
    hints: UnboundedSender<TargetId>,
) {
    let mut pause = Pause(FIRST_PAUSE);
    // The semaphore is never closed.
    let Ok(_room) = room.acquire_owned().await else { return };
    loop {
        // Who cannot be reached is the probes' concern.
        let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(address)).await else {
            sleep(pause.0).await;
            continue;
        };
        let since = Instant::now();
        if ends(stream).await && hints.send(target).is_err() {
            return;
        }
        sleep(pause.after(since.elapsed())).await;
    }
}

/// The pause after the next connection that ends soon.
struct Pause(Duration);

impl Pause {
    /// The pause after a connection that lasted for so long.
    fn after(&mut self, lasted: Duration) -> Duration {
        if lasted > LONG {
            self.0 = FIRST_PAUSE;
            return FIRST_PAUSE;
        }
        let next = (self.0 * 2).min(LONGEST_PAUSE);
        std::mem::replace(&mut self.0, next)
    }
}

/// Waits until the other side ends the connection; or says too much: then it is false.
async fn ends(mut stream: TcpStream) -> bool {
    let mut buffer = [0; 512];
    let mut left = MOST_READ;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return true,
            Ok(read) => match left.checked_sub(read) {
                Some(rest) => left = rest,
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_that_ends_soon_doubles_the_pause_of_the_next() {
        let mut pause = Pause(FIRST_PAUSE);
        let mut after = |lasted| pause.after(Duration::from_secs(lasted)).as_secs();
        assert_eq!([1; 10].map(&mut after), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        // One that lasted begins anew.
        assert_eq!([121, 120, 0, 121, 121].map(after), [1, 1, 2, 1, 1]);
    }
}
