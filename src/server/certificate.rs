//! The certificate of the encrypted listeners: read from its files, swapped when they change.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::files::read;
use crate::config::{Encrypted, Problem};

/// Reads the certificate and key that `encrypted` names, relative to `folder`.
///
/// # Errors
/// Why they cannot be used.
pub(super) fn load(encrypted: &Encrypted, folder: &Path) -> Result<Arc<CertifiedKey>, Problem> {
    let file = folder.join(&encrypted.certificate);
    let key_file = folder.join(&encrypted.key);
    let problem = |file: &Path, what: String| Problem::of_file(&file.display().to_string(), what);
    let pem = read(&file).map_err(|reason| problem(&file, reason))?;
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| problem(&file, format!("no PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(problem(&file, "the file holds no PEM certificate".to_owned()));
    }
    let pem = read(&key_file).map_err(|reason| problem(&key_file, reason))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| problem(&key_file, format!("no PEM private key: {error}")))?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| problem(&key_file, format!("cannot be used: {error}")))?;
    // `from_der` checks that both belong together, as far as the key's kind lets it.
    Ok(Arc::new(certified))
}

/// Gives the newest certificate to each new connection.
#[derive(Debug, Default)]
pub(super) struct Newest(ArcSwapOption<CertifiedKey>);

impl Newest {
    /// From now on `certified` is given.
    pub(super) fn set(&self, certified: Arc<CertifiedKey>) {
        self.0.store(Some(certified));
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
