//! What one probe saw.

use std::fmt;
use std::time::Duration;

/// What one probe saw, and how long it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// What it saw.
    pub outcome: Outcome,
    /// From the beginning of the probe to its end.
    pub latency: Duration,
}

/// Whether the target did what its check expects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It did.
    Success,
    /// It did, with a certificate that ends soon.
    Ending,
    /// It did not.
    Failure(Failure),
}

/// Why a probe failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// The connection was refused: nobody listens.
    Refused,
    /// The network says that there is no way to the target.
    Unreachable,
    /// Nothing came in time.
    TimedOut(Stage),
    /// The connection was closed or reset before the answer was complete.
    Closed(Stage),
    /// The certificate is not valid.
    Certificate(Flaw),
    /// The certificate has expired, or does so within the time that is wanted.
    Expired,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The status is not among the expected ones.
    Status(u16),
    /// The expected text is not in the body.
    TextMissing,
    /// What came is not what the protocol says.
    Malformed,
    /// The DNS response code is not among the expected ones.
    Rcode(u16),
    /// The gRPC service says that it is not serving, or is not known.
    NotServing,
    /// The command ended with this.
    Exit(i32),
    /// Somebody says that it is down.
    Told,
    /// It did what is expected, and took longer than it may.
    Slow,
    /// Nobody says whether it is up or down. Says nothing of the target.
    Untold,
    /// The prober itself could not probe: out of sockets, memory or time. Says nothing of the
    /// target.
    Local,
}

/// Why a certificate is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flaw {
    /// It is for other names.
    Name,
    /// No CA that is trusted has signed it.
    Issuer,
    /// Its time has not come yet.
    Early,
    /// Something that seldom is.
    Other,
}

/// How far a probe came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// While the TCP connection was made.
    Connect,
    /// Of a datagram or a command, before anything came back.
    Reply,
    /// During the TLS handshake.
    Handshake,
    /// Before the status line and header were complete.
    Head,
    /// Within the body.
    Body,
}

impl Failure {
    /// Did nothing come back from the target, so that this node's own network may be at fault? A
    /// refusal or a wrong answer came from somewhere, and so did what a connection was made with:
    /// who hangs after that hangs there.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::TimedOut(Stage::Connect | Stage::Reply) | Self::Unreachable)
    }
}

impl Outcome {
    /// A word for it, one of a fixed few: the label of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::Success | Self::Ending => "success",
            Self::Failure(Failure::Refused) => "refused",
            Self::Failure(Failure::Unreachable) => "unreachable",
            Self::Failure(Failure::TimedOut(_)) => "timeout",
            Self::Failure(Failure::Closed(_)) => "closed",
            Self::Failure(Failure::Certificate(_)) => "certificate",
            Self::Failure(Failure::Tls) => "tls",
            Self::Failure(Failure::Status(_)) => "status",
            Self::Failure(Failure::TextMissing) => "text_missing",
            Self::Failure(Failure::Malformed) => "malformed",
            Self::Failure(Failure::Expired) => "expired",
            Self::Failure(Failure::Rcode(_)) => "rcode",
            Self::Failure(Failure::NotServing) => "not_serving",
            Self::Failure(Failure::Exit(_)) => "exit",
            Self::Failure(Failure::Told) => "told",
            Self::Failure(Failure::Slow) => "slow",
            Self::Failure(Failure::Untold) => "untold",
            Self::Failure(Failure::Local) => "local",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("ok"),
            Self::Ending => f.write_str("ok; the certificate ends soon"),
            Self::Failure(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("network unreachable"),
            Self::TimedOut(stage) => write!(f, "no answer in time, {stage}"),
            Self::Closed(stage) => write!(f, "connection closed, {stage}"),
            Self::Certificate(flaw) => write!(f, "certificate {flaw}"),
            Self::Tls => f.write_str("TLS handshake failed"),
            Self::Status(status) => write!(f, "unexpected status {status}"),
            Self::Expired => f.write_str("certificate expired, or about to"),
            Self::TextMissing => f.write_str("what is expected is not in the answer"),
            Self::Malformed => f.write_str("malformed answer"),
            Self::Rcode(rcode) => write!(f, "unexpected response code {rcode}"),
            Self::NotServing => f.write_str("not serving"),
            Self::Exit(code) => write!(f, "exit status {code}"),
            Self::Told => f.write_str("told to be down"),
            Self::Slow => f.write_str("right, but too slow"),
            Self::Untold => f.write_str("nobody tells its state"),
            Self::Local => f.write_str("this node could not probe"),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "for another name",
            Self::Issuer => "of no trusted CA",
            Self::Early => "not valid yet",
            Self::Other => "not valid",
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Reply => "nothing came back",
            Self::Handshake => "in the TLS handshake",
            Self::Head => "before the response",
            Self::Body => "within the body",
        })
    }
}
