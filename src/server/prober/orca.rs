//! Load reports in the header of an answer (ORCA: Open Request Cost Aggregation), as Envoy and
//! gRPC have them: `TEXT rps_fractional=12.5, named_metrics.epoch=7`, or the same as
//! `JSON {"rps_fractional": 12.5, "named_metrics": {"epoch": 7}}`.
//!
//! The fields are those of xds.data.orca.v3.OrcaLoadReport. Only two are looked at; what is wrong
//! with any of them makes the whole report worth nothing.

use std::collections::HashSet;

use hyper::header::{HeaderMap, HeaderName};
use metrics::counter;
use serde_json::{Map, Value};

use crate::server::arrivals::Signal;

const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Requests a second.
const REQUESTS: &str = "rps_fractional";
/// The map of what is not in the standard, and the epoch in it.
const NAMED: &str = "named_metrics";
const EPOCH: &str = "epoch";

/// What an answer tells of the load, if it does.
pub(super) fn heard(headers: &HeaderMap) -> Option<Signal> {
    let told = headers.get(HEADER)?;
    let signal = read(told.as_bytes());
    let outcome = if signal.is_some() { "read" } else { "malformed" };
    counter!("meridian_load_reports_total", "outcome" => outcome).increment(1);
    signal
}

/// What a report tells; `None`: it is none.
fn read(octets: &[u8]) -> Option<Signal> {
    let text = std::str::from_utf8(octets).ok()?;
    if let Some(list) = text.strip_prefix("TEXT ") {
        return of_list(list);
    }
    of_json(text.strip_prefix("JSON ")?)
}

/// `NAME=VALUE, NAME=VALUE`; Envoy's own reader wants `NAME:VALUE`.
fn of_list(list: &str) -> Option<Signal> {
    let mut signal = Signal::default();
    let mut seen = HashSet::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once(['=', ':'])?;
        let (name, value) = (name.trim(), number(value.trim())?);
        if name.is_empty() || !seen.insert(name) {
            return None;
        }
        if name == REQUESTS {
            signal.requests = Some(Signal::rate(value)?);
        }
        if name.strip_prefix(NAMED).and_then(|rest| rest.strip_prefix('.')) == Some(EPOCH) {
            signal.epoch = Some(Signal::whole(value)?);
        }
    }
    Some(signal)
}

/// A message in the JSON of protocol buffers: its names may be written in either way, and numbers
/// as texts.
fn of_json(text: &str) -> Option<Signal> {
    let Value::Object(report) = serde_json::from_str(text).ok()? else { return None };
    let field = |names: [&str; 2]| names.into_iter().find_map(|name| report.get(name));
    let requests = match field([REQUESTS, "rpsFractional"]) {
        None | Some(Value::Null) => None,
        Some(value) => Some(Signal::rate(number_of(value)?)?),
    };
    let none = Map::new();
    let named = match field([NAMED, "namedMetrics"]) {
        None | Some(Value::Null) => &none,
        Some(Value::Object(named)) => named,
        Some(_) => return None,
    };
    let epoch = match named.get(EPOCH) {
        None => None,
        Some(value) => Some(Signal::whole(number_of(value)?)?),
    };
    Some(Signal { requests, epoch })
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(value) => value.as_f64(),
        Value::String(text) => number(text),
        _ => None,
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(requests: impl Into<Option<f64>>, epoch: impl Into<Option<u64>>) -> Option<Signal> {
        Some(Signal { requests: requests.into(), epoch: epoch.into() })
    }

    #[test]
    fn both_forms_tell_the_same() {
        for report in [
            "TEXT rps_fractional=12.5, named_metrics.epoch=7",
            "TEXT cpu_utilization:0.3,rps_fractional:12.5,,named_metrics.epoch: 7.0",
            "TEXT named_metrics.epoch = 7 , rps_fractional = 1.25e1, utilization.disk=2",
            r#"JSON {"rps_fractional": 12.5, "named_metrics": {"epoch": 7, "other": 1}}"#,
            r#"JSON {"cpuUtilization":0.3,"rpsFractional":"12.5","namedMetrics":{"epoch":7.0}}"#,
        ] {
            assert_eq!(read(report.as_bytes()), told(12.5, 7), "{report}");
        }
        assert_eq!(read(b"TEXT rps_fractional=0"), told(0.0, None));
        assert_eq!(read(b"TEXT cpu_utilization=0.3"), told(None, None));
        assert_eq!(read(b"JSON {\"namedMetrics\": {\"epoch\": 3}}"), told(None, 3));
        assert_eq!(read(b"JSON {\"rpsFractional\": null}"), told(None, None));
    }

    #[test]
    fn what_is_wrong_is_no_report() {
        for wrong in [
            &b""[..],
            b"rps_fractional=1",
            b"text rps_fractional=1",
            b"BIN CQAAAAAAAPA/",
            b"TEXT rps_fractional",
            b"TEXT rps_fractional=",
            b"TEXT =1",
            b"TEXT rps_fractional=-1",
            b"TEXT rps_fractional=inf",
            b"TEXT rps_fractional=NaN",
            b"TEXT rps_fractional=1e300",
            b"TEXT rps_fractional=1, rps_fractional=2",
            b"TEXT rps_fractional=1, cpu_utilization=much",
            b"TEXT named_metrics.epoch=1.5",
            b"TEXT named_metrics.epoch=-1",
            b"TEXT named_metrics.epoch=1e17",
            b"TEXT rps_fractional=\xff",
            b"JSON ",
            b"JSON 1",
            b"JSON {\"rps_fractional\": [1]}",
            b"JSON {\"rps_fractional\": -1}",
            b"JSON {\"rps_fractional\": \"NaN\"}",
            b"JSON {\"rps_fractional\": 1e999}",
            b"JSON {\"named_metrics\": 1}",
            b"JSON {\"named_metrics\": {\"epoch\": true}}",
        ] {
            assert_eq!(read(wrong), None, "{}", String::from_utf8_lossy(wrong));
        }
        let deep = format!("JSON {}", "[".repeat(16_000));
        assert_eq!(read(deep.as_bytes()), None);
    }

    /// Octets that come near to a report.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just("TEXT ".to_owned()),
            Just("JSON ".to_owned()),
            Just("rps_fractional".to_owned()),
            Just("named_metrics".to_owned()),
            Just(".epoch".to_owned()),
            Just("\"epoch\"".to_owned()),
            "[=:,.{}\\[\\] \"-]",
            any::<f64>().prop_map(|value| value.to_string()),
            any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(word, 0..12).prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic_or_tell_nonsense(
            octets in prop_oneof![nearly(), proptest::collection::vec(any::<u8>(), 0..64)],
        ) {
            let Some(signal) = read(&octets) else { return Ok(()) };
            prop_assert!(signal.requests.is_none_or(|of| of.is_finite() && of >= 0.0));
        }

        #[test]
        fn what_is_written_is_read(rate in 0.0..1e9f64, epoch in 0..1u64 << 53) {
            let text = format!("TEXT rps_fractional={rate}, named_metrics.epoch={epoch}");
            prop_assert_eq!(read(text.as_bytes()), told(rate, epoch));
            let json = serde_json::json!({
                "rps_fractional": rate, "named_metrics": { "epoch": epoch as f64 }
            });
            prop_assert_eq!(read(format!("JSON {json}").as_bytes()), told(rate, epoch));
        }
    }
}
