//! Writes databases in the MaxMind DB format (version 2.0), as `geoip/` and the tests need them.
//!
//! ```text
//! insert(network, value) … → a binary trie of networks → finish → tree, data, metadata
//! ```
//!
//! Where networks overlap, the one inserted last counts. Networks that end up alike are merged,
//! and equal values are written once. The format is described at
//! <https://maxmind.github.io/MaxMind-DB/>.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use value::Value;

mod value;

/// Collects networks and their values.
#[derive(Debug)]
pub struct Writer {
    database_type: String,
    description: String,
    build_epoch: u64,
    root: Child,
    nodes: Vec<[Child; 2]>,
    values: Values,
}

/// What hangs on one side of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Child {
    /// Nothing is known of these addresses.
    Empty,
    /// All these addresses have the value at this offset.
    Value(usize),
    /// They differ.
    Node(usize),
}

/// Values in their encoding, each once.
#[derive(Debug, Default)]
struct Values {
    bytes: Vec<u8>,
    offsets: HashMap<Vec<u8>, usize>,
}

/// Zeros between the tree and the data.
const SEPARATOR: usize = 16;

/// What stands before the metadata.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

impl Writer {
    /// A database that says it is a `database_type`, made `build_epoch` seconds after 1970. An
    /// empty description is none.
    pub fn new(database_type: &str, description: &str, build_epoch: u64) -> Self {
        Self {
            database_type: database_type.to_owned(),
            description: description.to_owned(),
            build_epoch,
            root: Child::Empty,
            nodes: Vec::new(),
            values: Values::default(),
        }
    }

    /// Gives `network` the value `value`, whatever its addresses had before.
    pub fn insert(&mut self, network: IpNet, value: &Value) {
        let value = Child::Value(self.values.offset(value));
        let (bits, length) = path(network);
        self.root = self.place(self.root, bits, length, value);
    }

    /// `below` with `value` at the end of the `length` highest bits of `bits`.
    fn place(&mut self, below: Child, bits: u128, length: u8, value: Child) -> Child {
        if length == 0 || below == value {
            return value;
        }
        let node = match below {
            Child::Node(node) => node,
            Child::Empty | Child::Value(_) => {
                self.nodes.push([below; 2]);
                self.nodes.len() - 1
            }
        };
        let side = usize::from(bits >> 127 == 1);
        let child = self.place(self.nodes[node][side], bits << 1, length - 1, value);
        self.nodes[node][side] = child;
        // Two sides that are alike are one network.
        match self.nodes[node] {
            [zero, one] if zero == one && !matches!(zero, Child::Node(_)) => zero,
            _ => Child::Node(node),
        }
    }

    /// The file.
    pub fn finish(mut self) -> Vec<u8> {
        if !matches!(self.root, Child::Node(_)) {
            self.nodes.push([self.root; 2]);
            self.root = Child::Node(self.nodes.len() - 1);
        }
        let order = self.order();
        let count = order.len();
        let highest = count + SEPARATOR + self.values.bytes.len();
        let record_bits: u16 = match highest {
            0..0x100_0000 => 24,
            0x100_0000..0x1000_0000 => 28,
            _ => 32,
        };
        let rows: HashMap<usize, usize> =
            order.iter().enumerate().map(|(row, node)| (*node, row)).collect();
        let record = |child: Child| match child {
            Child::Empty => count,
            Child::Value(offset) => count + SEPARATOR + offset,
            Child::Node(node) => rows[&node],
        };
        let mut file = Vec::new();
        for node in &order {
            let [zero, one] = self.nodes[*node].map(|child| record(child).to_be_bytes());
            // The last octets of each: three, three and a half, or four of them.
            match record_bits {
                24 => [&zero[5..], &one[5..]].iter().for_each(|bytes| file.extend(*bytes)),
                28 => {
                    file.extend_from_slice(&zero[5..]);
                    file.push(zero[4] << 4 | one[4] & 0x0f);
                    file.extend_from_slice(&one[5..]);
                }
                _ => [&zero[4..], &one[4..]].iter().for_each(|bytes| file.extend(*bytes)),
            }
        }
        file.extend_from_slice(&[0; SEPARATOR]);
        file.extend_from_slice(&self.values.bytes);
        file.extend_from_slice(MARKER);
        self.metadata(count, record_bits).encode(&mut file);
        file
    }

    /// The nodes that are in use, the root first.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let mut stack = vec![self.root];
        while let Some(child) = stack.pop() {
            if let Child::Node(node) = child {
                order.push(node);
                let [zero, one] = self.nodes[node];
                stack.extend([one, zero]);
            }
        }
        order
    }

    fn metadata(&self, nodes: usize, record_bits: u16) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let description = match self.description.as_str() {
            "" => Value::map([]),
            described => Value::map([("en", text(described))]),
        };
        Value::map([
            ("binary_format_major_version", Value::Uint16(2)),
            ("binary_format_minor_version", Value::Uint16(0)),
            ("build_epoch", Value::Uint64(self.build_epoch)),
            ("database_type", text(&self.database_type)),
            ("description", description),
            ("ip_version", Value::Uint16(6)),
            ("languages", Value::Array(vec![text("en")])),
            ("node_count", Value::Uint32(nodes)),
            ("record_size", Value::Uint16(record_bits)),
        ])
    }
}

impl Values {
    fn offset(&mut self, value: &Value) -> usize {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        if let Some(offset) = self.offsets.get(&encoded) {
            return *offset;
        }
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&encoded);
        self.offsets.insert(encoded, offset);
        offset
    }
}

/// The bits of a network from the root, and how many of them count. IPv4 is at ::/96.
fn path(network: IpNet) -> (u128, u8) {
    match network.network() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 96 + network.prefix_len()),
        IpAddr::V6(ip) => (u128::from(ip), network.prefix_len()),
    }
}

#[cfg(test)]
mod tests;
