//! Operators' words: who gives up meanwhile, and what others say meanwhile.

use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::sync::mpsc::unbounded_channel;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;
use crate::config::Cluster;
use crate::health::Electorate;
use crate::ids::NodeId;
use crate::rng::Seed;
use crate::server::control::{Control, Peers};
use crate::server::load::{Loader, Source};
use crate::server::prober::Prober;
use crate::server::store::{Kept, Page, Recalled};
use crate::steer::{Family, TtlReason, Word};

const CONFIG: &str = "regions: { us: {}, eu: {} }
checks: { own: { pushed: true } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], check: own, regions: { us: 192.0.2.1, eu: 192.0.2.2 } }
  orders:
    names: [orders.example.com]
    steer: single-writer
    lease: manual
    regions: { us: 192.0.2.1, eu: 192.0.2.2 }
";

/// How long anything may take: far longer than it does.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way to a control task that runs, with its state in `folder`; alone, or with another node.
fn deciding(folder: &Path, is_alone: bool) -> Handle {
    let (control, handle) = decider(folder, is_alone);
    tokio::spawn(control.run());
    handle
}

/// The same, and the task, to be run.
fn decider(folder: &Path, is_alone: bool) -> (Control, Handle) {
    let clock = Clock::start();
    let loaded = Loader::new(Source::Text("test".to_owned(), CONFIG.to_owned())).load();
    let (reports, reported) = unbounded_channel();
    let probing = (Prober::new(clock, 1, reports), reported);
    let (hints, hinted) = unbounded_channel();
    let holding = (Prober::held(1, hints), hinted);
    let store = Store::open(Some(folder)).unwrap();
    let loaded = loaded.map_err(|refused| refused.problems).unwrap();
    let (mut control, handle) =
        Control::new(clock, Seed::new(1), loaded, probing, holding, Arc::default(), store);
    if !is_alone {
        let peers = Peers::new(unbounded_channel().0, Cluster::two());
        control.join(Electorate::default(), peers);
    }
    (control, handle)
}

#[tokio::test]
async fn a_server_where_nobody_decides_any_more_knows() {
    let folder = tempfile::tempdir().unwrap();
    let (control, handle) = decider(folder.path(), true);
    let task = tokio::spawn(control.run());
    timeout(PATIENCE, handle.ready()).await.unwrap();
    assert!(handle.is_ready());
    task.abort();
    assert!(task.await.is_err());
    assert!(!handle.is_ready());
    timeout(PATIENCE, handle.undecided()).await.unwrap();
}

