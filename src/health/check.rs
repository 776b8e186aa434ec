//! What a probe does, described: the prober carries it out.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;

use crate::rng::fnv1a;

/// How an endpoint is probed, at its own address. Equal checks of one address, by one schedule,
/// share a probe.
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
    /// The gRPC health protocol says that a service is serving.
    Grpc {
        /// The port.
        port: u16,
        /// The service; empty: the server as a whole.
        service: Arc<str>,
        /// How TLS is done, if it is.
        tls: Option<Arc<TlsCheck>>,
    },
    /// A DNS query over UDP is answered as expected.
    Dns {
        /// The port.
        port: u16,
        /// The query, and what is expected of the answer.
        query: Arc<DnsCheck>,
    },
    /// An ICMP echo comes back.
    Ping,
    /// A program ends with 0.
    Command {
        /// The program and its arguments.
        command: Arc<[String]>,
    },
    /// Somebody else says so.
    Pushed {
        /// What the check is called: under this name it is told.
        name: Arc<str>,
        /// A file that tells it too.
        file: Option<PathBuf>,
    },
}

/// A DNS query and what is expected of its answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DnsCheck {
    /// The name that is asked for.
    pub name: String,
    /// The type.
    pub rtype: u16,
    /// The response code is one of these.
    pub rcodes: Vec<u16>,
    /// One of these addresses is in the answer, if there are any here.
    pub addresses: Vec<IpAddr>,
}

/// An HTTP request and what is expected of its answer. Redirects are not followed: a status of
/// 3xx is a status.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HttpCheck {
    /// GET; or HEAD, whose answer has no body.
    pub method: Method,
    /// The request's path and query.
    pub path: String,
    /// The Host field; `None`: the endpoint's address.
    pub host: Option<String>,
    /// What else is in the request's header. It may be secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
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
    pub server_name: Option<ServerName<'static>>,
    /// Whether the certificate is verified.
    pub verify: bool,
    /// A PEM file of certificates to trust instead of the system's.
    pub roots: Option<PathBuf>,
    /// A certificate that expires within this is not valid any more.
    pub expires_within: Duration,
    /// One that expires within this is told of.
    pub warns_within: Duration,
}

impl Check {
    /// Do others tell it, so that this node sees nothing by itself?
    pub fn is_told(&self) -> bool {
        matches!(self, Self::Pushed { .. })
    }

    /// The port that is probed; 0, if it has none.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port }
            | Self::Http { port, .. }
            | Self::Https { port, .. }
            | Self::Grpc { port, .. }
            | Self::Dns { port, .. } => *port,
            Self::Ping | Self::Command { .. } | Self::Pushed { .. } => 0,
        }
    }

    /// Is it over a connection, whose end could tell something?
    pub fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Tcp { .. } | Self::Http { .. } | Self::Https { .. } | Self::Grpc { .. }
        )
    }

    /// What is probed, in a word and a number: `https 443`.
    pub fn kind(&self) -> String {
        match self {
            Self::Tcp { port } => format!("tcp {port}"),
            Self::Http { port, .. } => format!("http {port}"),
            Self::Https { port, .. } => format!("https {port}"),
            Self::Grpc { port, .. } => format!("grpc {port}"),
            Self::Dns { port, .. } => format!("dns {port}"),
            Self::Ping => "ping".to_owned(),
            Self::Command { .. } => "command".to_owned(),
            Self::Pushed { .. } => "pushed".to_owned(),
        }
    }

    /// How TLS is done, if it is.
    pub fn tls(&self) -> Option<&TlsCheck> {
        match self {
            Self::Https { tls, .. } => Some(tls),
            Self::Grpc { tls, .. } => tls.as_deref(),
            _ => None,
        }
    }
}

/// All of a check in words: two checks are equal when these are.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())?;
        match self {
            Self::Tcp { .. } | Self::Ping => Ok(()),
            Self::Http { request, .. } => write!(f, " {request}"),
            Self::Https { request, tls, .. } => write!(f, " {request} {tls}"),
            Self::Grpc { service, tls, .. } => {
                write!(f, " {service:?}")?;
                tls.iter().try_for_each(|tls| write!(f, " {tls}"))
            }
            Self::Dns { query, .. } => {
                let DnsCheck { name, rtype, rcodes, addresses } = &**query;
                write!(f, " {name} {rtype} expect {rcodes:?} {addresses:?}")
            }
            Self::Command { command } => write!(f, " {command:?}"),
            Self::Pushed { name, file } => write!(f, " {name} {file:?}"),
        }
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.method != Method::GET {
            write!(f, "{} ", self.method)?;
        }
        write!(f, "{}", self.path)?;
        if let Some(host) = &self.host {
            write!(f, " host {host}")?;
        }
        for (name, value) in &self.headers {
            write!(f, " {name} {:016x}", fnv1a(value.as_bytes()))?;
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
        self.server_name.iter().try_for_each(|name| write!(f, " as {}", name.to_str()))?;
        self.roots.iter().try_for_each(|roots| write!(f, " by {}", roots.display()))?;
        let (fails, warns) = (self.expires_within.as_secs(), self.warns_within.as_secs());
        write!(f, " for {fails} s, better {warns} s")
    }
}
