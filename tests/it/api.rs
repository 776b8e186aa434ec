//! The API is what its description says.

use serde_json::{Value, json};

use crate::harness::{Meridian, Nginx, free_port, wait_until};

/// What the description says of an answer: its schema, in a document of its own.
fn schema(api: &Value, path: &str, method: &str, code: &str) -> Value {
    let answer = &api["paths"][path][method]["responses"][code];
    let shared = answer["$ref"].as_str().and_then(|place| api.pointer(&place[1..]));
    let answer = shared.unwrap_or(answer);
    let schema = &answer["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} {code} is not described");
    let mut whole = json!({ "components": api["components"], "allOf": [schema] });
    close(&mut whole);
    whole
}

/// Clients are to pass over what is not described, as a newer server may tell more; this one tells
/// nothing else.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(parts) => parts.iter_mut().for_each(close),
        _ => {}
    }
}

fn assert_valid(schema: &Value, value: &Value) {
    let validator = jsonschema::draft202012::new(schema).unwrap();
    let wrong: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\nin {value:#}");
}

#[test]
fn every_answer_is_as_it_is_described() {
    let port = free_port();
    let [us, mut eu] = [Nginx::start(port), Nginx::start(port)];
    let server = Meridian::serve(&format!(
        "regions: {{ us: {{ at: [39, -77], capacity: 1 }}, eu: {{ at: [53, -6], capacity: 2 }} }}
checks: {{ web: {{ http: /healthz, port: {port} }} }}
zones:
  example.com: {{ ns: [ns1.example.net, ns2.example.net], records: {{ alias: {{ CNAME: www }} }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ us: {}, eu: {} }} }}
",
        us.address, eu.address
    ));
    let read = |path: &str| -> (String, Value) {
        let (code, body) = server.get(path);
        (code.to_string(), serde_json::from_str(&body).unwrap())
    };
    let (_, api) = read("/api/v1/openapi.json");
    let described = |path: &str, query: &str, expected: &str| {
        let (code, body) = read(&format!("{path}{query}"));
        assert_eq!(code, expected, "{path}{query}: {body}");
        assert_valid(&schema(&api, path, "get", expected), &body);
        body
    };
    eu.process.kill();
    wait_until(&"down".to_owned(), || server.endpoint(eu.address).0);
    let word = ["drain", "us", "--reason", "test", "--owner", "alice", "--for", "1h", "--json"];
    let (refused, told) = server.ctl(&word);
    assert!(!refused && told.contains("`--force`"), "{told}");
    let (fine, effect) = server.ctl(&[&word[..], &["--ramp", "50%/1m", "--force"]].concat());
    assert!(fine, "{effect}");
    let effect: Value = serde_json::from_str(&effect).unwrap();
    assert_valid(&schema(&api, "/api/v1/overrides", "put", "200"), &effect);
    assert_eq!(effect["left_with_nothing"], json!(["web"]));

    let status = described("/api/v1/status", "", "200");
    assert_eq!(status["overrides"].as_array().map(Vec::len), Some(1));
    let said = described("/api/v1/overrides", "", "200");
    assert_eq!(said[0]["ramp"], json!({ "percent": 50, "every_seconds": 60 }));
    let explain = "/api/v1/explain";
    described(explain, "?name=www.example.com&from=192.0.2.1", "200");
    described(explain, "?name=www.example.com&from=192.0.2.1&down=us", "200");
    described(explain, "?name=example.com&from=192.0.2.1", "200");
    described(explain, "?name=alias.example.com&from=192.0.2.1", "200");
    described(explain, "?name=nope.example.com&from=192.0.2.1", "200");
    described(explain, "?name=nope.example.net&from=192.0.2.1", "200");
    described(explain, "?name=www.example.com&from=nowhere", "400");
    let history = described("/api/v1/history", "", "200");
    let newest = history[0]["number"].as_i64().unwrap();
    assert_eq!(history[0]["kind"], "override");
    assert_eq!(history[1]["what"], "down");
    let older = described("/api/v1/history", &format!("?before={newest}&limit=1"), "200");
    assert_eq!(older[0], history[1]);
    let states = described("/api/v1/history", "?kind=state", "200");
    assert!(states.as_array().unwrap().iter().all(|of| of["kind"] == "state"));
    described("/api/v1/history", "?kind=nonsense", "400");

    let left = described("/api/v1/convergence", "?subject=web/us&residual=0.05", "200");
    assert_eq!(left[0]["region"], "us");
    assert!(!described("/api/v1/convergence", "", "200").as_array().unwrap().is_empty());
    described("/api/v1/convergence", "?subject=asia", "400");
    described("/api/v1/convergence/fit", "", "200");

    // Nothing is described that is not there.
    for path in api["paths"].as_object().unwrap().keys() {
        assert_ne!(server.get(path).0, 404, "{path}");
    }
}
