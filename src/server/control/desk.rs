//! What operators say, as far as it changes what is decided.

use tokio::sync::oneshot;
use tracing::warn;

use crate::cluster::Stamp;
use crate::config::Subject;
use crate::ids::ServiceId;
use crate::server::handle::Unheard;
use crate::server::history::{Kind, Level};
use crate::server::overrides::{self, Impact, Said};
use crate::steer::{Facts, Scope, Word};
use crate::time::Instant;

use super::Control;

impl Control {
    /// Decides by these words, which are put: by all at once, as each decision is one on all
    /// services.
    pub(super) fn follow_words(&mut self, words: Vec<(Said, String)>) {
        if words.is_empty() {
            return;
        }
        self.resolve();
        self.heed(Vec::new());
        for (said, who) in words {
            let told = (said.subject.to_string(), said.verb());
            let level = said.word.map_or(Level::Info, |_| Level::Warn);
            self.tell(level, Kind::Override, told, (said.reason, who), None);
        }
    }

    /// An operator has said something at another node: that, and who said it, if it counts.
    pub(super) fn hear_word(&mut self, name: &str, theirs: Said) -> Option<(Said, String)> {
        let now = self.clock.now();
        self.latest = self.latest.max(theirs.latest());
        let theirs = theirs.heard(now);
        if theirs.is_old_news(now) {
            return None;
        }
        let ours = self.ended_by_now(&theirs.subject);
        let standing = Said::joined(ours.iter().chain([&theirs]), now);
        let standing = standing.filter(|of| ours.as_ref() != Some(of))?;
        let who = match standing.is(&theirs) {
            true => format!("{}, heard from {name}", theirs.owner),
            false => standing.owner.clone(),
        };
        if let Some(ours) = &ours {
            self.tell_of_conflict(&theirs, ours, &standing, (false, &who));
        }
        self.keep(standing.clone());
        self.put(standing.clone());
        let is_news = !ours.is_some_and(|ours| ours.is(&standing));
        is_news.then_some((standing, who))
    }

    /// What is said of a subject, once what is over has ended.
    fn ended_by_now(&mut self, subject: &Subject) -> Option<Said> {
        let now = self.clock.now();
        if self.said_of(subject).is_some_and(|said| said.all().any(|of| of.is_over(now))) {
            self.expire();
        }
        self.said_of(subject).cloned()
    }

    /// Follows what another process, which spoke for this node, has kept since this one read it.
    pub(super) fn recall_words(&mut self, kept: Vec<Said>) {
        let words: Vec<_> = kept
            .into_iter()
            .filter_map(|said| self.hear_word("the process before", said))
            .collect();
        self.follow_words(words);
    }

    /// Follows an operator's word, said here, and tells whether it is followed. Another node's word
    /// may have come while this one was written to disk, and been written after it.
    pub(super) fn say_here(
        &mut self,
        said: Said,
        who: String,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let ours = self.ended_by_now(&said.subject);
        let both = [&said].into_iter().chain(&ours);
        let standing = Said::joined(both, self.clock.now()).unwrap_or_else(|| said.clone());
        // Else what came meanwhile, or the end of what was here, may have been written after it.
        let is_newest = match &ours {
            Some(ours) => standing == said && ours.all().all(|of| of.word.is_some()),
            None => said.stamp.saw.is_empty(),
        };
        if let Some(ours) = &ours {
            self.tell_of_conflict(&said, ours, &standing, (true, &who));
        }
        let (counts, done) = match ours {
            Some(ours) if !standing.is(&said) => (ours.clone(), Err(ours.stands())),
            _ => (standing, Ok(())),
        };
        if done.is_ok() {
            self.put(counts.clone());
            self.follow_words(vec![(counts.clone(), who)]);
        }
        if is_newest {
            let _gone = reply.send(done);
            return;
        }
        let kept = self.store.say(counts);
        tokio::spawn(async move {
            if let Err(error) = kept.await {
                warn!(%error, "which of two words counts could not be kept");
            }
            let _gone = reply.send(done);
        });
    }

