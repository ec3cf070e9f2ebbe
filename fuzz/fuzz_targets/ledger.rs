//! The ledger's log: what is read of any bytes survives compaction, and no line is lost by cutting or feeding in pieces.
#![no_main]

use ledger::log::{Log, header};
use ledger::{Owner, Record};
use libfuzzer_sys::fuzz_target;

/// Each line of the input with its checksum, behind a header: the fuzzer cannot guess those.
fn framed(input: &[u8]) -> Vec<u8> {
    let mut log = header(&Owner("fuzz".into())).into_bytes();
    for json in input.split(|byte| *byte == b'\n') {
        log.extend(format!("{:08x} ", crc32c::crc32c(json)).bytes());
        log.extend(json);
        log.push(b'\n');
    }
    log
}

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

fuzz_target!(|input: &[u8]| {
    check(input);
    check(&framed(input));
});
