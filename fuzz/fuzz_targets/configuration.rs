//! Any configuration: read, or refused with reasons.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meridian::config::{Config, Targets};

fuzz_target!(|text: &str| {
    let loaded = Config::load("fuzzed", text, &mut Targets::default(), &mut |_| {
        Err("no files here".to_owned())
    });
    if let Err(problems) = loaded {
        assert!(problems.iter().any(|problem| !problem.is_warning));
        for problem in problems {
            assert!(!problem.to_string().is_empty());
        }
    }
});
