//! What is meant for an interface, of all that comes by it, as the kernel tells.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use if_addrs::get_if_addrs;

/// Where the kernel has a folder for each interface.
const INTERFACES: &str = "/sys/class/net";

/// Flags of interfaces (netdevice(7)).
const LOOPBACK: i32 = libc::IFF_LOOPBACK;
const POINT_TO_POINT: i32 = libc::IFF_POINTOPOINT;
const NO_ARP: i32 = libc::IFF_NOARP;

/// By what a frame is known to be meant for an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Own {
    /// Its MAC address.
    pub(super) mac: [u8; 6],
    /// What comes by it is this host's: `::1` is right there, and wrong elsewhere.
    pub(super) is_loopback: bool,
    /// The addresses and ports that are looked for.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Own {
    /// What is meant for this interface, and for one of `listened`.
    ///
    /// An address that another interface has is not looked for, though the kernel would take a
    /// query for it here too: which of the two it was meant for is the kernel's to say (a VLAN, a
    /// VRF). Those of interfaces that nothing comes by are looked for: a service's address stands
    /// there, so that whichever interface is up receives for it (anycast). On the loopback itself,
    /// only version 6 is looked for: the kernel drops answers that it is given there by version 4.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn of(interface: &str, listened: &[SocketAddr]) -> io::Result<Self> {
        let folder = folder(interface);
        let (mac, is_loopback) = (mac(&folder)?, flags(&folder)? & LOOPBACK != 0);
        let is_here = |of: &str| {
            let of = without_label(of);
            // What a host sends to itself goes by the loopback, to whichever of its addresses.
            is_loopback || of == interface || is_still(&self::folder(of)).unwrap_or(false)
        };
        let held = get_if_addrs()?.into_iter().filter(|held| is_here(&held.name));
        let held = held.map(|held| held.ip());
        let held = held.filter(|ip| if is_loopback { ip.is_ipv6() } else { !ip.is_loopback() });
        let addresses = looked_for(listened, &held.collect::<Vec<_>>());
        Ok(Self { mac, is_loopback, addresses })
    }
}

/// The interfaces that are made of this one: VLANs, or the bridge, bond or VRF that it is part of.
///
/// # Errors
/// There is no such interface.
pub(super) fn above(interface: &str) -> io::Result<Vec<String>> {
    entries(&folder(interface), "upper_")
}

/// By how many queues an interface receives.
///
/// # Errors
/// There is no such interface.
pub(super) fn queues(interface: &str) -> io::Result<u32> {
    let queues = entries(&folder(interface).join("queues"), "rx-")?;
    u32::try_from(queues.len()).map_err(io::Error::other)
}

fn folder(interface: &str) -> PathBuf {
    Path::new(INTERFACES).join(interface)
}

/// What is in a folder under a name that begins so, in order, and without that beginning.
fn entries(folder: &Path, begin: &str) -> io::Result<Vec<String>> {
    let names =
        std::fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<_> =
        names.filter_map(|name| Some(name.strip_prefix(begin)?.to_owned())).collect();
    found.sort();
    Ok(found)
}

fn mac(folder: &Path) -> io::Result<[u8; 6]> {
    let text = std::fs::read_to_string(folder.join("address"))?;
    let octets = text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).ok());
    let octets: Option<Vec<u8>> = octets.collect();
    let octets = octets.and_then(|octets| octets.try_into().ok());
    octets.ok_or_else(|| io::Error::other("it has no MAC address"))
}

fn flags(folder: &Path) -> io::Result<i32> {
    let text = std::fs::read_to_string(folder.join("flags"))?;
    let digits = text.trim().trim_start_matches("0x");
    i32::from_str_radix(digits, 16).map_err(io::Error::other)
}

/// Whether nothing comes by an interface but what this host sends: the loopback, or a dummy, which
/// asks for no neighbour, is no tunnel, and has no interface above or below it.
fn is_still(folder: &Path) -> io::Result<bool> {
    let flags = flags(folder)?;
    let is_dummy = flags & NO_ARP != 0 && flags & POINT_TO_POINT == 0;
    let is_alone = entries(folder, "upper_")?.is_empty() && entries(folder, "lower_")?.is_empty();
    Ok(is_alone && (is_dummy || flags & LOOPBACK != 0))
}

