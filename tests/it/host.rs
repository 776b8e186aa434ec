//! Hosts of a test's own: network namespaces, each reached over a pair of virtual interfaces.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A host beside this one, reached over a pair of virtual interfaces.
pub(crate) struct Host {
    pub(crate) name: String,
    /// The second octet of its network and of this host's in it.
    pub(crate) network: u8,
}

/// Runs `ip`, which needs to be root.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {told}; only root makes hosts");
}

/// This host's end of the pair to that network.
pub(crate) fn there(network: u8) -> String {
    format!("m{}-{network}", std::process::id())
}

impl Host {
    /// Its end of the pair is called `here`.
    pub(crate) fn new(network: u8) -> Self {
        let name = format!("meridian{}-{network}", std::process::id());
        let there = there(network);
        ip(&format!("netns add {name}"));
        ip(&format!("link add {there} type veth peer name here netns {name}"));
        ip(&format!("addr add 10.{network}.0.2/24 dev {there}"));
        ip(&format!("addr add fd{network:02x}::2/64 dev {there} nodad"));
        ip(&format!("link set {there} up"));
        let host = Self { name, network };
        host.ip("link set lo up");
        host.ip(&format!("addr add 10.{network}.0.1/24 dev here"));
        host.ip(&format!("addr add fd{network:02x}::1/64 dev here nodad"));
        host.ip("link set here up");
        host
    }

    pub(crate) fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.network, 0, 1)
    }

    pub(crate) fn v6(&self) -> SocketAddr {
        format!("[fd{:02x}::1]:53", self.network).parse().unwrap()
    }

    /// Runs `ip` for that host.
    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// A program that runs there.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// What `work` finds out there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let enter = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        // A thread that has moved there is no good elsewhere.
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
    }
}
