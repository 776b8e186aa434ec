//! Weighted and sticky: rendezvous hashing of the client's prefix.
//!
//! A client's prefix (/24 in IPv4, /56 in IPv6) hashes to one of [`SLOTS`] slots, and a slot
//! ranks the regions by weighted rendezvous: region r with weight w scores −log₂(h)/w, where h
//! in (0, 1] is the hash of slot and region, and the lowest score wins. A region then gets
//! w/Σw of the slots, and when one goes away or changes its weight, only its own share moves
//! (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005). All in integers,
//! so that two machines decide alike.

use std::net::IpAddr;

use crate::ids::RegionId;
use crate::rng::fnv1a;

/// How many slots the client prefixes hash to: a weight is kept to about 0.02 %, and the table of
/// a service fits in the first cache.
pub const SLOTS: usize = 4096;

/// The part of an IPv4 address that decides, and the widest scope of such an answer. Public
/// resolvers send no more than this (RFC 7871 §11.1).
pub const PREFIX_V4: u8 = 24;

/// The same for IPv6.
pub const PREFIX_V6: u8 = 56;

/// A region as rendezvous hashing sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Contender {
    /// The region.
    pub region: RegionId,
    /// The hash of its *name*: ids change when a configuration is reordered.
    pub name_hash: u64,
    /// Its weight; 0 comes after all others.
    pub weight: u32,
}

/// The slot of a client, and the length of the prefix that decided it.
pub fn slot(client: IpAddr) -> (usize, u8) {
    let (hash, prefix) = spread(client);
    (usize::try_from(hash).map_or(0, |hash| hash % SLOTS), prefix)
}

/// The hash of a client's prefix, and the length of that prefix. An IPv4 client is one also where
/// it comes by an IPv6 socket: its address has 96 bits before it then (RFC 4291 §2.5.5.2).
pub(super) fn spread(client: IpAddr) -> (u64, u8) {
    match client.to_canonical() {
        IpAddr::V4(ip) => {
            let before = if client.is_ipv6() { 96 } else { 0 };
            (mix(u64::from(u32::from(ip) >> (32 - PREFIX_V4))), before + PREFIX_V4)
        }
        IpAddr::V6(ip) => {
            let kept = u128::from(ip) >> (128 - u32::from(PREFIX_V6));
            (mix(!u64::try_from(kept).unwrap_or(0)), PREFIX_V6)
        }
    }
}

/// The regions in the order in which `client` prefers them.
pub fn order_of(client: IpAddr, contenders: &[Contender]) -> Vec<RegionId> {
    order(slot(client).0, contenders)
}

/// The regions in the order in which `slot` prefers them.
pub fn order(slot: usize, contenders: &[Contender]) -> Vec<RegionId> {
    order_by(contenders, |contender| score(slot, contender.name_hash))
}

/// The same, by their scores before weights.
pub fn order_by(contenders: &[Contender], score: impl Fn(&Contender) -> u64) -> Vec<RegionId> {
    let mut scored: Vec<(u64, &Contender)> =
        contenders.iter().map(|contender| (score(contender), contender)).collect();
    scored.sort_unstable_by(|(a, left), (b, right)| {
        // a / w_left < b / w_right, without dividing; weight 0 is an infinite score.
        let (a, b) = (u128::from(*a), u128::from(*b));
        (left.weight == 0)
            .cmp(&(right.weight == 0))
            .then((a * u128::from(right.weight)).cmp(&(b * u128::from(left.weight))))
            .then(left.region.cmp(&right.region))
    });
    scored.into_iter().map(|(_, contender)| contender.region).collect()
}

/// What a region scores in each slot before its weight counts. To compute them takes longer than
/// all else, and they are the same for all services.
pub fn scores(name_hash: u64) -> Box<[u64]> {
    (0..SLOTS).map(|slot| score(slot, name_hash)).collect()
}

fn score(slot: usize, name_hash: u64) -> u64 {
    minus_log2(mix(name_hash ^ mix(slot as u64)))
}

/// The hash of a region's name, as [`Contender`] wants it.
pub fn name_hash(name: &str) -> u64 {
    fnv1a(name.as_bytes())
}

