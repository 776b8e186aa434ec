//! `cookies` and `rate_limit`: what is done against questions with forged addresses.

use std::path::Path;

use super::Loader;
use super::read::{At, Problems};
use crate::snapshot::{Protection, RateLimit, Secret};

/// Both; the secrets are empty if they are not configured.
pub(super) fn read(
    cookies: Option<At<'_>>,
    rate_limit: Option<At<'_>>,
    load: Loader<'_>,
    problems: &mut Problems,
) -> Protection {
    let secrets = cookies.and_then(|at| secrets(&at, load, problems)).unwrap_or_default();
    let rate_limit = rate_limit.and_then(|at| limit(&at, problems));
    Protection { secrets, rate_limit, ..Protection::default() }
}

fn secrets(at: &At<'_>, load: Loader<'_>, problems: &mut Problems) -> Option<Vec<Secret>> {
    let mut fields = at.fields(problems)?;
    let file = fields.need("secrets", problems);
    fields.done(problems);
    let at = file?;
    let file = at.text("the path of a file with secrets", problems)?;
    let text = match load(Path::new(file)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(reason) => {
            problems.error(at.place(), &at.key, format!("{file}: {reason}"));
            return None;
        }
    };
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let mut secrets = Vec::new();
    for (row, line) in lines {
        let Some(secret) = secret(line) else {
            let what = "no secret; expected 32 hexadecimal digits, such as `openssl rand -hex 16`";
            problems.error(at.place(), &at.key, format!("{file}:{}: {what}", row + 1));
            return None;
        };
        secrets.push(secret);
    }
    if secrets.is_empty() {
        let what = "no secret; expected a line for each, such as `openssl rand -hex 16`";
        problems.error(at.place(), &at.key, format!("{file}: {what}"));
    }
    Some(secrets)
}

fn secret(line: &str) -> Option<Secret> {
    let is_hex = line.len() == 32 && line.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(line, 16).ok().filter(|_| is_hex)?;
    Some(Secret(number.to_be_bytes()))
}

/// Each so-manieth answer beyond the limit says so, if nothing else is told: a resolver that is
/// meant asks again soon, and a victim gets no more than half of what was asked in its name.
const SLIP: u32 = 2;

/// More answers a second than any machine gives.
const MOST: u64 = 100_000_000;

fn limit(at: &At<'_>, problems: &mut Problems) -> Option<RateLimit> {
    let mut fields = at.fields(problems)?;
    let (of_same, of_all) = (fields.need("same", problems), fields.get("all"));
    let mut number = |at: Option<&At<'_>>, least| {
        at.and_then(|at| at.number(least, MOST, problems)).and_then(|of| u32::try_from(of).ok())
    };
    let (same, all) = (number(of_same.as_ref(), 1), number(of_all.as_ref(), 1));
    let slip = number(fields.get("slip").as_ref(), 0).unwrap_or(SLIP);
    if let (Some(same), Some(all), Some(at)) = (same, all, of_all)
        && all < same
    {
        let what = format!("{all} answers of all are fewer than {same} of the `same`");
        problems.warning(at.place(), &at.key, format!("{what}, which then limits nothing"));
    }
    let exempt = fields.get("exempt").map(|at| at.list()).unwrap_or_default();
    let exempt = exempt
        .iter()
        .filter_map(|at| at.parsed("a network such as 192.0.2.0/24", problems))
        .collect();
    fields.done(problems);
    Some(RateLimit { same: same?, all, slip, exempt })
}
