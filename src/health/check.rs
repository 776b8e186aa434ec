//! What a probe does, described: the prober carries it out.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// How an endpoint is probed, at its own address. Equal checks of one address share a probe.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Check {
    /// A TCP connection is accepted.
    Tcp {
        /// The port.
        port: u16,
    },
    /// An HTTP request is answered as expected.
    Http {
        /// The port.
        port: u16,
        /// The request, and what is expected of the answer.
        request: Arc<HttpCheck>,
    },
    /// The same over TLS.
    Https {
        /// The port.
        port: u16,
        /// The request, and what is expected of the answer.
        request: Arc<HttpCheck>,
        /// How TLS is done.
        tls: Arc<TlsCheck>,
    },
}

/// An HTTP request and what is expected of its answer. Redirects are not followed: a status of
/// 3xx is a status.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HttpCheck {
    /// The request's path and query.
    pub path: String,
    /// The Host field; `None`: the endpoint's address.
    pub host: Option<String>,
    /// What the answer must be.
    pub expect: Expect,
}

/// What an answer must be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Expect {
    /// Its status is in one of these ranges.
    pub statuses: Vec<StatusRange>,
    /// Its body contains this, within the first [`Expect::BODY_LIMIT`] octets.
    pub contains: Option<String>,
}

impl Expect {
    /// How much of a body is read: more than any health page has, and little enough to read from
    /// ten thousand targets at once.
    pub const BODY_LIMIT: usize = 64 * 1024;

    /// Is `status` one of the expected ones?
    pub fn accepts(&self, status: u16) -> bool {
        self.statuses.iter().any(|range| (range.first..=range.last).contains(&status))
    }
}

/// Statuses from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StatusRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// How TLS is done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TlsCheck {
    /// The name that is sent (SNI) and that the certificate must be valid for; `None`: the
    /// address.
    pub server_name: Option<String>,
    /// Whether the certificate is verified.
    pub verify: bool,
    /// A PEM file of certificates to trust instead of the system's.
    pub roots: Option<PathBuf>,
}

impl Check {
    /// The port that is probed.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port } | Self::Http { port, .. } | Self::Https { port, .. } => *port,
        }
    }
}

/// All of a check in words: two checks are equal when these are.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => write!(f, "tcp {port}"),
            Self::Http { port, request } => write!(f, "http {port} {request}"),
            Self::Https { port, request, tls } => write!(f, "https {port} {request} {tls}"),
        }
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if let Some(host) = &self.host {
            write!(f, " host {host}")?;
        }
        for StatusRange { first, last } in &self.expect.statuses {
            write!(f, " expect {first}-{last}")?;
        }
        self.expect.contains.iter().try_for_each(|text| write!(f, " contains {text:?}"))
    }
}

impl fmt::Display for TlsCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.verify { "verified" } else { "unverified" })?;
        self.server_name.iter().try_for_each(|name| write!(f, " as {name}"))?;
        self.roots.iter().try_for_each(|roots| write!(f, " by {}", roots.display()))
    }
}
