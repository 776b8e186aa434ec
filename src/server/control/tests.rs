//! What the control task makes of a new configuration, and what it says of itself.

use tokio::sync::mpsc::unbounded_channel;

use super::peers::NodeWord;
use super::*;
use crate::cluster::{Heard, Lists, Stamp};
use crate::config::Cluster;
use crate::ids::{NodeId, RegionId};
use crate::server::cluster::{Hearing, Saying};
use crate::server::load::{Loader, Source};
use crate::server::takeover::GRACE;
use crate::steer::weighted::SLOTS;
use crate::steer::{Ramp, Word};
use crate::time::Ttl;

/// A control task that does not run, and what loads for it.
struct World {
    control: Control,
    _handle: Handle,
    loader: Loader,
}

fn source(services: &str) -> Source {
    let text = format!(
        "regions: {{ us: {{}}, eu: {{}} }}
checks: {{ web: {{ tcp: 9 }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
{services}
"
    );
    Source::Text("test".to_owned(), text)
}

/// Serves these services.
fn world(services: &str) -> World {
    world_after(services, Store::open(None).unwrap())
}

/// The same after another process, which has left this.
fn world_after(services: &str, store: (Store, Recalled)) -> World {
    let clock = Clock::start();
    let mut loader = Loader::new(source(services));
    let loaded = loader.load().map_err(|refused| refused.problems).unwrap();
    let (reports, reported) = unbounded_channel();
    let probing = (Prober::new(clock, 1, reports), reported);
    let (hints, hinted) = unbounded_channel();
    let holding = (Prober::held(1, hints), hinted);
    let (control, _handle) =
        Control::new(clock, Seed::new(1), loaded, probing, holding, Arc::default(), store);
    World { control, _handle, loader }
}

impl World {
    fn reload(&mut self, services: &str) {
        self.loader.turn_to(source(services));
        let loaded = self.loader.load().map_err(|refused| refused.problems).unwrap();
        let targets = loaded.probes.keys().copied().collect();
        self.control.apply(loaded).map_err(|refused| refused.problems).unwrap();
        self.loader.forget_others(&targets);
    }

    /// It decides with another node; what it says to that one.
    fn join(&mut self) -> UnboundedReceiver<Saying> {
        let (says, said) = unbounded_channel();
        self.control.join(Electorate::default(), Peers::new(says, Cluster::two()));
        said
    }
}

fn all(said: &mut UnboundedReceiver<Saying>) -> Vec<Saying> {
    std::iter::from_fn(|| said.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_word_that_ends_at_a_node_by_another_clock_is_no_conflict() {
    let mut world =
        world("  web: { names: [www.example.com], regions: { us: 192.0.2.1, eu: 192.0.2.2 } }");
    let _said = world.join();
    let clock = world.control.clock;
    let second = Duration::from_secs(1);
    // The clock of who says it is right, or ahead of this one's.
    for (subject, ahead) in [("us", Duration::ZERO), ("eu", second)] {
        let since = clock.now() + ahead;
        let word = Said {
            subject: subject.parse().unwrap(),
            word: Some(Word::Drain),
            ended: false,
            reason: "power".to_owned(),
            owner: "alice".to_owned(),
            since,
            until: Some(since + second * 60),
            ramp: None,
            stamp: Stamp::next(since, "ns2", [], 0),
            beside: Vec::new(),
        };
        let end = word.clone().ended();
        for said in [word, end] {
            let other = NodeId::from_index(1).unwrap();
            let key = format!("w/{subject}");
            world.control.hear(vec![Heard::Entry(other, key, Some(said.spoken()))]);
        }
    }
    let words = |control: &Control| control.said.iter().map(|of| of.word).collect::<Vec<_>>();
    assert_eq!(words(&world.control), [Some(Word::Drain); 2]);
    let told: Vec<&str> = world.control.events.iter().map(|of| of.what.as_str()).collect();
    assert_eq!(told, ["drain", "drain"]);
}

/// A node that hears words of others on one region, and what it is told.
struct Listening {
    world: World,
    _said: UnboundedReceiver<Saying>,
    since: Instant,
}

impl Listening {
    fn start() -> Self {
        let services =
            "web: { names: [www.example.com], regions: { us: 192.0.2.1, eu: 192.0.2.2 } }";
        let mut world = world(&format!("  {services}"));
        let _said = world.join();
        let since = world.control.clock.now();
        Self { world, _said, since }
    }

    /// Soon enough for a test, and late enough for a machine that does much else.
    fn soon(&self) -> Instant {
        self.since + Duration::from_millis(800)
    }

    fn word(&self, by: &str, word: Word, until: Option<Instant>, known: &[&Said]) -> Said {
        let latest = known.iter().map(|of| of.latest()).max().unwrap_or(0);
        Said {
            subject: "eu".parse().unwrap(),
            word: Some(word),
            ended: false,
            reason: "power".to_owned(),
            owner: by.to_owned(),
            since: self.since,
            until,
            ramp: None,
            stamp: Stamp::next(self.since, by, known.iter().map(|of| &of.stamp), latest),
            beside: Vec::new(),
        }
    }

    fn hear(&mut self, said: &Said) {
        let other = NodeId::from_index(1).unwrap();
        let heard = Heard::Entry(other, "w/eu".to_owned(), Some(said.spoken()));
        self.world.control.hear(vec![heard]);
    }

    /// What counts.
    fn counts(&self) -> Option<Word> {
        self.world.control.said[0].word
    }

    /// Time passes.
    fn end(&mut self) {
        while self.world.control.clock.now() < self.soon() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        self.world.control.expire();
    }
}

#[tokio::test]
async fn of_two_words_that_were_said_at_once_the_other_counts_when_the_safer_has_ended() {
    for [lesser, safer] in [[Word::Drain, Word::Down], [Word::Up, Word::Drain]] {
        let mut node = Listening::start();
        let until = Some(node.soon());
        node.hear(&node.word("ns2", lesser, None, &[]));
        node.hear(&node.word("ns3", safer, until, &[]));
        assert_eq!(node.counts(), Some(safer));
        // It is kept, and told, with the one beside it.
        let told = Said::told("eu", &node.world.control.said[0].spoken()).unwrap();
        assert_eq!(told.beside.iter().map(|of| of.word).collect::<Vec<_>>(), [Some(lesser)]);
        node.end();
        assert_eq!(node.counts(), Some(lesser));
        let [lesser, safer] = [lesser, safer].map(|word| word.to_string());
        let events = node.world.control.events.iter().map(|of| of.what.as_str());
        let expected = [&lesser, "cleared", &safer, "conflict", &lesser];
        assert_eq!(events.collect::<Vec<_>>(), expected, "the newest first");
    }
}

#[tokio::test]
async fn what_has_ended_still_replaces_what_it_knew_of() {
    let mut node = Listening::start();
    let until = Some(node.soon());
    let first = node.word("ns2", Word::Drain, None, &[]);
    let replaced = node.word("ns3", Word::Up, until, &[&first]);
    let safer = node.word("ns4", Word::Down, until, &[]);
    for word in [&first, &replaced, &safer] {
        node.hear(word);
    }
    assert_eq!(node.counts(), Some(Word::Down));
    node.end();
    assert_eq!(node.counts(), None);
    // Somebody was away, and has the first one only.
    node.hear(&first);
    assert_eq!(node.counts(), None);
    // What is said after it all counts, also if it brings traffic.
    node.hear(&node.word("ns5", Word::Up, None, &[]));
    assert_eq!(node.counts(), Some(Word::Up));
}

#[tokio::test]
async fn what_others_say_at_once_is_published_once() {
    let addresses: Vec<String> = (1..=40).map(|row| format!("192.0.2.{row}")).collect();
    let us = addresses.join(", ");
    let names = "names: [www.example.com], regions";
    let mut world = world(&format!("  web: {{ {names}: {{ us: [{us}], eu: 192.0.2.99 }} }}"));
    let _said = world.join();
    let (control, other) = (&mut world.control, NodeId::from_index(1).unwrap());
    let since = control.clock.now();
    let heard = |subject: &String| {
        let said = Said {
            subject: subject.parse().unwrap(),
            word: Some(Word::Down),
            ended: false,
            reason: "power".to_owned(),
            owner: "alice".to_owned(),
            since,
            until: None,
            ramp: None,
            stamp: Stamp::next(since, "ns2", [], 0),
            beside: Vec::new(),
        };
        Heard::Entry(other, format!("w/{subject}"), Some(said.spoken()))
    };
    // They come in small parts, and somebody asks for something else meanwhile.
    let mut parts =
        addresses.chunks(5).map(|part| Request::Heard(part.iter().map(&heard).collect()));
    let first = parts.next().unwrap();
    parts.for_each(|part| world._handle.requests.try_send(part).unwrap());
    let (reply, view) = tokio::sync::oneshot::channel();
    world._handle.requests.try_send(Request::View(reply)).unwrap();
    let before = control.published.load().generation();
    control.serve_next(first);
    assert_eq!(control.published.load().generation(), before + 1);
    assert_eq!((control.said.len(), control.events.len()), (40, 40));
    let View { snapshot, overrides, .. } = view.await.unwrap();
    assert_eq!(snapshot.generation(), before + 1);
    let (service, us) = (ServiceId::from_index(0).unwrap(), RegionId::from_index(0).unwrap());
    let word = |of: &String| overrides.word(service, us, Some(of.parse().unwrap()), 0);
    assert!(addresses.iter().all(|of| word(of) == Some(Word::Down)));
}

#[tokio::test]
async fn what_only_another_node_answers_with_is_known_until_it_is_forgotten() {
    const WEB: &str = "  web: { names: [www.example.com], regions: { us: 192.0.2.1 } }\n";
    const API: &str = "  api: { names: [api.example.com], regions: { us: 192.0.2.1 } }\n";
    let mut world = world(WEB);
    let _said = world.join();
    let other = NodeId::from_index(1).unwrap();
    let control = &mut world.control;
    control.see_peers(Hearing { fresh: [other].into(), until: None, lists: Lists::default() });
    let hears = |control: &mut Control, key: &str, value: &str| {
        control.hear(vec![Heard::Entry(other, key.to_owned(), Some(value.to_owned()))]);
        control.turn();
    };
    let answers = |control: &mut Control, service: &str, regions: &str| {
        let told = format!(r#"{{"hash":7,"shares":{{{regions}}},"others":[],"ttl":600}}"#);
        hears(control, &format!("s/{service}"), &told);
    };
    let doubts = |control: &Control| -> Vec<(String, Option<String>)> {
        let absent = control.absent().into_iter().filter(|(_, absent)| absent.elsewhere);
        absent.map(|((of, at), absent)| (format!("{of}/{at}"), absent.doubt)).collect()
    };
    let doubt = |what: &str, why: &str| (what.to_owned(), Some(why.to_owned()));
    answers(control, "api", r#""us":0.5,"eu":0.5"#);
    answers(control, "web", r#""us":0.5,"eu":0.5"#);
    let word = NodeWord::default();
    hears(control, "n", &serde_json::to_string(&word).unwrap());
    let (still, differs) = ("ns2 still answers api", "ns2 answers web differently");
    let all = [doubt("api/eu", still), doubt("api/us", still), doubt("web/eu", differs)];
    assert_eq!(doubts(control), all);

    let leaves = control.clock.now();
    answers(control, "api", r#""us":1.0"#);
    let gone = ("api/eu".to_owned(), None);
    assert_eq!(doubts(control)[..2], [gone, doubt("api/us", still)]);
    let absent = &control.absent()[&("api".to_owned(), "eu".to_owned())];
    assert!(absent.ttl == Ttl::from_secs(600) && absent.doubted >= leaves, "{absent:?}");
    // This node has the service too.
    world.reload(&[WEB, API].concat());
    world.control.turn();
    let differs = [doubt("api/eu", "ns2 answers api differently"), doubt("web/eu", differs)];
    assert_eq!(doubts(&world.control), differs);
}

#[tokio::test]
async fn what_was_seen_of_a_target_is_taken_back_when_it_goes() {
    let services = |regions: &str| {
        format!("  web: {{ names: [www.example.com], check: web, regions: {{ {regions} }} }}")
    };
    let mut world = world(&services("us: 192.0.2.1, eu: 192.0.2.2"));
    let mut said = world.join();
    let us = &world.control.loaded.config.targets[0];
    let key = format!("o/{:016x}", crate::rng::fnv1a(us.key().as_bytes()));
    all(&mut said);
    world.reload(&services("eu: 192.0.2.2"));
    let said = all(&mut said).into_iter().filter(|(key, _)| key.starts_with("o/"));
    assert_eq!(said.collect::<Vec<_>>(), [(key, None)]);
}

#[tokio::test]
async fn what_it_answers_is_told_when_nobody_else_answers_in_its_place() {
    const WEB: &str = "  web: { names: [www.example.com], regions: { us: 192.0.2.1 } }";
    let told = |said: &mut UnboundedReceiver<Saying>| -> Vec<String> {
        let keys = all(said).into_iter().map(|(key, _)| key);
        keys.filter(|key| key == "n" || key.starts_with("s/")).collect()
    };
    // It takes the place of another process, which answers until it is ready, and for a while.
    let mut world = world(WEB);
    world.control.listen_later();
    let mut said = world.join();
    world.control.turn();
    assert_eq!((*world.control.ready.borrow(), told(&mut said)), (false, vec![]));
    let now = world.control.clock.now();
    world.control.begins.speak(now);
    world.control.turn();
    assert_eq!((*world.control.ready.borrow(), told(&mut said)), (true, vec![]));
    assert!(world.control.answering >= now + GRACE);
    world.control.answering = now;
    world.control.turn();
    assert_eq!(told(&mut said), ["s/web", "n"]);
    world.control.turn();
    assert_eq!(told(&mut said), Vec::<String>::new());
}

#[tokio::test]
async fn how_much_a_region_had_that_a_reload_takes_away_is_told_by_those_who_asked() {
    let services = |regions: &str| {
        let names = "names: [www.example.com], steer: weighted, regions";
        format!("  web: {{ {names}: {{ {regions} }} }}")
    };
    let us = "us: { endpoints: 192.0.2.1, weight: 9 }";
    let eu = "eu: { endpoints: 192.0.2.2, weight: 1 }";
    let mut world = world(&services(&format!("{us}, {eu}")));
    let Control { clock, published, sample, .. } = &world.control;
    let snapshot = published.load_full();
    sample.turn_to(snapshot.plan());
    let selector = snapshot.service(ServiceId::from_index(0).unwrap());
    let selector = selector.unwrap().selector(crate::steer::Family::V4).unwrap();
    let clients =
        (0..200_u32).map(|row| std::net::IpAddr::from((8_000_000 + row * 256).to_be_bytes()));
    let at_eu =
        |of: &std::net::IpAddr| selector.select(*of).unwrap().0.first == RegionId::from_index(1);
    let at_eu: Vec<_> = clients.filter(at_eu).collect();
    for row in 0..200 {
        let now = clock.now() + Duration::from_secs(row as u64);
        let asked = || (ServiceId::from_index(0).unwrap(), at_eu[row % at_eu.len()]);
        sample.offer(now, snapshot.plan(), asked);
    }
    world.reload(&services(us));
    let gone = &world.control.absent[&("web".to_owned(), "eu".to_owned())];
    assert!(gone.was > 0.99, "{gone:?}");
}

#[tokio::test]
async fn what_is_known_is_as_much_as_there_are_targets() {
    let services = |row: u32| {
        let us = std::net::Ipv4Addr::from(0x7f00_0000 + row);
        let names = "names: [www.example.com], check: web, regions";
        format!("  web: {{ {names}: {{ us: {us}, eu: 192.0.2.2 }} }}")
    };
    let mut world = world(&services(1));
    let id = |world: &World, row: usize| world.control.loaded.config.targets[row].id;
    let eu = id(&world, 1);
    let mut before = id(&world, 0);
    for row in 2..200 {
        world.reload(&services(row));
        assert_eq!((world.control.monitor.table().len(), id(&world, 1)), (2, eu));
        // A report of the one before is for nobody.
        assert!(id(&world, 0) > before);
        before = id(&world, 0);
    }
}

#[tokio::test]
async fn a_region_that_is_configured_no_more_is_forgotten_when_nobody_goes_there() {
    let services = |regions: &str| {
        let names = "names: [www.example.com], steer: failover, ttl: 3h, regions";
        format!("  web: {{ {names}: {{ {regions} }} }}")
    };
    let mut world = world(&services("us: 192.0.2.1, eu: 192.0.2.2"));
    world.reload(&services("us: 192.0.2.1"));
    world.reload(&services("eu: 192.0.2.2"));
    world.reload(&services("eu: 192.0.2.2, us: 192.0.2.1"));
    let control = &mut world.control;
    let names = |control: &Control| -> Vec<String> {
        control.absent.keys().map(|(_, region)| region.clone()).collect()
    };
    // It is configured, and others come first.
    assert_eq!(names(control), ["us"]);
    let name = ("web".to_owned(), "nz".to_owned());
    let gone = control.absent.values().next().unwrap().clone();
    control.absent.insert(name.clone(), gone);
    for (ago, is_known) in [(10_790, true), (10_810, false)] {
        let since = control.clock.now() - Duration::from_secs(ago);
        for absent in control.absent.values_mut() {
            (absent.since, absent.doubted) = (since, since);
        }
        control.forget_absent();
        assert_eq!(control.absent.contains_key(&name), is_known, "{ago}");
    }
    assert_eq!(names(control), ["us"]);
}

#[tokio::test]
async fn what_was_said_while_the_clock_was_ahead_is_in_force_after_the_start() {
    const REGIONS: &str = "regions: { us: 192.0.2.1, eu: 192.0.2.2 }";
    let web = format!("  web: {{ names: [www.example.com], {REGIONS} }}");
    let minutes = |number: u64| Duration::from_secs(number * 60);
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Some(folder.path())).unwrap();
    let since = Clock::start().now() + minutes(60);
    let said = Said {
        subject: "eu".parse().unwrap(),
        word: Some(Word::Drain),
        ended: false,
        reason: "test".to_owned(),
        owner: "alice".to_owned(),
        since,
        until: Some(since + minutes(90)),
        ramp: Some(Ramp { percent: 10, every: minutes(1) }),
        stamp: Stamp { at: 1, ..Stamp::default() },
        beside: Vec::new(),
    };
    // How many minutes it has stood, and how much of the clients it has reached.
    for (stood, reached) in [(30, 100), (4, 50), (0, 10)] {
        let before = open().0;
        before.alive(since + minutes(stood));
        before.say(said.clone()).await.unwrap();
        let Control { said, in_force, clock, .. } = world_after(&web, open()).control;
        let (service, eu) = (ServiceId::from_index(0), RegionId::from_index(1).unwrap());
        let word = |slot| in_force.word(service.unwrap(), eu, None, slot);
        let reach = SLOTS * reached / 100;
        assert_eq!(word(reach - 1), Some(Word::Drain), "{stood}");
        assert_eq!(word(reach), None, "{stood}");
        let left = said[0].until.unwrap().since(clock.now());
        assert!(left <= minutes(90 - stood) && left > minutes(89 - stood), "{left:?}");
    }
}

/// A service of which one region writes, by operators' word.
fn written(name: &str) -> String {
    format!(
        "  {name}: {{ names: [www.example.com], steer: single-writer, lease: manual, \
         regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }} }}"
    )
}

#[tokio::test]
async fn what_another_process_kept_for_this_node_counts_when_this_one_speaks() {
    let mut world = world(&written("web"));
    let named = |epoch: u64, region: &str| {
        let word = serde_json::json!({
            "region": region, "epoch": epoch, "ttl": 10, "wait": 14_100, "reason": "test",
            "owner": "alice", "from": 0,
        });
        [("web".to_owned(), serde_json::from_value(word).unwrap())].into()
    };
    let drain = r#"{"word":"drain","reason":"test","owner":"alice","since":0,"at":1,"saw":0}"#;
    world.control.recall_words(vec![Said::recalled("eu", drain).unwrap()]);
    assert!(world.control.said.iter().any(|said| said.subject.to_string() == "eu"));
    // What it knows by now is newer.
    for (epoch, region) in [(2, "us"), (1, "eu")] {
        world.control.recall_writers(named(epoch, region));
        world.control.turn();
        let writer = world.control.writers()[0].writer.clone();
        assert_eq!(writer, Some(("us".to_owned(), 2)));
    }
}

#[tokio::test]
async fn a_service_that_one_region_writes_does_not_change_its_name() {
    let mut world = world(&written("web"));
    world.loader.turn_to(source(&written("shop")));
    let loaded = world.loader.load().map_err(|refused| refused.problems).unwrap();
    let told = world.control.apply(loaded).unwrap_err().problems;
    assert!(told[0].to_string().contains("services.shop: it has names of web"), "{told:?}");
}
