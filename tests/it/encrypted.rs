//! DNS over TLS, HTTPS and QUIC, asked by kdig; certificates that change.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::{TempDir, tempdir};

use crate::harness::{Meridian, wait_for};

/// Writes a new certificate for ns1.example.com.
fn certify(folder: &Path) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["ns1.example.com".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
}

fn serve() -> Meridian {
    let folder: TempDir = tempdir().unwrap();
    certify(folder.path());
    let texts: Vec<String> = (0..6).map(|row| format!("'\"{row}{}\"'", "x".repeat(250))).collect();
    let (texts, any) = (texts.join(", "), "\"127.0.0.1:0\"");
    Meridian::serve_in(
        folder,
        &format!(
            "tls:
  {{ certificate: cert.pem, key: key.pem, dot: {any}, doh: {any}, doq: {any} }}
regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones:
  example.com:
    ns: [ns1.example.com, ns2.example.com]
    records:
      big: {{ TXT: [{texts}] }}
services:
  web: {{ names: [www.example.com], regions: {{ us: 192.0.2.10, eu: 192.0.2.20 }} }}
"
        ),
    )
}

/// What kdig prints, and whether it was content.
fn kdig(at: SocketAddr, how: &str, ca: &Path, more: &[&str]) -> (bool, String) {
    let output = Command::new("kdig")
        .arg(format!("@{}", at.ip()))
        .args(["-p", &at.port().to_string(), "+tls-hostname=ns1.example.com", "+retry=0"])
        .arg(format!("+tls-ca={}", ca.display()))
        // Behind the others: they set the transport too.
        .arg(how)
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("kdig {how}: {errors}");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn kdig_is_answered_over_tls_https_and_quic() {
    let server = serve();
    let ca = server.path("cert.pem");
    let listeners = [
        (server.dot, "+tls", "tls"),
        (server.doh, "+https", "https"),
        (server.doq, "+quic", "quic"),
    ];
    for (at, how, label) in listeners {
        let at = at.unwrap();
        // Located by its subnet, like over any other transport.
        let (good, told) = kdig(at, how, &ca, &["+subnet=134.226.1.0/24", "www.example.com", "A"]);
        assert!(good && told.contains("192.0.2.20"), "{how}: {told}");
        assert!(told.contains("Flags: qr aa rd"), "{how}: {told}");
        assert!(told.contains("134.226.1.0/24"), "{how}: {told}");
        let (good, told) = kdig(at, how, &ca, &["big.example.com", "TXT", "+short"]);
        assert!(good && told.lines().count() == 6, "{how}: {told}");
        let (good, told) = kdig(at, how, &ca, &["nope.example.com", "A"]);
        assert!(good && told.contains("NXDOMAIN"), "{how}: {told}");
        let metric = format!(
            "meridian_queries_total{{transport=\"{label}\",rcode=\"NXDOMAIN\",\
             service=\"\",region=\"\"}}"
        );
        wait_for(&metric, || (server.metric(&metric) == 1.0).then_some(()));
    }
}

#[test]
fn a_changed_certificate_is_given_to_the_next_connection() {
    let server = serve();
    let old = server.path("old.pem");
    std::fs::copy(server.path("cert.pem"), &old).unwrap();
    let ask = |at: Option<SocketAddr>, how, ca: &Path| {
        kdig(at.unwrap(), how, ca, &["www.example.com", "A", "+short"]).0
    };
    let listeners = [(server.dot, "+tls"), (server.doh, "+https"), (server.doq, "+quic")];
    for (at, how) in listeners {
        assert!(ask(at, how, &old), "{how}");
    }
    certify(server.folder.path());
    let new = server.path("cert.pem");
    for (at, how) in listeners {
        wait_for(how, || ask(at, how, &new).then_some(()));
        assert!(!ask(at, how, &old), "{how} still gives the old one");
    }
}

#[test]
fn a_certificate_without_its_key_is_refused_and_the_last_one_serves() {
    let server = serve();
    let ca = server.path("ca.pem");
    std::fs::copy(server.path("cert.pem"), &ca).unwrap();
    server.write("key.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let metric = "meridian_reload_refused{what=\"certificate\"}";
    wait_for("a refusal", || (server.metric(metric) == 1.0).then_some(()));
    assert!(kdig(server.dot.unwrap(), "+tls", &ca, &["www.example.com", "A", "+short"]).0);
}
