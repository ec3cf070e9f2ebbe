//! The ledger's log: what is read of any bytes survives compaction, and no line is lost by cutting or feeding in pieces.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use fuzz::story::{Story, framed, owner};
use ledger::Record;
use ledger::log::{Log, header};
use libfuzzer_sys::fuzz_target;

fn records(log: &Log) -> Vec<Record> {
    log.records().cloned().collect()
}

fn check(bytes: &[u8]) {
    let mut pieces = Log::default();
    let (first, _) = bytes.split_at(bytes.len() / 2);
    let fed = pieces.feed(first);
    let Ok(log) = Log::parse(bytes) else { return };
    assert!(usize::try_from(log.length()).is_ok_and(|length| length <= bytes.len()));
    let compacted = log.compacted();
    let again = Log::parse(compacted.as_bytes()).expect("what was understood is understood again");
    assert_eq!(records(&again), records(&log));
    assert_eq!(again.owner(), log.owner());
    assert_eq!(again.compacted(), compacted);
    fed.expect("a prefix of a log is a log");
    let from = usize::try_from(pieces.length()).unwrap_or(usize::MAX);
    pieces.feed(&bytes[from..]).expect("the rest of a log is one");
    assert_eq!(records(&pieces), records(&log));
}

/// Each line of the input with its checksum, behind a header: a fuzzer cannot guess those.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let lines = input.split(|byte| *byte == b'\n').flat_map(framed);
    header(&owner()).into_bytes().into_iter().chain(lines).collect()
}

fuzz_target!(|input: &[u8]| {
    check(input);
    check(&with_checksums(input));
    if let Ok(story) = Story::arbitrary(&mut Unstructured::new(input)) {
        check(&story.bytes());
    }
});
