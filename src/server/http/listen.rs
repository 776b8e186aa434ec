//! Takes HTTP connections: over TCP, plain or in TLS, and over a Unix socket.
//!
//! So many at a time, and each must send its request's head in time, so that nobody who merely
//! connects keeps an operator out.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::guard::Way;

/// Connections at a time: dashboards, scrapers and operators, many times over.
const CONNECTIONS: usize = 256;

/// How long a TLS handshake or the head of a request may take, and how long a connection may be
/// idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing is accepted after the system refused to: it is out of sockets or memory.
const BREATH: Duration = Duration::from_millis(100);

/// Serves `router` over TCP, for ever.
pub(crate) async fn tcp(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "a connection to the HTTP address was not taken");
                sleep(BREATH).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(stream, router, Way::Network).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(PATIENCE, tls.accept(stream)).await {
                        converse(stream, router, Way::Network).await;
                    }
                }
            }
            drop(permit);
        });
    }
}

/// Serves `router` over a Unix socket, for ever.
pub(crate) async fn local(listener: UnixListener, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(BREATH).await;
            continue;
        };
        let user = stream.peer_cred().map(|peer| peer.uid()).ok();
        tokio::spawn(converse(stream, router.clone(), Way::Socket(user)));
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send, router: Router, way: Way) {
    let service = TowerToHyperService::new(router.layer(Extension(way)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "an HTTP connection ended");
    }
}