    /// Tells of a new word and of one that was followed `before`, if neither replaces the other.
    fn tell_of_conflict(
        &mut self,
        new: &Said,
        before: &Said,
        standing: &Said,
        (is_here, who): (bool, &str),
    ) {
        let stands = |said: &Said| !said.ended && standing.all().any(|of| of.is(said));
        let other = before.all().find(|of| stands(of)).filter(|_| stands(new));
        let Some(other) = other.filter(|_| !before.all().any(|of| of.is(new))) else { return };
        let [here, elsewhere] = if is_here { [new, other] } else { [other, new] }.map(Said::verb);
        let counts = standing.verb();
        let why = format!(
            "said at once without knowing of each other: {here} here, and elsewhere {elsewhere}; \
             {counts} counts"
        );
        let told = (new.subject.to_string(), "conflict".to_owned());
        self.tell(Level::Warn, Kind::Override, told, (why, who.to_owned()), None);
    }

    /// What is said of a subject.
    fn said_of(&self, subject: &Subject) -> Option<&Said> {
        let row = self.said.binary_search_by(|said| said.subject.cmp(subject)).ok()?;
        self.said.get(row)
    }

    /// Puts a word in the place of what was said of its subject, here and at the others.
    fn put(&mut self, said: Said) {
        if let Some(peers) = &self.peers {
            peers.say(format!("w/{}", said.subject), Some(said.spoken()));
        }
        self.latest = self.latest.max(said.latest());
        let row = self.said.binary_search_by(|other| other.subject.cmp(&said.subject));
        let (from, to) = row.map_or_else(|row| (row, row), |row| (row, row + 1));
        self.said.splice(from..to, [said]);
    }

    /// Keeps a word that nobody waits for.
    pub(super) fn keep(&self, said: Said) {
        see_kept("a word", self.store.say(said));
    }

    /// Finds out what is meant by what is said and planned.
    pub(super) fn resolve(&mut self) {
        self.planned = overrides::planned(&self.loaded.config, self.clock.now());
        self.overrides = overrides::resolve(&self.said, &self.planned, &self.loaded.meanings);
    }

    /// Ends what was said until a moment that has passed, and plans what is next.
    pub(super) fn expire(&mut self) {
        let now = self.clock.now();
        self.tell_of_maintenance(now);
        let is_over = |said: &Said| said.all().any(|of| of.is_over(now));
        if !self.said.iter().chain(&self.planned).any(is_over) {
            return;
        }
        let (over, said) = std::mem::take(&mut self.said).into_iter().partition(is_over);
        self.said = said;
        let over: Vec<Said> = over;
        // What was said at once with one that is over now.
        let mut followed = Vec::new();
        for said in over {
            let subject = said.subject.to_string();
            if let Some(word) = said.word.filter(|_| said.is_over(now)) {
                let why = format!("{word} until now: {}", said.reason);
                let (told, who) =
                    ((subject.clone(), "cleared".to_owned()), (why, said.owner.clone()));
                self.tell(Level::Info, Kind::Override, told, who, None);
            }
            let standing = Some(&said).filter(|said| !said.is_old_news(now));
            let Some(standing) = Said::joined(standing, now) else {
                drop(self.store.clear(subject.clone()));
                if let Some(peers) = &self.peers {
                    peers.say(format!("w/{subject}"), None);
                }
                continue;
            };
            self.keep(standing.clone());
            self.put(standing.clone());
            if standing.word.is_some() && !standing.is(&said) {
                let who = standing.owner.clone();
                followed.push((standing, who));
            }
        }
        self.resolve();
        self.follow_words(followed);
    }

