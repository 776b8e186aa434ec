//! How probes do TLS: what they trust.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::health::TlsCheck;

/// Whether certificates are verified, by which roots, for how long ahead, and whether HTTP/2 is
/// spoken then.
type Trust = (bool, Option<PathBuf>, (Duration, Duration), bool);

/// The ways in which probes do TLS, one for each thing to trust.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_trust: HashMap<Trust, Arc<Tls>>,
}

/// How probes do TLS.
#[derive(Debug)]
pub struct Tls {
    /// How the handshake is done.
    pub(super) config: Arc<ClientConfig>,
    /// What tells whether a certificate will be valid for a while; `None`: nobody wants to know.
    later: Option<Ahead>,
}

impl Tls {
    /// Does a certificate end so soon that somebody should know, which is valid today?
    pub(super) fn ends_soon(
        &self,
        certificates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> bool {
        let (Some(later), Some((first, others))) = (&self.later, certificates.split_first()) else {
            return false;
        };
        later.verify_server_cert(first, others, name, &[], UnixTime::now()).is_err()
    }
}

impl Clients {
    /// How TLS is done as `check` says. A file is read relative to `folder`.
    ///
    /// # Errors
    /// The certificates to trust cannot be read: why.
    pub(super) fn client(
        &mut self,
        check: &TlsCheck,
        is_h2: bool,
        folder: &Path,
    ) -> Result<Arc<Tls>, String> {
        let spans = (check.expires_within, check.warns_within);
        let key = (check.verify, check.roots.clone(), spans, is_h2);
        if let Some(known) = self.by_trust.get(&key) {
            return Ok(known.clone());
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut later = None;
        let mut config = if check.verify {
            let roots = match &check.roots {
                Some(file) => roots_of(&folder.join(file))?,
                None => system_roots()?,
            };
            let inner = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
            let inner = inner.build().map_err(|error| error.to_string())?;
            let warns = Some(check.warns_within).filter(|span| !span.is_zero());
            later = warns.map(|by| Ahead { inner: inner.clone(), by });
            let verifier = Arc::new(Ahead { inner, by: check.expires_within });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        } else {
            let verifier = Arc::new(TrustEverybody(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        };
        // A session that goes on is not verified again: what a new client would see is lost.
        config.resumption = Resumption::disabled();
        if is_h2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let tls = Arc::new(Tls { config: Arc::new(config), later });
        self.by_trust.insert(key, tls.clone());
        Ok(tls)
    }
}

fn roots_of(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("cannot read certificates from {}: {error}", file.display()))?;
    for certificate in certificates {
        roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("{} holds no certificate", file.display()));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no trusted certificates (the package ca-certificates); \
                    name a file with `ca`, or set `verify: false`"
            .to_owned());
    }
    Ok(roots)
}

/// Takes a certificate for valid only if it will be so for a while: what expires next week is to be
/// noticed this week.
#[derive(Debug)]
struct Ahead {
    inner: Arc<WebPkiServerVerifier>,
    by: Duration,
}

impl ServerCertVerifier for Ahead {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |at| {
            let inner = &self.inner;
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
        };
        let then = Duration::from_secs(now.as_secs()) + self.by;
        // Also now: what is valid only later is not valid yet.
        verify(now).and_then(|_| verify(UnixTime::since_unix_epoch(then)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// For `verify: false`: the handshake is checked, who the other side is is not.
#[derive(Debug)]
struct TrustEverybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustEverybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
