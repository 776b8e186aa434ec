//! Addresses that two listeners would share, so that a start would fail.

use std::net::SocketAddr;

use super::problem::Place;
use super::read::{At, Problems};
use super::{Cluster, Encrypted, Http, Node};

/// A key, and the addresses that it says.
type Listener<'a> = (&'static str, &'a [SocketAddr]);

/// Tells of each address that two keys of one transport name.
pub(super) fn clashes(
    root: &At<'_>,
    (node, http): (&Node, &Http),
    encrypted: Option<&Encrypted>,
    cluster: Option<&Cluster>,
    problems: &mut Problems,
) {
    let of_tls = |list: fn(&Encrypted) -> &Vec<SocketAddr>| {
        encrypted.map(|of| list(of).as_slice()).unwrap_or_default()
    };
    let plain = ("node.listen", node.listen.as_slice());
    let cluster: &[SocketAddr] = cluster.map_or(&[], |of| std::slice::from_ref(&of.listen));
    let tcp = [
        plain,
        ("tls.dot", of_tls(|of| &of.dot)),
        ("tls.doh", of_tls(|of| &of.doh)),
        ("http.listen", http.listen.as_slice()),
    ];
    let udp = [plain, ("tls.doq", of_tls(|of| &of.doq)), ("cluster.listen", cluster)];
    for transport in [&tcp[..], &udp[..]] {
        for (row, second) in transport.iter().enumerate() {
            for first in &transport[..row] {
                clash(root, *first, *second, problems);
            }
        }
    }
}

fn clash(root: &At<'_>, first: Listener<'_>, second: Listener<'_>, problems: &mut Problems) {
    // Port 0 is another port each time.
    for address in second.1.iter().filter(|of| of.port() != 0 && first.1.contains(of)) {
        let written = [second.0, first.0].into_iter().find_map(|key| {
            let keys: Vec<&str> = key.split('.').collect();
            Some((root.find(&keys)?.place(), key))
        });
        // What is written nowhere is a default.
        let (at, key) = written.unwrap_or((Place { line: 1, column: 1 }, second.0));
        let other = if key == second.0 { first.0 } else { second.0 };
        let what = format!("{address} is the address of `{other}` too; expected one of its own");
        problems.error(at, key, what);
    }
}
