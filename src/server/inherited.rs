//! Sockets that were open before this process was: the service manager's (`sd_listen_fds(3)`), or
//! those of the server that this one replaces.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, absolute};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Socket, Type};

/// Open sockets, until each has found its address in the configuration.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<Socket>);

impl Inherited {
    /// Those that the service manager has passed, for the first server that asks; mostly none.
    ///
    /// # Errors
    /// It says that there are some, and there are not.
    pub(super) fn of_manager() -> io::Result<Self> {
        static ARE_TAKEN: AtomicBool = AtomicBool::new(false);
        let passed = sd_notify::listen_fds()?;
        if ARE_TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Self::default());
        }
        // SAFETY: they are this process's alone from its beginning on (`sd_listen_fds(3)`), and
        // nobody has taken them before.
        Ok(passed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
    }

    /// Those of this kind that are bound to `address`.
    pub(super) fn take(&mut self, kind: Type, address: SocketAddr) -> Vec<Socket> {
        let is_it = |socket: &mut Socket| {
            let bound = socket.local_addr().ok().and_then(|bound| bound.as_socket());
            bound == Some(address) && socket.r#type().is_ok_and(|of| of == kind)
        };
        self.0.extract_if(.., is_it).collect()
    }

    /// The one that listens at `path`.
    pub(super) fn take_local(&mut self, path: &Path) -> Option<Socket> {
        let is_it = |socket: &Socket| {
            let bound = socket.local_addr().ok()?;
            Some(absolute(bound.as_pathname()?).ok()? == absolute(path).ok()?)
        };
        let row = self.0.iter().position(|socket| is_it(socket) == Some(true))?;
        Some(self.0.swap_remove(row))
    }

    /// Those that are no sockets: links of programs to interfaces.
    pub(super) fn take_links(&mut self) -> Vec<OwnedFd> {
        let is_link = |socket: &mut Socket| socket.r#type().is_err();
        self.0.extract_if(.., is_link).map(OwnedFd::from).collect()
    }

    /// Where those are bound that are left.
    pub(super) fn left(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|socket| {
            let bound = socket.local_addr().ok()?;
            let path = bound.as_pathname().map(|path| path.display().to_string());
            path.or_else(|| Some(bound.as_socket()?.to_string()))
        })
    }
}

impl FromIterator<OwnedFd> for Inherited {
    fn from_iter<I: IntoIterator<Item = OwnedFd>>(sockets: I) -> Self {
        Self(sockets.into_iter().map(Socket::from).collect())
    }
}
