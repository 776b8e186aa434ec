//! Any zone file: read, or refused with reasons.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meridian::zone::{ZoneBuilder, parse};

fuzz_target!(|text: &[u8]| {
    let origin = "example.com".parse().unwrap();
    match parse("fuzzed", text, &origin, &mut |_| Ok(b"included A 192.0.2.1\n".to_vec())) {
        Ok(records) => {
            let mut builder = ZoneBuilder::new(origin);
            for record in records {
                builder.add(&record.owner, record.ttl, record.rtype, record.rdata);
            }
            if let Err(problems) = builder.finish() {
                assert!(!problems.is_empty());
            }
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
});
