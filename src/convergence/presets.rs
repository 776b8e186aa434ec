//! Populations that were published or follow from what is known of programs, each with its source
//! and how sure it is.

use super::population::{Class, Layer, Population};

/// A population to begin with, until one's own drains have been measured.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What the configuration calls it.
    pub name: &'static str,
    classes: &'static [(&'static str, f64, &'static [Layer])],
}

/// A client that holds every answer for so long.
const fn held(seconds: f64) -> Layer {
    Layer::Hold { seconds, every: 0.0 }
}

/// All of them; the first is what is assumed where nothing is said.
pub const PRESETS: [Preset; 5] = [
    // Flavel, Mani, Maltz, "Re-evaluating the Responsiveness of DNS-Based Network Control", LANMAN
    // 2014: at a TTL of 20 s 90 % of the requests had moved after 60 s, and 2 % of the users not
    // after 15 min. Measured for one service; the classes are one of several fits to these two
    // numbers.
    Preset {
        name: "flavel2014",
        classes: &[
            ("follows the TTL", 0.592, &[Layer::HONEST]),
            ("holds on for a minute", 0.368, &[Layer::HONEST, held(60.0)]),
            ("holds on for half an hour", 0.040, &[Layer::HONEST, held(1800.0)]),
        ],
    },
    // RFC 1035 §3.2.1: every cache drops an answer when its TTL ends. The lower bound: nobody
    // measured anything as good.
    Preset { name: "honest", classes: &[("follows the TTL", 1.0, &[Layer::HONEST])] },
    // Chromium's net/dns holds a result for at least 60 s (kMinimumTTLSeconds, read in its source).
    // That every client is one is an assumption.
    Preset { name: "browsers", classes: &[("browser", 1.0, &[Layer::HONEST, held(60.0)])] },
    // OpenJDK's InetAddressCachePolicy holds an address for 30 s whatever its TTL is (read in its
    // source). That every client is one is an assumption.
    Preset { name: "java", classes: &[("runtime", 1.0, &[Layer::HONEST, held(30.0)])] },
    // Bhowmick, Ashiq, Deccio, Chung, "TTL Violation of DNS Resolvers in the Wild", PAM 2023:
    // 8.74 % of 8,524 resolvers extend TTLs. By how much is not in what was read: half an hour is
    // assumed, and that resolvers are asked alike.
    Preset {
        name: "extenders2023",
        classes: &[
            ("follows the TTL", 0.9126, &[Layer::HONEST]),
            (
                "extends the TTL",
                0.0874,
                &[Layer::Cache {
                    min: 1800.0,
                    max: f64::INFINITY,
                    prefetch: 0.0,
                    stale: 0.0,
                    every: 0.0,
                }],
            ),
        ],
    },
];

impl Preset {
    /// The preset that is called so.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Its classes.
    pub fn population(&self) -> Population {
        let class = |(name, share, layers): &(&str, f64, &[Layer])| Class {
            name: (*name).to_owned(),
            share: *share,
            layers: layers.to_vec(),
        };
        Population { name: self.name.to_owned(), classes: self.classes.iter().map(class).collect() }
    }
}
