//! One server takes another's place, and no query is lost.
//!
//! ```text
//! the next one                             the one that serves
//!   files read, all good
//!   connect ──────────────────────────────▶  operators' words wait
//!   ◀────────────────────────────── sockets
//!   state read, first verdicts               answers, speaks to other nodes
//!   SPEAKS ───────────────────────────────▶  says no more to other nodes
//!   hears them, answers                      answers
//!   SERVES ───────────────────────────────▶  ends; what it was asked is answered
//! ```
//!
//! A node that hears the others no more names a writer for two seconds only (`FRESH`), so that the
//! next one has all else ready before it speaks. Of etcd both ask meanwhile, as two nodes do.
//!
//! Both have the same sockets: what waits in one is answered by whoever comes first. If the
//! connection ends before SERVES, the next one has failed, and the other goes on.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::StartError;
use super::inherited::Inherited;
use super::store::Store;
use super::xdp::Links;

/// The socket's name in the folder of the state.
const NAME: &str = "takeover.sock";

/// Both ends must say the same: what follows it may differ between releases.
const GREETING: u8 = b'1';
/// A socket comes with it.
const SOCKET: u8 = b'+';
const NO_MORE: u8 = b'.';
/// There will be none; why not follows, as text.
const REFUSES: u8 = b'!';
const SPEAKS: u8 = b'q';
const SERVES: u8 = b's';

/// How long it waits until the next one can read all that was told here.
const KEPT_WITHIN: Duration = Duration::from_secs(1);

/// How long the one that serves waits for the first word of whoever comes: it is said at once, and
/// somebody else may come after them.
const GREETING_PATIENCE: Duration = Duration::from_secs(2);

/// How long the next one waits after one that was refused.
const REFUSED: Duration = Duration::from_millis(100);

/// How long the next one waits for each socket: longer than the one that serves may have to wait
/// before, for somebody who says nothing and for a word on its way to the disk.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a server whose place is taken answers those who are connected to it.
pub const GRACE: Duration = Duration::from_secs(2);

/// How much of a refusal is read.
const LONGEST_REFUSAL: u64 = 1000;

/// Where a server with this folder for its state is replaced.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

/// The server that this one replaces.
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    /// Meets the server that listens at `path`, and takes its sockets. From here on it follows no
    /// word of an operator, so that none is lost between the two.
    ///
    /// # Errors
    /// There is none, or it does not give its place up.
    pub(super) fn meet(path: &Path) -> Result<(Self, Inherited), StartError> {
        let nobody = |error| StartError::Nobody(path.to_owned(), error);
        let mut stream = UnixStream::connect(path).map_err(nobody)?;
        let taken = Self::take(&mut stream);
        let sockets = taken.map_err(|error| StartError::Kept(path.to_owned(), error))?;
        Ok((Self(stream), sockets))
    }

    fn take(stream: &mut UnixStream) -> io::Result<Inherited> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[GREETING])?;
        let mut sockets = Vec::new();
        while let Some(socket) = receive(stream).map_err(|error| told(error, SILENT))? {
            sockets.push(socket);
        }
        Ok(sockets.into_iter().collect())
    }

    /// This one speaks to others from now on.
    pub(super) fn hush(&mut self) {
        self.say(SPEAKS);
    }

    /// This one answers.
    pub(super) fn release(mut self) {
        self.say(SERVES);
    }

    fn say(&mut self, octet: u8) {
        if let Err(error) = self.0.write_all(&[octet]) {
            // Then there is nobody left to be replaced.
            warn!(%error, "the server that is replaced has ended already");
        }
    }
}

/// Why the server that is to be replaced may say nothing.
const SILENT: &str = "it has said nothing for 8 s: it hangs, or another process is just taking its \
                      place, which its log names";

/// An error as it is told: `silent`, if somebody was waited for in vain.
fn told(error: io::Error, silent: &str) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, silent)
        }
        _ => error,
    }
}

/// Where operators' words are heard: one after the other, from the weighing of each until it is
/// followed, as two that are harmless alone may leave a name with nothing together; and none while
/// another server takes this one's place.
#[derive(Debug, Default)]
pub(super) struct Desk {
    turn: Arc<Mutex<()>>,
    /// The process that takes this one's place; 0: none does.
    taker: AtomicI32,
}

/// For how long a word waits: whoever says it by `meridian ctl` hears why before they give up.
const TURN_PATIENCE: Duration = Duration::from_secs(3);

impl Desk {
    /// Waits until it is a word's turn.
    ///
    /// # Errors
    /// Why it does not come.
    pub(super) async fn turn(&self) -> Result<OwnedMutexGuard<()>, String> {
        let turn = timeout(TURN_PATIENCE, self.turn.clone().lock_owned()).await;
        turn.map_err(|_| match self.taker.load(Ordering::Relaxed) {
            0 => "another word is being written to the disk".to_owned(),
            taker => format!(
                "process {taker} takes this server's place, and words wait for it; if it hangs, \
                 end it, and this one goes on"
            ),
        })
    }
}

