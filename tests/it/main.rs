//! Meridian from outside: the program that is shipped, on real sockets, with real resolvers and
//! real web servers, all on loopback.
//!
//! `tests/run` installs what these tests need from Debian: unbound, knot-resolver, dnsmasq, nginx,
//! kdig and promtool.

mod configuration;
mod demo;
mod encrypted;
mod failover;
mod harness;
mod http;
mod probing;
mod reload;
mod resolvers;
mod tidy;
mod transport;
