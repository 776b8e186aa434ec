//! Meridian from outside: the program that is shipped, on real sockets, with real resolvers and
//! real web servers, all on loopback.
//!
//! `tests/run` installs what these tests need from Debian: unbound, knot-resolver, dnsmasq, BIND,
//! PowerDNS Recursor, nginx, kdig, promtool and gRPC's Python.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "what a test says must be, must be"
)]

mod api;
mod arriving;
mod checks;
mod clients;
mod cluster;
mod configuration;
mod convergence;
mod demo;
mod deploy;
mod encrypted;
mod endurance;
mod failover;
mod floods;
mod harness;
mod host;
mod http;
mod leases;
mod moves;
mod nodes;
mod operators;
mod passed;
mod probing;
mod refusals;
mod reload;
mod resolvers;
mod service;
mod simulate;
mod tidy;
mod told;
mod transport;
mod upgrade;
mod webhooks;
mod writers;
mod xdp;
