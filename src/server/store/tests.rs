//! What is kept outlives whoever kept it.

use super::super::clock::Clock;
use super::*;
use crate::cluster::Stamp;

#[tokio::test]
async fn each_process_speaks_in_a_higher_incarnation_whatever_its_clock_says() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Some(folder.path())).unwrap().0;
    let (one, other) = (open(), open());
    assert_eq!(one.incarnation(100).await, Ok(100));
    // The clock of the one that takes its place is behind, and so it stays.
    assert_eq!(other.incarnation(90).await, Ok(101));
    assert_eq!(one.incarnation(95).await, Ok(102));
    assert_eq!(open().incarnation(500).await, Ok(500));
}

fn of(jobs: Sender<Job>) -> Store {
    Store { jobs, fault: Fault::none(), waiting: Waiting::default() }
}

/// Where `so` is true once, within the time for which a database that another one has is waited.
fn see(so: impl Fn() -> bool) {
    let clock = Clock::start();
    let late = clock.now() + Duration::from_secs(60);
    while !so() {
        assert!(clock.now() < late, "never seen");
        thread::yield_now();
    }
}

#[test]
fn what_waits_for_the_disk_is_seen_to_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(Some(folder.path())).unwrap();
    assert_eq!(store.waiting(), Duration::ZERO);
    let other = Connection::open(folder.path().join("meridian.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.alive(Instant::default());
    see(|| store.waiting() > Duration::ZERO);
    assert_eq!(store.fault(), None, "it may come in time");
    other.execute_batch("COMMIT").unwrap();
    see(|| store.waiting() == Duration::ZERO);
}

fn record(what: &str) -> Record {
    Record {
        at: Instant::default(),
        kind: Kind::State,
        subject: "a region".to_owned(),
        what: what.to_owned(),
        why: String::new(),
        who: String::new(),
        took: None,
        generation: 1,
    }
}

fn said() -> Said {
    let text = r#"{"word":"drain","reason":"test","owner":"alice","since":0,"at":1,"saw":0}"#;
    Said::recalled("eu", text).unwrap()
}

#[test]
fn a_stamp_that_makes_no_sense_costs_no_word_and_leaves_room_for_the_next() {
    let database = Database::of(Connection::open_in_memory()).unwrap();
    for (at, saw) in [(u64::MAX, 0), (u64::MAX, u64::MAX), (1 << 40, u64::MAX), (0, 0)] {
        let saw = [("ns2".to_owned(), saw)].into();
        let kept = Said { stamp: Stamp { at, by: String::new(), saw }, ..said() };
        assert_eq!(Said::told("eu", &kept.spoken()), None, "no other node is believed that");
        database.say(&kept).unwrap();
        assert_eq!(database.recall().unwrap().said, [said()]);
    }
    let stamp = said().stamp;
    assert!(Stamp::next(Instant::default(), "ns1", [&stamp], stamp.at).makes_sense());
    assert!(Said::told("eu", &said().spoken()).is_some());
}

/// Who is to write, and from when on it is answered.
fn named(epoch: u64, region: &str, from: Option<u64>) -> Named {
    let word = serde_json::json!({
        "region": region, "epoch": epoch, "ttl": 10, "wait": 14_100, "reason": "test",
        "owner": "alice", "from": from,
    });
    serde_json::from_value(word).unwrap()
}

#[test]
fn how_far_a_writer_has_come_is_kept_but_not_over_the_next_one() {
    let database = Database::of(Connection::open_in_memory()).unwrap();
    let kept = || database.recall().unwrap().named.remove("web").unwrap();
    let now = Instant::from_nanos(1 << 40);
    for named in [named(1, "eu", None), named(1, "eu", Some(7)), named(2, "us", None)] {
        database.name("web", &named).unwrap();
        assert_eq!(kept(), named);
    }
    // The wait of the first ends before the second is followed.
    database.name("web", &named(1, "eu", Some(0))).unwrap();
    assert_eq!(kept(), named(2, "us", None));
    // Of an epoch in which an earlier version believed others there is a next one.
    database.name("web", &named(u64::MAX, "eu", None)).unwrap();
    let believed = kept().recalled(now).end().0;
    let next = named(believed + 1, "us", None);
    database.name("web", &next).unwrap();
    assert_eq!(kept(), next);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Some(folder.path())).unwrap();
    let (store, _) = open();
    store.incarnation(100).await.unwrap();
    store.say(said()).await.unwrap();
    store.name("web".to_owned(), named(1, "eu", None)).await.unwrap();
    // As a newer version may have written them.
    let newer = |database: &Database| {
        database.0.execute_batch(
            "INSERT INTO overrides SELECT 'us', replace(said, 'drain', 'halve') FROM overrides;
             INSERT INTO writers VALUES ('api', '{\"regions\": []}');
             INSERT INTO given VALUES ('api', -1, NULL);
             INSERT INTO pushed VALUES ('own', '192.0.2.0/24', 1, 1);",
        )
    };
    store.ask(newer).await.unwrap();
    for _ in 0..2 {
        let (_, recalled) = open();
        assert_eq!((recalled.incarnation, recalled.lost), (100, None));
        assert_eq!(recalled.said, [said()]);
        assert_eq!(recalled.named, [("web".to_owned(), named(1, "eu", None))].into());
        let rows = ["overrides: us", "writers: api", "given: api", "pushed: own"];
        assert_eq!(recalled.unread, rows, "they stay");
    }
    store.name("api".to_owned(), named(1, "eu", None)).await.unwrap();
    assert_eq!(open().1.named.len(), 2, "what cannot be read is replaced by what is said next");
}