/// What the server that serves does for the next one.
pub(super) struct Place {
    /// All that it listens on.
    pub(super) sockets: Vec<OwnedFd>,
    /// What brings it packets past the kernel's stack.
    pub(super) links: Links,
    /// Where nobody is heard while somebody takes its place.
    pub(super) desk: Arc<Desk>,
    /// What the next one reads.
    pub(super) store: Store,
    /// Somebody else speaks for this node.
    pub(super) is_quiet: watch::Sender<bool>,
    /// Somebody else serves in its place.
    pub(super) is_taken: watch::Sender<bool>,
}

impl Place {
    /// Gives its place to the first that comes to `listener` and makes it.
    /// It is called within the runtime.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(super) fn offer(self, listener: UnixListener) -> io::Result<()> {
        let thread = thread::Builder::new().name("takeover".to_owned());
        let runtime = Handle::current();
        thread.spawn(move || {
            for stream in listener.incoming() {
                let taken = stream.and_then(|stream| self.give(stream, &runtime));
                self.is_quiet.send_replace(taken.is_ok());
                match taken {
                    Ok(()) => break,
                    Err(reason) => warn!(%reason, "nobody took this server's place; it serves on"),
                }
                // Where no more files may be open, whoever waits there waits on.
                thread::park_timeout(REFUSED);
            }
        })?;
        Ok(())
    }

    fn give(&self, mut stream: UnixStream, runtime: &Handle) -> io::Result<()> {
        let taker = socket_peercred(&stream).map_or(0, |of| of.pid.as_raw_nonzero().get());
        stream.set_read_timeout(Some(GREETING_PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let silent = || format!("process {taker} has come and said nothing for 2 s");
        let greeting = hear(&mut stream).map_err(|error| told(error, &silent()))?;
        if greeting != GREETING {
            return Err(io::Error::other("it is not a release that this one understands"));
        }
        info!(taker, "another server takes this one's place");
        let held = runtime.block_on(self.desk.turn()).map_err(|why| {
            // Who does not hear it sees that the connection ends.
            let _gone = stream.write_all(&[&[REFUSES], why.as_bytes()].concat());
            io::Error::other(why)
        })?;
        // What was told of targets is written behind the back of whoever told it.
        let _later = runtime.block_on(async { timeout(KEPT_WITHIN, self.store.settled()).await });
        // From here on it may take its time, to read its state and for its first verdicts.
        stream.set_read_timeout(None)?;
        self.desk.taker.store(taker, Ordering::Relaxed);
        let made = self.hand_over(&mut stream);
        if made.is_ok() {
            // A word that is said to this process now would be lost with it.
            std::mem::forget(held);
            self.is_taken.send_replace(true);
        } else {
            self.desk.taker.store(0, Ordering::Relaxed);
        }
        made
    }

    /// Hands all over, and waits until the other one answers.
    fn hand_over(&self, stream: &mut UnixStream) -> io::Result<()> {
        for socket in self.sockets.iter().chain(&self.links.copies()?) {
            send(stream, SOCKET, Some(socket))?;
        }
        send(stream, NO_MORE, None)?;
        loop {
            match hear(stream)? {
                SPEAKS => self.is_quiet.send_replace(true),
                SERVES => return Ok(()),
                _ => return Err(io::Error::other("it says what this one does not understand")),
            };
        }
    }
}

fn hear(stream: &mut UnixStream) -> io::Result<u8> {
    let mut octet = [0];
    let heard = stream.read_exact(&mut octet);
    heard.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it ended before it served"),
        _ => error,
    })?;
    let [octet] = octet;
    Ok(octet)
}

/// Sends an octet, with a socket or without.
fn send(stream: &UnixStream, octet: u8, socket: Option<&OwnedFd>) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    let sockets = socket.map(|socket| [socket.as_fd()]);
    if let Some(sockets) = &sockets {
        ancillary.push(SendAncillaryMessage::ScmRights(sockets));
    }
    sendmsg(stream, &[IoSlice::new(&[octet])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next socket; `None`: there are no more.
fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let mut octet = [0];
    let mut buffers = [IoSliceMut::new(&mut octet)];
    let heard = recvmsg(stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    match (heard.bytes, octet, sockets.next()) {
        (1, [SOCKET], Some(socket)) => Ok(Some(socket)),
        (1, [NO_MORE], None) => Ok(None),
        (1, [REFUSES], None) => {
            let mut why = String::new();
            stream.take(LONGEST_REFUSAL).read_to_string(&mut why)?;
            Err(io::Error::other(why))
        }
        _ => Err(io::Error::other("it does not hand its sockets over")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_a_word_is_being_written_is_told_so() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _within = runtime.enter();
        let desk: Arc<Desk> = Arc::default();
        let (is_quiet, is_taken) = (watch::Sender::new(false), watch::Sender::new(false));
        let (links, store) = (Links::default(), Store::open(None).unwrap().0);
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        let listener = UnixListener::bind(&path).unwrap();
        let place =
            Place { sockets: Vec::new(), links, desk: desk.clone(), store, is_quiet, is_taken };
        place.offer(listener).unwrap();
        // Its disk hangs.
        let written = runtime.block_on(desk.turn()).unwrap();
        let refused = Predecessor::meet(&path).err().unwrap().to_string();
        assert!(refused.contains("another word is being written to the disk"), "{refused}");
        assert!(refused.contains("start it again"), "{refused}");
        drop(written);
        assert!(Predecessor::meet(&path).is_ok());
    }
}
