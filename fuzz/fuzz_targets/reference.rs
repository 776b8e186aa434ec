//! Any world, any question: the answer is what the slow and obvious one is.
//!
//! The input chooses what is at each name and how each endpoint is, then one question after the
//! other: six octets each.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use meridian::health::State;

#[path = "../../tests/reference/model.rs"]
mod model;

use model::{CHOICES, OWNERS, TYPES, World};

/// How many endpoints have a state of their own.
const ENDPOINTS: usize = 7;

fn address(choice: u8, part: u8) -> IpAddr {
    match choice % 3 {
        0 => [192, 0, 2, part].into(),
        1 => [part, choice, 1, 1].into(),
        _ => [0x2001, 0xdb8, u16::from(part) << 8, 0, 0, 0, 0, 1].into(),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((choices, rest)) = input.split_first_chunk::<{ OWNERS.len() }>() else { return };
    let Some((states, questions)) = rest.split_first_chunk::<ENDPOINTS>() else { return };
    let choices = choices.map(|choice| usize::from(choice) % CHOICES);
    let states = states.map(|state| match state % 3 {
        0 => State::Up,
        1 => State::Down,
        _ => State::Unknown,
    });
    let Some(world) = World::new(&choices, &states) else { return };
    for [owner, before, rtype, who, part, behind] in questions.as_chunks::<6>().0 {
        let before = ["", "q.", "*.", "Q.r."][usize::from(*before) % 4];
        let name = match OWNERS[usize::from(*owner) % OWNERS.len()] {
            "@" => format!("{before}Example.COM."),
            owner => format!("{before}{owner}.Example.COM."),
        };
        let rtype = TYPES[usize::from(*rtype) % TYPES.len()];
        let resolver = address(*who, *part);
        let client = (*behind > 127).then(|| address(*behind, *part));
        let expected = world.answer(&name.to_lowercase(), rtype, resolver, client);
        let answered = world.answered(&name, rtype, resolver, client);
        assert_eq!(answered, expected, "{name} {rtype} by {resolver} for {client:?}");
    }
});
