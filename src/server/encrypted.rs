//! DNS over TLS, HTTPS and QUIC (RFC 7858, 8484, 9250).
//!
//! TLS carries the same streams as TCP, so it shares their code and their limits: hickory-server's
//! listener has none. HTTPS and QUIC are hickory-server's. It hands over messages and takes
//! messages, so that the answer, made of bytes like every other, is read and written once more
//! on its way out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Message, Metadata, ResponseCode};
use hickory_server::proto::serialize::binary::BinDecodable;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use metrics::counter;
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::certificate::Newest;
use super::responder::{Answers, Responder};
use crate::query::{Peer, Transport};

/// How long a handshake, or a connection without a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where queries over HTTPS go (RFC 8484 §4.1).
const PATH: &str = "/dns-query";

/// Takes TLS connections with the newest certificate.
///
/// # Errors
/// TLS cannot be set up.
pub(super) fn acceptor(certificate: Arc<Newest>) -> io::Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    // RFC 7858 names no protocol, RFC 9103 §7.1 does; clients that offer none are served.
    config.alpn_protocols = vec![b"dot".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers queries over HTTPS and QUIC, for as long as what is returned lives.
///
/// # Errors
/// A listener cannot be set up.
pub(super) fn serve(
    https: Vec<TcpListener>,
    quic: Vec<UdpSocket>,
    certificate: &Arc<Newest>,
    answers: Answers,
) -> io::Result<Server<Handler>> {
    let mut server = Server::new(Handler { answers });
    for listener in https {
        let path = PATH.to_owned();
        server.register_https_listener(listener, PATIENCE, certificate.clone(), None, path)?;
    }
    for socket in quic {
        server.register_quic_listener(socket, PATIENCE, certificate.clone())?;
    }
    Ok(server)
}

/// Hands hickory-server's requests to `query::answer`.
pub(super) struct Handler {
    answers: Answers,
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let answer = self.answer(request.as_slice(), request.src(), request.protocol());
        let builder = |edns| {
            let mut builder = MessageResponseBuilder::from_message_request(request);
            if let Some(edns) = edns {
                builder.edns(edns);
            }
            builder
        };
        let sent = match &answer {
            Some(answer) => {
                let response = builder(answer.edns.as_ref()).build(
                    answer.metadata,
                    answer.answers.iter(),
                    answer.authorities.iter(),
                    [],
                    answer.additionals.iter(),
                );
                out.send_response(response).await
            }
            None => {
                let failed = builder(None).error_msg(&request.metadata, ResponseCode::ServFail);
                out.send_response(failed).await
            }
        };
        sent.unwrap_or_else(|_gone| {
            counter!("meridian_unsent_total").increment(1);
            let metadata = Metadata::response_from_request(&request.metadata);
            Header { metadata, counts: HeaderCounts::default() }.into()
        })
    }
}

impl Handler {
    /// The answer to a message; `None` if there is none, or it cannot be read back.
    fn answer(&self, packet: &[u8], address: SocketAddr, protocol: Protocol) -> Option<Message> {
        let transport = match protocol {
            Protocol::Quic => Transport::Quic,
            _ => Transport::Https,
        };
        let mut responder = Responder::new(self.answers.clone(), transport);
        let mut out = Vec::new();
        responder.respond(responder.now(), packet, Peer { address, transport }, &mut out);
        Message::from_bytes(&out).ok()
    }
}