#[tokio::test]
async fn what_others_tell_waits_until_it_is_known_which_process_serves() {
    let folder = tempfile::tempdir().unwrap();
    let handle = deciding(folder.path(), true);
    let address = IpAddr::from([192, 0, 2, 1]);
    let told = || handle.pushed.told(Clock::start().now(), ("own", address));
    let turn = handle.desk.turn().await.unwrap();
    let requests = Signal { requests: Some(1.0), epoch: None };
    let mut telling = pin!(handle.push(("own".to_owned(), address), (true, requests), PATIENCE));
    assert!(goes_on(telling.as_mut(), 10).await.is_none());
    assert_eq!(told(), None);
    drop(turn);
    telling.await.unwrap();
    assert_eq!(told(), Some(true));
    let known = handle.arrivals.clone();
    assert!(!known.at(Clock::start().now()).is_empty());
    known.keep(|_| false);
    assert!(known.at(Clock::start().now()).is_empty());
    for wrong in [("other", address), ("own", IpAddr::from([192, 0, 2, 9]))] {
        let (check, address) = wrong;
        let signal = (true, Signal::default());
        let told = handle.push((check.to_owned(), address), signal, PATIENCE).await;
        assert!(matches!(told, Err(Unheard::Senseless(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn the_last_states_of_what_is_configured_no_more_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let handle = deciding(folder.path(), true);
    let targets = handle.view().await.unwrap().loaded.config.targets.clone();
    let kept = |target| Kept { target, state: State::Up, since: Instant::default() };
    let configured: Vec<Kept> = targets.iter().map(|of| kept(of.key())).collect();
    assert!(!configured.is_empty());
    handle.store.keep([&configured[..], &[kept("192.0.2.9 gone".to_owned())]].concat());
    let before = on_disk(&handle, folder.path()).await.states;
    assert_eq!(before.len(), configured.len() + 1);
    // The next process forgets them before it is asked anything.
    let next = deciding(folder.path(), true);
    next.view().await.unwrap();
    assert_eq!(on_disk(&next, folder.path()).await.states, configured);
}

fn said(word: Word, reason: &str) -> Said {
    Said {
        subject: "us".parse().unwrap(),
        word: Some(word),
        ended: false,
        reason: reason.to_owned(),
        owner: "alice".to_owned(),
        since: Instant::default(),
        until: None,
        ramp: None,
        stamp: Stamp::default(),
        beside: Vec::new(),
    }
}

/// Has `doing` go on so many times, and all others meanwhile; is it done?
async fn goes_on<T>(mut doing: Pin<&mut impl Future<Output = T>>, times: usize) -> Option<T> {
    for _ in 0..times {
        let polled = poll_fn(|context| Poll::Ready(doing.as_mut().poll(context))).await;
        if let Poll::Ready(done) = polled {
            return Some(done);
        }
        for _ in 0..10 {
            yield_now().await;
        }
    }
    None
}

/// What a process that starts now finds on disk.
async fn on_disk(handle: &Handle, folder: &Path) -> Recalled {
    // What it was told to keep before this, it has kept by then.
    handle.store.read(Page { before: None, kind: None, limit: 1 }).await.unwrap();
    Store::open(Some(folder)).unwrap().1
}

async fn wait_until(what: &str, handle: &Handle, is_so: impl Fn(&View) -> bool) {
    let waiting = async {
        while !is_so(&handle.view().await.unwrap()) {
            yield_now().await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {what}");
}

#[tokio::test]
async fn a_word_whose_speaker_gave_up_is_followed_if_it_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let handle = deciding(folder.path(), true);
    let mut kept = 0;
    for times in 1..=3 {
        let reason = format!("given up at {times}");
        {
            let saying = pin!(handle.say(said(Word::Drain, &reason), "alice".to_owned(), true));
            goes_on(saying, times).await;
        }
        let is_it = |of: &Said| of.reason == reason;
        if on_disk(&handle, folder.path()).await.said.iter().any(is_it) {
            kept += 1;
            wait_until(&reason, &handle, |view| view.said.iter().any(is_it)).await;
        }
    }
    assert!(kept > 0);
}

#[tokio::test]
async fn a_writer_whose_speaker_gave_up_is_followed_if_it_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let handle = deciding(folder.path(), true);
    let mut kept = 0;
    for times in 1..=3 {
        let naming = Naming {
            service: "orders".to_owned(),
            region: ["us", "eu"][times % 2].to_owned(),
            fenced: true,
            reason: format!("given up at {times}"),
            owner: "alice".to_owned(),
        };
        goes_on(pin!(handle.name(naming.clone(), "alice".to_owned())), times).await;
        let found = on_disk(&handle, folder.path()).await.named;
        if found.get("orders").is_some_and(|of| of.reason == naming.reason) {
            kept += 1;
            wait_until(&naming.reason, &handle, |view| {
                view.writers.iter().any(|of| of.wanted.as_ref() == Some(&naming.region))
            })
            .await;
        }
    }
    assert!(kept > 0);
}

#[tokio::test]
async fn of_a_word_said_here_and_one_that_comes_while_it_is_kept_the_safer_counts() {
    for (here, there) in [(Word::Drain, Word::Down), (Word::Down, Word::Drain)] {
        let folder = tempfile::tempdir().unwrap();
        let handle = deciding(folder.path(), false);
        let mut saying = pin!(handle.say(said(here, "here"), "alice".to_owned(), true));
        // It is weighed, and about to be kept.
        assert!(goes_on(saying.as_mut(), 1).await.is_none());
        let stamp = Stamp { at: 1 << 62, by: "ns2".to_owned(), ..Stamp::default() };
        let theirs = Said { owner: "bob".to_owned(), stamp, ..said(there, "there") };
        let other = NodeId::from_index(1).unwrap();
        let heard = Heard::Entry(other, "w/us".to_owned(), Some(theirs.spoken()));
        handle.requests.send(Request::Heard(vec![heard])).await.unwrap();
        let done = saying.await.map(drop);
        match done {
            Ok(()) => assert_eq!(here, Word::Down),
            Err(Unheard::Overruled(why)) => {
                assert_eq!(here, Word::Drain);
                assert!(why.contains("bob said down of us at another node"), "{why}");
            }
            Err(other) => panic!("{other:?}"),
        }
        let counts = |said: &[Said]| said.iter().map(|of| of.word).collect::<Vec<_>>();
        let view = handle.view().await.unwrap();
        assert_eq!(counts(&view.said), [Some(Word::Down)], "here {here}");
        assert_eq!(counts(&on_disk(&handle, folder.path()).await.said), [Some(Word::Down)]);
    }
}

#[tokio::test]
async fn what_is_told_of_the_answers_is_what_they_were_compiled_from_from_the_first_moment_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut control, handle) = decider(folder.path(), true);
    let electorate = Electorate { nodes: 2, ..Electorate::default() };
    control.join(electorate, Peers::new(unbounded_channel().0, Cluster::two()));
    tokio::spawn(control.run());
    let is_answered_so = |view: &View| {
        let service = view.snapshot.service(view.snapshot.plan().service_named("web").unwrap());
        let mut answers = service.unwrap().selector(Family::V4).unwrap().answers();
        answers.all(|(ready, _)| ready.choice.ttl_reason == TtlReason::Isolated)
    };
    wait_until("it hears nobody", &handle, is_answered_so).await;
    let view = handle.view().await.unwrap();
    assert!(!view.condition.isolated, "nobody is told in the first moment");
    assert!(view.facts().is_isolated);
}