#[test]
fn what_was_put_aside_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for (aside, text) in [("meridian.db.broken", "one"), ("meridian.db.broken.2", "other")] {
        let text = text.repeat(1_000);
        std::fs::write(file("meridian.db"), &text).unwrap();
        let lost = Database::in_folder(folder.path()).unwrap().1.unwrap();
        assert!(lost.ends_with(aside), "{lost}");
        assert_eq!(std::fs::read_to_string(file(aside)).unwrap(), text);
    }
    assert!(std::fs::read_to_string(file("meridian.db.broken")).unwrap().starts_with("one"));
}

#[test]
fn a_file_that_was_emptied_is_told_and_a_new_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let lost = || Database::in_folder(folder.path()).unwrap().1;
    assert_eq!(lost(), None);
    assert_eq!(lost(), None);
    std::fs::write(folder.path().join("meridian.db"), "").unwrap();
    assert!(lost().unwrap().ends_with("meridian.db was empty"));
    assert_eq!(lost(), None, "it was told, and the file is ours again");
}

#[test]
fn a_word_waits_for_a_few_syncs_however_much_has_happened() {
    let (jobs, taken) = channel();
    let store = of(jobs);
    for _ in 0..5_000 {
        store.tell(record("down"));
    }
    let mut kept = Box::pin(store.say(said()));
    drop(store);
    let mut database = Database::of(Connection::open_in_memory()).unwrap();
    let mut transactions = 0;
    while database.take(None, &taken, &Fault::none()) {
        transactions += 1;
    }
    assert!(transactions < 20, "{transactions}");
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert_eq!(kept.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(())));
    assert_eq!(database.recall().unwrap().said, [said()]);
    let all = Page { before: None, kind: None, limit: 10_000 };
    assert_eq!(database.read(&all).unwrap().len(), 5_000);
}

#[tokio::test]
async fn what_is_queued_at_the_end_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(Some(folder.path())).unwrap();
    let moves = |out: usize| Moves { out: vec![format!("web/eu{out} A")], ..Moves::default() };
    for out in 0..5_000 {
        store.tell(record("down"));
        store.moves(moves(out));
    }
    store.settled().await;
    assert_eq!(Store::open(Some(folder.path())).unwrap().1.moves, moves(4_999));
}

#[tokio::test]
async fn what_cannot_be_written_takes_nothing_with_it() {
    let (store, _) = Store::open(None).unwrap();
    // All in one transaction, most probably.
    store.tell(record("before"));
    let wrong = store.ask(|database| {
        database.tell(&record("undone"))?;
        database.0.execute_batch("INSERT INTO nowhere VALUES (1)")
    });
    let kept = store.say(said());
    assert!(wrong.await.unwrap_err().contains("no such table"));
    assert_eq!(kept.await, Ok(()));
    let all = Page { before: None, kind: None, limit: 10 };
    let told = store.read(all).await.unwrap();
    assert_eq!(told.iter().map(|(_, of)| of.what.as_str()).collect::<Vec<_>>(), ["before"]);
}