/// A bijection of 64 bits that spreads every input bit over all output bits
/// (the finaliser of SplitMix64; Steele, Lea and Flood, OOPSLA 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// −log₂((hash + 1) / 2⁶⁴) with [`FRACTION_BITS`] binary places. The fraction of a logarithm is
/// found by squaring the mantissa: each squaring that passes 2 is a one.
fn minus_log2(hash: u64) -> u64 {
    let value = hash.max(1);
    let zeros = value.leading_zeros();
    // The mantissa in [1, 2), with 63 binary places.
    let mut mantissa = value << zeros;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        mantissa = if square >> 64 == 1 {
            fraction |= 1;
            u64::try_from(square >> 1).unwrap_or(u64::MAX)
        } else {
            u64::try_from(square).unwrap_or(u64::MAX)
        };
    }
    (u64::from(zeros + 1) << FRACTION_BITS) - fraction
}

/// Binary places of a score: ties are rarer than one slot in a million.
const FRACTION_BITS: u32 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn contenders(weights: &[u32]) -> Vec<Contender> {
        let names = ["us-east", "us-west", "eu-west", "ap-southeast"];
        let rows = weights.iter().zip(names).enumerate();
        rows.filter_map(|(row, (weight, name))| {
            let region = RegionId::from_index(row)?;
            Some(Contender { region, name_hash: name_hash(name), weight: *weight })
        })
        .collect()
    }

    fn winners(contenders: &[Contender]) -> Vec<RegionId> {
        (0..SLOTS).map(|slot| order(slot, contenders)[0]).collect()
    }

    #[test]
    fn logarithms_are_those_of_the_floating_point_unit() {
        for hash in [1, 2, 3, 1 << 20, u64::MAX / 3, u64::MAX] {
            let exact = 64.0 - (hash as f64).log2();
            let ours = minus_log2(hash) as f64 / f64::from(1 << FRACTION_BITS);
            assert!((exact - ours).abs() < 1e-6, "{hash}: {ours} instead of {exact}");
        }
    }

    #[test]
    fn a_region_gets_its_weights_share_of_the_slots() {
        let weights = [50, 30, 15, 5];
        let won = winners(&contenders(&weights));
        for (row, weight) in weights.into_iter().enumerate() {
            let share = won.iter().filter(|region| region.index() == row).count() * 100;
            let expected = weight as usize * SLOTS;
            // Three standard deviations of a binomial share of 4096 are at most 2.4 %.
            assert!(share.abs_diff(expected) < SLOTS * 24 / 10, "{share} against {expected}");
        }
    }

    #[test]
    fn when_a_region_goes_only_its_own_slots_move() {
        let all = contenders(&[40, 30, 20, 10]);
        let gone = all[1].region;
        let rest: Vec<_> = all.iter().copied().filter(|c| c.region != gone).collect();
        for (before, after) in winners(&all).into_iter().zip(winners(&rest)) {
            assert!(before == gone || before == after);
        }
    }

    #[test]
    fn when_a_weight_grows_slots_move_only_to_it() {
        let before = winners(&contenders(&[10, 10, 10]));
        let after = winners(&contenders(&[10, 20, 10]));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
        assert!(!moved.is_empty());
        assert!(moved.iter().all(|(_, to)| to.index() == 1));
    }

    #[test]
    fn weight_zero_is_the_last_resort() {
        let contenders = contenders(&[0, 1]);
        assert!((0..SLOTS).all(|slot| order(slot, &contenders)[0].index() == 1));
    }

    #[test]
    fn clients_of_one_prefix_share_a_slot() {
        let near: IpAddr = "192.0.2.7".parse().unwrap();
        let same: IpAddr = "192.0.2.250".parse().unwrap();
        let other: IpAddr = "192.0.3.7".parse().unwrap();
        assert_eq!(slot(near), slot(same));
        assert_ne!(slot(near).0, slot(other).0);
        for (plain, (slot_of, length)) in [(near, slot(near)), (other, slot(other))] {
            let mapped: IpAddr = format!("::ffff:{plain}").parse().unwrap();
            assert_eq!(slot(mapped), (slot_of, length + 96));
        }
    }
}
