//! Every default, and why it has its value. Those of probing stand with
//! [`Schedule`](crate::health::Schedule).

use std::time::Duration;

use crate::time::Ttl;

/// One node needs no name to be told from others.
pub const NAME: &str = "meridian";

/// All addresses of the host, in both families: what a name server is for.
pub const LISTEN: [&str; 2] = ["0.0.0.0:53", "[::]:53"];

/// The loopback address only: the dashboard tells where everything is.
pub const HTTP_LISTEN: &str = "127.0.0.1:8053";

/// Half a minute: below it a lower TTL hardly speeds up convergence, as clients that pin addresses
/// own the tail, and above it the wait is the TTL's.
pub const TTL: Ttl = Ttl::from_secs(30);

/// Five seconds: the least that some widely used resolvers honour (Knot Resolver raises anything
/// lower to it), so a lower one would only cost queries.
pub const SUSPECT_TTL: Ttl = Ttl::from_secs(5);

/// An hour for the records of an inline zone, which change with the configuration only.
pub const ZONE_TTL: Ttl = Ttl::from_secs(3600);

/// A minute for "there is no such name": what is cached by accident is cached that long.
pub const NEGATIVE_TTL: Ttl = Ttl::from_secs(60);

/// Five seconds is enough for the first verdicts of everything that answers at all; what is then
/// still unknown is neither up nor down.
pub const READY_WITHIN: Duration = Duration::from_secs(5);

/// Ten minutes: longer than an upgrade or a reboot takes, and shorter than an outage that
/// operators have not noticed.
pub const BELIEVE_STATE_FOR: Duration = Duration::from_secs(600);

/// Room for a burst while a worker is busy: 4 MiB hold some 10,000 queries. The kernel gives what
/// `net.core.rmem_max` allows. With its own default of 208 KiB, some are lost at half of the load
/// that could be answered (`benches/compare --tune`).
pub const BUFFER: usize = 4 << 20;

/// As many as fit in the usual limit of open files with room for probes.
pub const TCP_CONNECTIONS: usize = 10_000;

/// One client (one address, or one /56 in IPv6) needs a few; a resolver farm behind one address
/// tens.
pub const TCP_PER_CLIENT: usize = 100;

/// RFC 7766 §6.2.3 recommends a few seconds; a pipelining resolver comes back within ten.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// Success, and nothing that only may be.
pub const EXPECT: (u16, u16) = (200, 299);
