//! What operators say, as far as it changes what is decided.

use crate::server::history::{Kind, Level};
use crate::server::overrides::{self, Impact, Said, Subject};
use crate::steer::{Facts, Scope};

use super::Control;

impl Control {
    /// Follows an operator's word.
    pub(super) fn say(&mut self, said: Said, who: String) {
        let told = (said.subject.to_string(), said.word.to_string());
        let why = said.reason.clone();
        self.said.retain(|other| other.subject != said.subject);
        self.said.push(said);
        self.said.sort_by(|one, other| one.subject.cmp(&other.subject));
        self.overrides = overrides::resolve(&self.said, &self.loaded.config);
        self.heed();
        self.tell(Level::Warn, Kind::Override, told, (why, who), None);
    }

    /// Follows it no more.
    pub(super) fn clear(&mut self, subject: &Subject, who: String, why: String) {
        self.said.retain(|said| said.subject != *subject);
        self.overrides = overrides::resolve(&self.said, &self.loaded.config);
        self.heed();
        let told = (subject.to_string(), "cleared".to_owned());
        self.tell(Level::Info, Kind::Override, told, (why, who), None);
    }

    /// Takes back what was said until a moment that has passed.
    pub(super) fn expire(&mut self) {
        let now = self.clock.now();
        let is_over = |said: &Said| said.until.is_some_and(|until| now >= until);
        if !self.said.iter().any(is_over) {
            return;
        }
        let (over, said) = std::mem::take(&mut self.said).into_iter().partition(is_over);
        self.said = said;
        self.overrides = overrides::resolve(&self.said, &self.loaded.config);
        let over: Vec<Said> = over;
        for said in over {
            let subject = said.subject.to_string();
            // A word that is over is over after a restart too, forgotten or not.
            let (store, forgotten) = (self.store.clone(), subject.clone());
            tokio::spawn(async move { store.clear(forgotten).await });
            let why = format!("{} until now: {}", said.word, said.reason);
            let (told, who) = ((subject, "cleared".to_owned()), (why, said.owner));
            self.tell(Level::Info, Kind::Override, told, who, None);
        }
    }

    /// Lets a service's region back that waits for it.
    pub(super) fn release(
        &mut self,
        subject: &Subject,
        who: String,
        why: String,
    ) -> Result<(), String> {
        let Scope::Pool(service, region) = overrides::scope(subject, &self.loaded.config)? else {
            return Err("expected SERVICE/REGION".to_owned());
        };
        if !self.holds.release(service, region) {
            return Err(format!("{subject} does not wait to be let back"));
        }
        self.publish(Some(&[service]));
        let names = self.holds.out().map(|(of, at)| self.loaded.plan.pool_name(of, at));
        self.store.out(names.collect());
        let what = (subject.to_string(), "let back".to_owned());
        self.tell(Level::Warn, Kind::Override, what, (why, who), None);
        Ok(())
    }

    /// What `said` would do, once it has reached everybody.
    pub(super) fn weigh(&self, said: Said) -> Result<Impact, String> {
        let config = &self.loaded.config;
        overrides::scope(&said.subject, config)?;
        let now = self.clock.now();
        if said.until.is_some_and(|until| until <= now) {
            return Err("it would be over already".to_owned());
        }
        let whole = Said { ramp: None, until: None, since: now, ..said };
        let others = self.said.iter().filter(|other| other.subject != whole.subject);
        let all: Vec<Said> = others.cloned().chain([whole.clone()]).collect();
        let in_force = overrides::resolve(&all, config).at(now);
        let facts = Facts { overrides: &in_force, ..self.facts() };
        Ok(overrides::impact(&self.published.load(), &facts))
    }
}
