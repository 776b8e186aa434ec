//! What the scenario does to the world.

use std::time::Duration;

use super::regions::Condition;
use super::scenario::{Act, Wish};
use super::world::World;
use crate::ids::RegionId;
use crate::steer::{Ramp, Word};

impl World<'_> {
    /// What happens at random for so long, about every so often; then everything is well again.
    pub(super) fn chaos(&mut self, (span, every): (Duration, Duration)) -> Vec<(Duration, Act)> {
        let mut acts = Vec::new();
        let mut at = Duration::ZERO;
        loop {
            let wait = -every.as_secs_f64() * (1.0 - self.dice.chaos.unit()).ln();
            at += Duration::from_secs_f64(wait);
            if at >= span {
                break;
            }
            acts.extend(self.misfortune().map(|act| (at, act)));
        }
        let regions = self.regions.ids();
        let healed = [Act::Heal, Act::Lose(self.input.scenario.loss)].into_iter();
        let well = regions.flat_map(|region| [Act::Revive(region), Act::Clear(region)]);
        let starts = (0..self.nodes.len()).map(Act::Start);
        let members = self.regions.ids().map(Act::StartEtcd).filter(|_| self.is_leased());
        let all = healed.chain(well).chain(starts).chain(members);
        acts.extend(all.map(|act| (span, act)));
        acts
    }

    /// Something at random.
    fn misfortune(&mut self) -> Option<Act> {
        let (regions, count) = (self.regions.ids(), self.regions.ids().count());
        let kinds = if self.is_leased() { 14 } else { 12 };
        let dice = &mut self.dice.chaos;
        let mut row = |count: usize| usize::try_from(dice.below(count as u64)).unwrap_or(0);
        let (kind, node) = (row(kinds), row(self.nodes.len()));
        let region = RegionId::from_index(row(count))?;
        let other = RegionId::from_index(row(count))?;
        Some(match kind {
            0 | 1 => Act::Crash(region),
            2 => Act::Stall(region),
            3 => Act::Fail(region, 0.5),
            4..=6 => Act::Revive(region),
            7 => {
                let (one_way, is_wide) = (row(2) == 0, row(2) == 0);
                let others = regions.filter(|of| *of == other || (is_wide && *of != region));
                Act::Part(vec![vec![region], others.collect()], one_way)
            }
            8 => Act::Heal,
            9 => Act::Kill(node),
            10 => Act::Start(node),
            12 => Act::KillEtcd(region),
            13 => Act::StartEtcd(region),
            _ => Act::Lose(0.01),
        })
    }

    /// Something of the scenario happens.
    pub(super) fn act(&mut self, act: &Act) {
        let now = self.now;
        let label = act.label(self.input.config, self.input.scenario);
        self.outcome.tell(self.since(), "", label);
        self.checks.act(now, act);
        match act {
            Act::Crash(region) => self.regions.set(*region, Condition::Crashed),
            Act::Stall(region) => self.regions.set(*region, Condition::Stalled),
            Act::Fail(region, share) => self.regions.set(*region, Condition::Failing(*share)),
            Act::Revive(region) => self.regions.set(*region, Condition::Well),
            Act::Say(region, word, ramp) => self.say(*region, Some((*word, *ramp))),
            Act::Clear(region) => self.say(*region, None),
            Act::Name(wish) => self.name_writer(*wish),
            Act::Reload(stage) => {
                let Some(stage) = self.input.reloads.get(*stage) else { return };
                self.stage = *stage;
                if let Some(of) = self.input.plan.services.get(self.input.scenario.service.index())
                {
                    self.checks.serve(stage.paces(&of.name));
                }
                let targets = self.target_ids();
                for row in 0..self.nodes.len() {
                    if let Some(node) = self.nodes.get_mut(row).and_then(Option::as_mut) {
                        node.reload(now, *stage, &targets);
                        self.turn(row);
                    }
                }
                self.note_named();
            }
            Act::Kill(row) => self.kill_node(*row),
            // One that runs goes on.
            Act::Start(row) if self.nodes.get(*row).is_some_and(Option::is_some) => {}
            Act::Start(row) => self.start_node(*row),
            Act::KillEtcd(region) => {
                self.store.set(*region, false);
                self.look_who_leads();
            }
            Act::StartEtcd(region) => {
                self.store.set(*region, true);
                self.look_who_leads();
            }
            Act::Part(groups, one_way) => {
                for (row, from) in groups.iter().enumerate() {
                    for (other, to) in groups.iter().enumerate() {
                        if row == other || (*one_way && row > other) {
                            continue;
                        }
                        let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b)));
                        self.network.cuts.extend(pairs);
                    }
                }
                self.cut.0.get_or_insert(now);
                self.stays = self.smallest(groups);
                self.look_who_leads();
                if let Some(stores) = &mut self.stores {
                    stores.part(now, &self.network);
                }
            }
            Act::Heal => {
                self.network.cuts.clear();
                self.look_who_leads();
                if let Some(since) = self.cut.0.take() {
                    self.cut.1 += now.since(since);
                }
                if let Some(stores) = &mut self.stores {
                    stores.part(now, &self.network);
                }
            }
            Act::Lose(share) => self.network.loss = *share,
        }
    }

    /// An operator speaks to one node; the others hear of it.
    fn say(&mut self, region: RegionId, said: Option<(Word, Option<Ramp>)>) {
        let now = self.now;
        let Some(row) = self.nodes.iter().position(Option::is_some) else { return };
        let out = said.filter(|(word, _)| *word != Word::Up);
        let ramp = out.and_then(|(_, ramp)| ramp);
        let leaving = ramp.map(|_| self.leaves(region, ramp));
        if let Some(slot) = self.leaving.get_mut(region.index()) {
            *slot = if out.is_some() { slot.or(leaving) } else { None };
        }
        if let Some(node) = self.nodes.get_mut(row).and_then(Option::as_mut) {
            node.say(now, region, said);
            self.turn(row);
        }
    }

    /// An operator names the next writer to a node, which may refuse.
    pub(super) fn name_writer(&mut self, Wish { region, fenced, node }: Wish) {
        let now = self.now;
        let lives = |row: &usize| self.nodes.get(*row).is_some_and(Option::is_some);
        let row = node.or_else(|| self.nodes.iter().position(Option::is_some)).filter(lives);
        let named = self.outcome.name(region);
        let done = match row.and_then(|row| self.nodes.get_mut(row)?.as_mut()) {
            Some(node) => node.name_writer(now, &named, fenced),
            None => Err("no node hears that".to_owned()),
        };
        match (done, row) {
            (Ok(Some(ask)), Some(row)) => {
                if !self.ask(row, ask) {
                    self.outcome.tell(self.since(), "refused", "etcd does not answer".to_owned());
                }
            }
            (Ok(_), row) => row.into_iter().for_each(|row| self.turn(row)),
            (Err(why), _) => self.outcome.tell(self.since(), "refused", why),
        }
    }

    /// The share of the requests that go to the group with the least.
    fn smallest(&self, groups: &[Vec<RegionId>]) -> f64 {
        let count = |of: &RegionId| self.chains.counts.get(of.index()).copied().unwrap_or(0);
        let sums = groups.iter().map(|group| group.iter().map(count).sum::<u32>());
        f64::from(sums.min().unwrap_or(0)) / (self.chains.list.len().max(1) as f64)
    }
}
