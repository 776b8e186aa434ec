//! The certificate of the encrypted listeners: read from its files, swapped when they change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::files::read;
use super::http::api::timestamp;
use crate::config::{Encrypted, Problem};
use crate::time::Instant;

/// So long before its end it is told: whoever renews certificates by themselves has done so long
/// before, and who does it by hand has a week. The alert has the same.
const SOON: Duration = Duration::from_secs(7 * 86_400);

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

/// When a certificate ends, if that can be read.
pub(super) fn end(certified: &CertifiedKey) -> Option<Instant> {
    not_after(certified.cert.first()?)
}

/// That a certificate of this node with this end has ended at `now`, or does soon.
pub(super) fn told(end: Instant, now: Instant) -> Option<String> {
    let at = timestamp(end);
    if end <= now {
        return Some(format!("this node's own certificate ended at {at}: clients refuse it"));
    }
    (end.since(now) < SOON).then(|| format!("this node's own certificate ends at {at}"))
}

/// The end of a certificate's validity (RFC 5280 §4.1).
fn not_after(certificate: &[u8]) -> Option<Instant> {
    let (_, certificate, _) = element(certificate)?;
    let (_, signed, _) = element(certificate)?;
    // The version comes first, if it is told; then the number, the algorithm and the issuer.
    let mut rest = match element(signed)? {
        (VERSION, _, rest) => rest,
        _ => signed,
    };
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, rest) = element(validity)?;
    let (kind, time, _) = element(rest)?;
    let time = std::str::from_utf8(time).ok()?;
    // RFC 5280 §4.1.2.5.1: years of two digits are those from 1950 to 2049.
    let century = match kind {
        UTC_TIME if time < "50" => "20",
        UTC_TIME => "19",
        _ => "",
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", format!("{century}{time}")).ok()?;
    let seconds = time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    Some(Instant::default() + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// The tag of a version, which is optional.
const VERSION: u8 = 0xa0;

/// The tag of a time whose year has two digits.
const UTC_TIME: u8 = 0x17;

/// The first element of `der`, its tag and its content, and what follows it (X.690 §8.1).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        let more =
            |length: usize, octet: &u8| length.checked_mul(256)?.checked_add(usize::from(*octet));
        (octets.iter().try_fold(0, more)?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// The end of a certificate of that day.
    fn end_of(year: i32, month: u8, day: u8) -> String {
        let mut params = CertificateParams::new(vec!["ns1.example.com".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        timestamp(not_after(certificate.der()).unwrap())
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms() {
        assert_eq!(end_of(1999, 12, 31), "1999-12-31T00:00:00.000Z");
        assert_eq!(end_of(2049, 2, 1), "2049-02-01T00:00:00.000Z");
        assert_eq!(end_of(2050, 1, 1), "2050-01-01T00:00:00.000Z");
        assert!(end_of(4096, 1, 1).starts_with("2554-"), "later than any clock here");
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let certificate = {
            let params = CertificateParams::new(vec!["ns1.example.com".to_owned()]).unwrap();
            params.self_signed(&KeyPair::generate().unwrap()).unwrap()
        };
        let der: &[u8] = certificate.der();
        assert!((0..der.len()).all(|length| not_after(&der[..length]).is_none()));
        assert_eq!(not_after(&[0x30, 0xff, 1, 2, 3]), None);
    }

    #[test]
    fn an_end_is_told_a_week_before() {
        let (end, second) = (Instant::default() + 2 * SOON, Duration::from_secs(1));
        let told = |now| told(end, now).unwrap_or_default();
        assert_eq!(told(end - SOON), "");
        assert!(told(end - SOON + second).contains("certificate ends at 1970-01-15T"));
        assert!(told(end).contains("certificate ended at 1970-01-15T"));
    }
}
