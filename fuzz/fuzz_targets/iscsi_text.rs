//! Text keys, their negotiation from either side, and CHAP's binary values.
#![no_main]

use fuzz::settles;
use iscsi::login::{Parameters, Proposal, chap};
use iscsi::text::{Collector, Text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut collector = Collector::default();
    let _ = collector.add(first, true);
    let gathered = collector.add(second, false).ok().flatten();
    let Some(text) = settles(bytes, |bytes| Text::parse(bytes).ok(), Text::to_bytes) else { return };
    assert_eq!(gathered.as_ref(), Some(&text), "text may be cut anywhere");
    let own = Proposal::default();
    let (mut target, mut initiator) = (Parameters::default(), Parameters::default());
    for (key, value) in text.iter() {
        let _ = initiator.accept(&own, key, value);
        if let Ok(Some(answer)) = target.respond(&own, key, value) {
            assert!(!answer.is_empty());
        }
        if let Some(binary) = chap::decode(value) {
            assert_eq!(chap::decode(&chap::encode(&binary)), Some(binary));
        }
    }
    for parameters in [target, initiator] {
        assert!((512..1 << 24).contains(&parameters.max_send), "{parameters:?}");
    }
});
