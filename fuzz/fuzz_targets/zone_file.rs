//! Any zone file: read, or refused with reasons.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meridian::zone::{FileRecord, ZoneBuilder, parse};

fuzz_target!(|text: &[u8]| {
    let origin = "example.com".parse().unwrap();
    let mut builder = ZoneBuilder::new("example.com".parse().unwrap());
    let mut include = |_: &str| Ok(b"included A 192.0.2.1\n".to_vec());
    let mut take = |record: FileRecord<'_>| builder.add_read(&record);
    match parse("fuzzed", text, &origin, &mut include, &mut take) {
        Ok(()) => {
            if let Err(problems) = builder.finish() {
                assert!(!problems.is_empty());
            }
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
});
