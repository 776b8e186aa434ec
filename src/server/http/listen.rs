//! Takes HTTP connections: over TCP, plain or in TLS, and over a Unix socket.
//!
//! So many at a time, and each must send its request's head and take its answer in time, so that
//! nobody who merely connects, or asks and does not read, keeps an operator out for longer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::guard::Way;

/// Connections at a time: dashboards, scrapers and operators, many times over.
const CONNECTIONS: usize = 256;

/// How long a TLS handshake or the head of a request may take, and how long a connection may be
/// idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may take for an answer that does not fit in the kernel's buffers: the largest
/// one, 4 MB, comes within it over 2 Mbit/s.
const TAKING: Duration = Duration::from_secs(20);

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
    let stream = TokioIo::new(Patient { stream, ends: None });
    let connection = builder.serve_connection(stream, service);
    if let Err(error) = connection.await {
        debug!(%error, "an HTTP connection ended");
    }
}

/// A connection whose client takes each answer in time, or is hung up on.
struct Patient<S> {
    stream: S,
    /// When the patience ends with an answer that the client has not taken yet.
    ends: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// What was `done`, or that it has taken too long by now.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_pending() {
            let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(TAKING)));
            ready!(ends.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        done
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, octets);
        self.in_time(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.in_time(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Comes to its end when all of an answer has been taken.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        if done.is_ready() {
            self.ends = None;
        }
        self.in_time(context, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(context, done)
    }
}
