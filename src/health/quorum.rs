//! What several nodes believe together. Each computes it by itself, from the same opinions.
//!
//! With N nodes and a threshold q, a target is down when q of them see it down, and up when so
//! many see it up that q could not. Between the two what was believed stands, so that no single
//! node that comes, goes or errs moves anything.

use super::table::State;

/// Who decides.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Electorate {
    /// How many nodes there are, this one among them.
    pub nodes: usize,
    /// How many of them must see a target down.
    pub rule: Rule,
    /// What a node does that hears too few others.
    pub when_isolated: WhenIsolated,
}

/// How many nodes must see a target down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// More than half of all.
    Majority,
    /// One.
    Any,
    /// Each.
    All,
    /// So many.
    Number(usize),
}

/// What a node does that hears too few others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WhenIsolated {
    /// What was believed stands.
    Freeze,
    /// It decides by its own sight.
    Alone,
}

/// What is believed of a target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Belief {
    /// What.
    pub state: State,
    /// The nodes together have said so, or otherwise, since they watch it.
    pub agreed: bool,
}

/// Who judges a target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Voters {
    /// How many nodes watch it.
    pub all: usize,
    /// How many of them are heard; this one, if it watches, among them.
    pub heard: usize,
}

/// What the nodes see of a target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Votes {
    /// How many see it up.
    pub up: usize,
    /// How many see it down.
    pub down: usize,
}

impl Voters {
    /// Are those who are heard no more than half? The others could decide otherwise.
    pub(super) fn are_too_few(self) -> bool {
        self.heard * 2 <= self.all
    }
}

impl Votes {
    /// Counts opinions.
    pub(super) fn count(opinions: impl IntoIterator<Item = State>) -> Self {
        opinions.into_iter().fold(Self::default(), |votes, opinion| match opinion {
            State::Up => Self { up: votes.up + 1, ..votes },
            State::Down => Self { down: votes.down + 1, ..votes },
            State::Unknown => votes,
        })
    }
}

impl Default for Electorate {
    fn default() -> Self {
        Self { nodes: 1, rule: Rule::Majority, when_isolated: WhenIsolated::Freeze }
    }
}

impl Electorate {
    /// How many of its `voters` must see a target down.
    fn threshold(&self, voters: usize) -> usize {
        match self.rule {
            Rule::Majority => voters / 2 + 1,
            Rule::Any => 1,
            Rule::All => voters,
            Rule::Number(number) => number.clamp(1, voters.max(1)),
        }
    }

    /// Are these too few others for a decision? Without more than half of all nodes another half
    /// could decide otherwise.
    pub fn is_isolated(&self, heard: usize) -> bool {
        heard < self.nodes / 2
    }

    /// What a node goes by that sees `own`, after the votes of these `voters`, of which it is one;
    /// `is_isolated`: it hears too few others.
    pub fn decide(
        &self,
        believed: Belief,
        (votes, own): (Votes, Option<State>),
        voters: Voters,
        is_isolated: bool,
    ) -> Belief {
        let agreed = if is_isolated { None } else { self.agreed(votes, voters) };
        if let Some(state) = agreed {
            return Belief { state, agreed: true };
        }
        // Of what the nodes never agreed on, one sight is better than none: it is new, and the
        // others may not watch it yet.
        let is_alone = is_isolated && self.when_isolated == WhenIsolated::Alone || !believed.agreed;
        let state = own.filter(|_| is_alone).unwrap_or(believed.state);
        Belief { state, ..believed }
    }

