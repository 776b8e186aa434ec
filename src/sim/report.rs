//! The outcome as one page.

use super::outcome::Outcome;

/// A page that needs no network.
pub fn page(outcome: &Outcome) -> Result<String, serde_json::Error> {
    let data = serde_json::to_string(outcome)?;
    Ok(PAGE.replace("/*OUTCOME*/null", &data.replace("</", "<\\/")))
}

/// The page, into which the outcome is put.
const PAGE: &str = include_str!("report.html");
