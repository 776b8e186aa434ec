//! The way of a query, with all that is made ahead, says what a slow and obvious answer says.

#![expect(clippy::unwrap_used, reason = "what a test says must be, must be")]

mod model;

use std::net::IpAddr;

use hickory_proto::rr::RecordType;
use meridian::health::State;
use meridian::rng::Seed;
use proptest::prelude::*;

use model::{CHOICES, OWNERS, TYPES, World};

/// A name in the zone, or one label away from such a name, or in no zone of ours.
fn any_name() -> impl Strategy<Value = String> {
    let owner = prop::sample::select(OWNERS.to_vec());
    let before = prop_oneof![4 => Just(""), 1 => Just("q."), 1 => Just("*."), 1 => Just("Q.r.")];
    let zone = prop_oneof![20 => Just("Example.COM."), 1 => Just("example.net.")];
    (before, owner, zone).prop_map(|(before, owner, zone)| match owner {
        "@" => format!("{before}{zone}"),
        owner => format!("{before}{owner}.{zone}"),
    })
}

fn any_client() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|last| IpAddr::from([192, 0, 2, last])),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<u16>().prop_map(|part| IpAddr::from([0x2001, 0xdb8, part, 0, 0, 0, 0, 1])),
    ]
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![3 => Just(State::Up), 2 => Just(State::Down), 1 => Just(State::Unknown)]
}

type Asked = (String, RecordType, IpAddr, Option<IpAddr>);

fn any_question() -> impl Strategy<Value = Asked> {
    let rtype = prop::sample::select(TYPES.to_vec());
    (any_name(), rtype, any_client(), prop::option::of(any_client()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_answer_is_the_slow_and_obvious_one(
        choices in prop::collection::vec(
            prop_oneof![1 => Just(0), 3 => 1..CHOICES], OWNERS.len(),
        ),
        states in prop::collection::vec(any_state(), 7),
        questions in prop::collection::vec(any_question(), 100),
    ) {
        let Some(world) = World::new(&choices, &states) else { return Ok(()) };
        for asked in &questions {
            let (name, rtype, resolver, client) = asked;
            let expected = world.answer(&name.to_lowercase(), *rtype, *resolver, *client);
            let answered = world.answered(name, *rtype, *resolver, *client);
            prop_assert_eq!(answered, expected, "{:?}", asked);
        }
    }
}

/// So that the property above is about something: many worlds are served.
#[test]
fn many_worlds_are_served() {
    let mut stream = Seed::new(1).stream("worlds");
    let mut served = 0;
    for _ in 0..200 {
        let choice = |_| usize::try_from(stream.below(CHOICES as u64)).unwrap();
        let choices = OWNERS.map(choice);
        served += usize::from(World::new(&choices, &[State::Up]).is_some());
    }
    assert!(served > 20, "{served}");
}
