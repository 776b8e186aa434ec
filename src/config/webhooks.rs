//! `webhooks`: who is told what happens.

use std::path::PathBuf;

use super::read::{At, Problems};

/// Somebody who is told what happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// What operators call it.
    pub name: String,
    /// Where it listens: http or https.
    pub url: String,
    /// A file with a token that is sent along.
    pub token: Option<PathBuf>,
    /// The kinds of things that it is told; empty: everything.
    pub kinds: Vec<String>,
}

/// `webhooks`, which are told things of these `kinds`.
pub(super) fn read(at: Option<At<'_>>, problems: &mut Problems) -> Vec<Webhook> {
    let named = at.map(|at| at.named(problems)).unwrap_or_default();
    let hook = |(name, _, at): (&str, _, At<'_>)| {
        let mut fields = at.fields(problems)?;
        let url = fields.need("url", problems);
        let url = url.and_then(|at| at.url("https://alerts.example.com/meridian", problems));
        let token = fields.get("token").and_then(|at| at.path("the path of a file", problems));
        let listed = fields.get("kinds").map(|at| at.list()).unwrap_or_default();
        let kinds = listed.iter().filter_map(|at| kind(at, problems)).collect();
        fields.done(problems);
        Some(Webhook { name: name.to_owned(), url: url?.to_owned(), token, kinds })
    };
    named.into_iter().filter_map(hook).collect()
}

/// As they are called in the history.
const KINDS: [&str; 4] = ["state", "override", "reload", "node"];

fn kind(at: &At<'_>, problems: &mut Problems) -> Option<String> {
    let text = at.text("a kind of things that happen", problems)?;
    if !KINDS.contains(&text) {
        problems.unknown((at.place(), &at.key), ("kind", text), KINDS);
        return None;
    }
    Some(text.to_owned())
}