#[test]
fn what_is_undone_with_something_else_is_told_so() {
    let (jobs, taken) = channel();
    let store = of(jobs);
    let told: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let tell = |store: &Store, what: fn(&Database) -> rusqlite::Result<()>| {
        let told = told.clone();
        store.send(what, move |kept| told.lock().unwrap().push(format!("{kept:?}")));
    };
    tell(&store, |database| database.say(&said()));
    // SQLite does so by itself, with some kinds of trouble.
    tell(&store, |database| database.0.execute_batch("ROLLBACK; INSERT INTO nowhere VALUES (1)"));
    tell(&store, |database| database.say(&said()));
    drop(store);
    let mut database = Database::of(Connection::open_in_memory()).unwrap();
    assert!(database.take(None, &taken, &Fault::none()));
    let told = told.lock().unwrap();
    assert!(told[0].contains(UNDONE) && told[2].contains(UNDONE), "{told:?}");
    assert!(told[1].contains("no such table"), "{told:?}");
    assert_eq!(database.recall().unwrap().said, []);
}

#[tokio::test]
async fn what_cannot_be_kept_is_a_fault_with_its_place_until_something_is() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(Some(folder.path())).unwrap();
    assert_eq!(store.say(said()).await, Ok(()));
    assert_eq!(store.fault(), None);
    // As if the disk were full: not a page more than there are.
    let limit = |pages: i64| move |of: &Database| of.0.pragma_update(None, "max_page_count", pages);
    store.ask(limit(1)).await.unwrap();
    let large = "x".repeat(100_000);
    let refused = store.ask({
        let large = record(&large);
        move |database| database.tell(&large)
    });
    let why = format!("{}: database or disk is full", folder.path().display());
    assert_eq!(refused.await, Err(why.clone()));
    let all = Page { before: None, kind: None, limit: 10 };
    assert_eq!(store.read(all).await, Ok(vec![]));
    assert_eq!(store.fault(), Some(why), "that it can be read mends nothing");
    store.ask(limit(1_000_000)).await.unwrap();
    assert_eq!(store.fault(), None);
}

#[tokio::test]
async fn of_what_was_told_of_an_address_the_latest_is_kept_until_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Some(folder.path())).unwrap();
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    let told = |check: &str, last: u8, is_up: bool, until| -> Pushing {
        ((check.to_owned(), [192, 0, 2, last].into()), (is_up, at(until)))
    };
    let (store, recalled) = open();
    assert_eq!(recalled.pushed, []);
    for of in [told("a", 1, true, 20), told("a", 2, true, 9), told("b", 1, true, 30)] {
        store.pushed(at(5), of);
    }
    store.settled().await;
    store.pushed(at(10), told("a", 1, false, 40));
    store.settled().await;
    let mut kept = open().1.pushed;
    kept.sort_by_key(|(_, (_, until))| *until);
    assert_eq!(kept, [told("b", 1, true, 30), told("a", 1, false, 40)]);
}

#[tokio::test]
async fn what_is_removed_while_it_is_open_is_written_anew() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("state");
    let store = Store::open(Some(&folder)).unwrap().0;
    let of = |subject: &str| Said { subject: subject.parse().unwrap(), ..said() };
    let recalled = || Store::open(Some(&folder)).unwrap().1.said;
    store.say(of("eu")).await.unwrap();
    let file = folder.join("meridian.db");
    // The file alone, and all that is there.
    std::fs::remove_file(&file).unwrap();
    store.say(of("us")).await.unwrap();
    assert_eq!(recalled(), [of("eu"), of("us")]);
    std::fs::remove_dir_all(&folder).unwrap();
    store.say(of("asia")).await.unwrap();
    assert_eq!(recalled(), [of("eu"), of("us"), of("asia")]);
    // Somebody's backup is not written over.
    std::fs::rename(&file, home.path().join("before")).unwrap();
    std::fs::copy(home.path().join("before"), &file).unwrap();
    let refused = store.say(of("africa")).await.unwrap_err();
    assert!(refused.contains("is not the file that was opened; start"), "{refused}");
    assert_eq!(store.fault(), Some(refused));
}
