//! The journal of handovers: no bytes upset its reader, what it takes in is a prefix of whole lines, and taking in that
//! prefix alone tells the same.
#![no_main]

use agent::journal::{Log, header};
use fuzz::story::framed;
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    let Ok(log) = Log::parse(bytes) else { return };
    let length = usize::try_from(log.length()).expect("no longer than what was read");
    let whole = &bytes[..length];
    assert!(whole.is_empty() || whole.ends_with(b"\n"));
    assert_eq!(Log::parse(whole).as_ref(), Ok(&log));
    for handover in log.handovers() {
        assert!(handover.last.keys().all(|unit| usize::from(unit.0) < handover.begun.luns.len()));
        assert_eq!(handover.promises().touched, !handover.last.is_empty());
    }
    let open = log.handovers().iter().rev().skip(1).find(|handover| handover.is_open());
    assert!(open.is_none(), "only the last handover may be unfinished");
}

/// Each line of the input with its checksum, behind a header: a fuzzer cannot guess those.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let lines = input.split(|byte| *byte == b'\n').flat_map(framed);
    header("host", "vm").into_bytes().into_iter().chain(lines).collect()
}

fuzz_target!(|input: &[u8]| {
    check(input);
    check(&with_checksums(input));
});