    /// What enough of these `voters` say, if enough do.
    fn agreed(&self, votes: Votes, voters: Voters) -> Option<State> {
        if voters.are_too_few() {
            return None;
        }
        let threshold = self.threshold(voters.all);
        // So many that see it up leave fewer than the threshold. None is waited for that is not
        // heard, or has nothing to say, as long as those who say it are more than half.
        let speaking = (votes.up + votes.down).max(voters.all / 2 + 1);
        let enough = (voters.all + 1 - threshold).min(voters.heard).min(speaking).max(1);
        if votes.down >= threshold {
            Some(State::Down)
        } else if votes.up >= enough {
            Some(State::Up)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(state: State) -> Belief {
        Belief { state, agreed: true }
    }

    /// What these of its voters make of a target that was up, and of one that was down; the same
    /// where they are all nodes, and where they are some of many that are heard.
    fn decide(all: usize, rule: Rule, (up, down): (usize, usize), heard: usize) -> [State; 2] {
        let votes = Votes { up, down };
        let voters = Voters { all, heard: heard + 1 };
        let of = |nodes: usize, heard: usize| {
            let electorate = Electorate { nodes, rule, when_isolated: WhenIsolated::Freeze };
            [State::Up, State::Down].map(|believed| {
                let is_isolated = electorate.is_isolated(heard);
                electorate.decide(agreed(believed), (votes, None), voters, is_isolated).state
            })
        };
        let [together, some] = [of(all, heard), of(20, 15)];
        assert_eq!(together, some, "{voters:?} {votes:?} {rule:?}");
        together
    }

    /// Every rule, for one to seven nodes and every number of them that see it up, see it down, or
    /// are silent, against what the rules say in words.
    #[test]
    fn the_whole_table() {
        for nodes in 1..=7usize {
            for rule in [Rule::Majority, Rule::Any, Rule::All, Rule::Number(2), Rule::Number(9)] {
                for down in 0..=nodes {
                    for up in 0..=nodes - down {
                        for heard in (up + down).saturating_sub(1)..nodes {
                            let needed = match rule {
                                Rule::Majority => nodes / 2 + 1,
                                Rule::Any => 1,
                                Rule::All => nodes,
                                Rule::Number(number) => number.min(nodes),
                            };
                            let cut_off = 2 * (heard + 1) <= nodes;
                            let goes_down = !cut_off && down >= needed;
                            // All others together could not make it; or none of them says
                            // otherwise, and they are more than half.
                            let is_agreed = down == 0 && 2 * up > nodes;
                            let goes_up = !cut_off
                                && !goes_down
                                && (nodes - up < needed || up == heard + 1 || is_agreed);
                            let expected = match (goes_down, goes_up) {
                                (true, _) => [State::Down, State::Down],
                                (_, true) => [State::Up, State::Up],
                                _ => [State::Up, State::Down],
                            };
                            let given = decide(nodes, rule, (up, down), heard);
                            let case = (nodes, rule, up, down, heard);
                            assert_eq!(given, expected, "{case:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_node_decides_alone() {
        let one = Electorate::default();
        let voters = Voters { all: 1, heard: 1 };
        assert!(!one.is_isolated(0));
        for state in [State::Up, State::Down] {
            let votes = Votes::count([state]);
            let new = Belief { state: State::Unknown, agreed: false };
            assert_eq!(one.decide(new, (votes, Some(state)), voters, false), agreed(state));
        }
        let abstained = one.decide(agreed(State::Up), (Votes::default(), None), voters, false);
        assert_eq!(abstained, agreed(State::Up), "it abstains");
    }

    #[test]
    fn a_minority_never_moves_anything() {
        for nodes in 2..=9usize {
            for minority in 0..nodes.div_ceil(2) {
                for believed in [State::Up, State::Down] {
                    let electorate = Electorate { nodes, ..Electorate::default() };
                    for state in [State::Up, State::Down] {
                        // Alone among themselves, or heard beside all others that are silent.
                        for heard in [minority.saturating_sub(1), nodes - 1] {
                            let votes = Votes::count(vec![state; minority]);
                            let voters = Voters { all: nodes, heard: heard + 1 };
                            let after = electorate.decide(
                                agreed(believed),
                                (votes, Some(state)),
                                voters,
                                electorate.is_isolated(heard),
                            );
                            assert_eq!(
                                after.state, believed,
                                "{nodes} {minority} {state:?} {heard}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_left_of_those_who_watch_a_target_moves_nothing_without_a_majority_of_them() {
        let five = |rule| Electorate { nodes: 5, rule, when_isolated: WhenIsolated::Freeze };
        let voters = Voters { all: 3, heard: 1 };
        for rule in [Rule::Majority, Rule::Any, Rule::All] {
            for (up, down, believed) in [(1, 0, State::Down), (0, 1, State::Up)] {
                let votes = (Votes { up, down }, None);
                let after = five(rule).decide(agreed(believed), votes, voters, false);
                assert_eq!(after, agreed(believed), "{rule:?}");
            }
        }
    }

    #[test]
    fn who_is_cut_off_stands_still_or_decides_alone_as_it_was_told() {
        let down = (Votes { up: 0, down: 1 }, Some(State::Down));
        let decide = |when_isolated, believed| {
            let electorate = Electorate { nodes: 3, rule: Rule::Majority, when_isolated };
            electorate.decide(believed, down, Voters { all: 3, heard: 1 }, true).state
        };
        assert_eq!(decide(WhenIsolated::Freeze, agreed(State::Up)), State::Up);
        assert_eq!(decide(WhenIsolated::Alone, agreed(State::Up)), State::Down);
        for state in [State::Unknown, State::Up] {
            let new = Belief { state, agreed: false };
            assert_eq!(decide(WhenIsolated::Freeze, new), State::Down);
        }
    }

    #[test]
    fn of_what_the_nodes_never_agreed_on_each_goes_by_its_own_sight() {
        for (believed, own) in
            [State::Unknown, State::Up, State::Down].into_iter().zip([State::Up, State::Down])
        {
            let three = Electorate { nodes: 3, ..Electorate::default() };
            let voters = Voters { all: 3, heard: 3 };
            let new = Belief { state: believed, agreed: false };
            let alone = three.decide(new, (Votes::count([own]), Some(own)), voters, false);
            assert_eq!(alone, Belief { state: own, agreed: false });
            // It has nothing to say itself.
            assert_eq!(three.decide(new, (Votes::count([own]), None), voters, false), new);
            // And from when they agree it counts for no more than the others.
            let votes = Votes { up: 1, down: 2 };
            let together = three.decide(alone, (votes, Some(State::Up)), voters, false);
            assert_eq!(together, agreed(State::Down));
            let one = (Votes { up: 1, down: 0 }, Some(State::Up));
            assert_eq!(three.decide(together, one, voters, false), together);
        }
    }
}