    /// Tells when maintenance begins or ends.
    fn tell_of_maintenance(&mut self, now: Instant) {
        let is_on = |said: &&Said| said.since <= now && said.until.is_none_or(|until| now < until);
        let on: Vec<Said> = self.planned.iter().filter(is_on).cloned().collect();
        let before = std::mem::replace(&mut self.maintained, on);
        let began = self.maintained.iter().filter(|of| !before.contains(of));
        let ended = before.iter().filter(|of| !self.maintained.contains(of));
        let began = began.map(|of| (of.clone(), "drain"));
        for (of, what) in began.chain(ended.map(|of| (of.clone(), "cleared"))).collect::<Vec<_>>() {
            let told = (of.subject.to_string(), what.to_owned());
            self.tell(Level::Warn, Kind::Override, told, (of.reason, of.owner), None);
        }
    }

    /// Lets a service's region back that waits for it, at this node, and keeps that.
    pub(super) fn release(
        &mut self,
        subject: &Subject,
        (who, why): (String, String),
        reply: oneshot::Sender<Result<(), Unheard>>,
    ) {
        let service = match self.let_back(subject) {
            Ok(service) => service,
            Err(why) => {
                // Who asked may have stopped waiting, here and below.
                let _gone = reply.send(Err(Unheard::Senseless(why)));
                return;
            }
        };
        self.publish(Some(&[service]), true);
        let what = (subject.to_string(), "let back".to_owned());
        self.tell(Level::Warn, Kind::Override, what, (why, who), None);
        let kept = self.store.let_back(self.moves());
        tokio::spawn(async move {
            let _gone = reply.send(kept.await.map_err(Unheard::Unwritten));
        });
    }

    fn let_back(&mut self, subject: &Subject) -> Result<ServiceId, String> {
        let Scope::Pool(service, region) = overrides::scope(subject, &self.loaded.config)? else {
            return Err("expected SERVICE/REGION".to_owned());
        };
        let is_back = self.holds.release(service, region);
        is_back.then_some(service).ok_or_else(|| format!("{subject} does not wait to be let back"))
    }

    /// What `said` would do, once it has reached everybody.
    pub(super) fn weigh(&self, said: Said) -> Result<(Said, Impact), String> {
        let meanings = &self.loaded.meanings;
        // What names nothing any more can still be taken back.
        if said.word.is_some() {
            overrides::scope(&said.subject, &self.loaded.config)?;
        }
        let now = self.clock.now();
        if said.until.is_some_and(|until| until <= now) {
            return Err("it would be over already".to_owned());
        }
        let before = self.said_of(&said.subject);
        if before.is_some_and(|before| said.falls_short_of(before, meanings, now)) {
            let what = "the ramp begins with fewer clients than the word that stands has reached, \
                        and the others would be back at once; expected a first step that is no \
                        smaller, or no ramp";
            return Err(what.to_owned());
        }
        let emptied = before.and_then(|before| before.word).filter(|word| *word != Word::Up);
        if let (Some(Word::Up), Some(_), Some(emptied)) = (said.word, said.ramp, emptied) {
            return Err(format!(
                "`up` takes the place of `{emptied}`, and whom its ramp has not reached would be \
                 back at once; expected no ramp, or a region that only waits for its failback"
            ));
        }
        let replaced = before.into_iter().flat_map(Said::all).map(|of| &of.stamp);
        let stamp = Stamp::next(now, &self.loaded.config.node.name, replaced, self.latest);
        let said = Said { stamp, ..said };
        let whole = Said { ramp: None, until: None, since: now, ..said.clone() };
        let others = self.said.iter().filter(|other| other.subject != whole.subject);
        let all = others.chain([&whole]);
        let in_force = overrides::resolve(all, &self.planned, meanings).at(now);
        let facts = Facts { overrides: &in_force, ..self.facts() };
        Ok((said, {
            let clients = self.sample.clients(&self.loaded.plan);
            overrides::impact(&self.published.load(), &facts, &clients)
        }))
    }
}

/// Says so, if something cannot be kept that nobody waits for.
pub(super) fn see_kept(
    what: &'static str,
    kept: impl Future<Output = Result<(), String>> + Send + 'static,
) {
    tokio::spawn(async move {
        if let Err(error) = kept.await {
            warn!(%error, "{what} could not be kept");
        }
    });
}
