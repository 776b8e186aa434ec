//! TLS on the listeners that want it, with the newest certificate.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificate::Newest;

/// What may be spoken within TLS (ALPN, RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spoken {
    /// DNS over TLS: RFC 7858 names no protocol, RFC 9103 §7.1 does; clients that offer none are
    /// served.
    Dot,
    /// DNS over HTTPS: HTTP/2, which RFC 8484 §5.2 recommends, or HTTP/1.1.
    Doh,
    /// DNS over QUIC (RFC 9250 §4.1.1).
    Doq,
    /// The pages of the API.
    Http,
}

impl Spoken {
    fn names(self) -> &'static [&'static [u8]] {
        match self {
            Self::Dot => &[b"dot"],
            Self::Doh => &[HTTP_2, HTTP_1],
            Self::Doq => &[b"doq"],
            Self::Http => &[HTTP_1],
        }
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        /// QUIC is made of TLS 1.3 (RFC 9001 §4.2).
        static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::Doq => ONLY_13,
            Self::Dot | Self::Doh | Self::Http => rustls::DEFAULT_VERSIONS,
        }
    }
}

const HTTP_1: &[u8] = b"http/1.1";

/// HTTP/2 (RFC 9113 §3.2).
pub(super) const HTTP_2: &[u8] = b"h2";

/// TLS in which this is spoken, with the newest certificate.
///
/// # Errors
/// TLS cannot be set up.
pub(super) fn tls_config(
    certificate: &Arc<Newest>,
    spoken: Spoken,
) -> io::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(spoken.versions())
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate.clone());
    // Sessions are their clients' to remember: here there would be room for the last few only.
    config.ticketer = ring::Ticketer::new().map_err(io::Error::other)?;
    config.alpn_protocols = spoken.names().iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