/// An address of version 4 may have a label, which stands for the interface's name then.
fn without_label(name: &str) -> &str {
    name.split_once(':').map_or(name, |(name, _)| name)
}

/// Those of `held` that are listened on, by themselves or as all of their family.
fn looked_for(listened: &[SocketAddr], held: &[IpAddr]) -> Vec<SocketAddr> {
    let of = |address: &SocketAddr| {
        let (all, port) = (address.ip(), address.port());
        let is_all = move |ip: &IpAddr| all.is_unspecified() && all.is_ipv4() == ip.is_ipv4();
        let held = held.iter().filter(move |ip| **ip == all || is_all(ip));
        held.map(move |ip| SocketAddr::new(*ip, port))
    };
    listened.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The folder of an interface, with its flags and with these beside it.
    fn made(flags: i32, beside: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("flags"), format!("{flags:#x}\n")).unwrap();
        beside.iter().for_each(|name| fs::create_dir(folder.path().join(name)).unwrap());
        folder
    }

    #[test]
    fn what_is_above_is_seen() {
        let folder =
            made(0, &["lower_eth1", "upper_eth0.100", "queues", "upper_br0", "statistics"]);
        assert_eq!(entries(folder.path(), "upper_").unwrap(), ["br0", "eth0.100"]);
        assert!(above("no such interface").is_err());
    }

    #[test]
    fn nothing_comes_by_the_loopback_and_dummies() {
        let (broadcast, up) = (libc::IFF_BROADCAST, libc::IFF_UP);
        let rows: [(i32, &[&str], bool); 8] = [
            (up | LOOPBACK, &["queues"], true),
            (up | broadcast | NO_ARP, &["queues"], true),
            // A NIC, a tunnel.
            (up | broadcast | libc::IFF_MULTICAST, &["queues"], false),
            (up | POINT_TO_POINT | NO_ARP, &[], false),
            // A dummy in a VRF or a bridge; a VRF, and an IPVLAN.
            (up | broadcast | NO_ARP, &["upper_vrf"], false),
            (up | NO_ARP, &["lower_eth0"], false),
            (up | broadcast | NO_ARP, &["lower_eth0"], false),
            (0, &[], false),
        ];
        for (flags, beside, expected) in rows {
            let folder = made(flags, beside);
            assert_eq!(is_still(folder.path()).unwrap(), expected, "{flags:#x} {beside:?}");
        }
        assert!(is_still(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_mac_address_has_six_octets() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(folder.path().join("address"), text).unwrap();
            mac(folder.path()).ok()
        };
        assert_eq!(read("02:fc:00:00:0a:ff\n"), Some([0x02, 0xfc, 0, 0, 0x0a, 0xff]));
        // A tunnel; a tunnel over IPv4; InfiniBand.
        for text in ["\n", "0a:00:00:01\n", &"00:".repeat(19), "02:fc:00:00:0a:ff:00\n", "x\n"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_is_held_is_looked_for() {
        let held = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let listened = ["0.0.0.0:53", "[2001:db8::1]:53", "192.0.2.2:5353", "198.51.100.1:53"];
        let listened = listened.map(|address| address.parse().unwrap());
        let found = looked_for(&listened, &held).into_iter().map(|found| found.to_string());
        let expected = ["192.0.2.1:53", "192.0.2.2:53", "[2001:db8::1]:53", "192.0.2.2:5353"];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert_eq!(["eth0", "eth0:1"].map(without_label), ["eth0"; 2]);
    }

    #[test]
    fn loopback_addresses_are_the_loopbacks() {
        let listened = ["0.0.0.0:53".parse().unwrap()];
        let lo = Own::of("lo", &listened).unwrap();
        assert_eq!(lo, Own { mac: [0; 6], is_loopback: true, addresses: Vec::new() });
        for of in get_if_addrs().unwrap().iter().filter(|of| !of.is_loopback()) {
            let Ok(own) = Own::of(without_label(&of.name), &listened) else { continue };
            assert!(own.addresses.iter().all(|address| !address.ip().is_loopback()), "{own:?}");
        }
    }
}
