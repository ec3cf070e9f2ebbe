//! The initiator's login against any responses: it ends, with a session only after CHAP where CHAP is
//! configured.
#![no_main]

use iscsi::login::requester::{LoginPlan, Requester, Step};
use iscsi::login::{Chap, Credentials, Proposal};
use iscsi::pdu::{Header, LoginResponse};
use libfuzzer_sys::fuzz_target;
use scsi::{IscsiName, Isid};

/// More responses than any login may take.
const RESPONSES_MAX: usize = 256;

fn plan(authenticate: bool) -> LoginPlan {
    let credentials =
        |user: &str| Credentials { user: user.to_owned(), secret: "a long enough secret".to_owned() };
    let name = |text| IscsiName::new(text).expect("a legal name");
    LoginPlan {
        initiator: name("iqn.2026-01.example:initiator"),
        isid: Isid([0, 2, 0x3D, 0, 0, 1]),
        target: Some(name("iqn.2026-01.example:target")),
        chap: authenticate.then(|| Chap { initiator: credentials("a"), target: Some(credentials("b")) }),
        proposal: Proposal::default(),
        challenge: [7; 16],
    }
}

fuzz_target!(|input: (bool, Vec<([u8; 40], Vec<u8>)>)| {
    let (authenticate, responses) = input;
    let mut login = Requester::new(plan(authenticate));
    let _ = login.start();
    for (count, (fields, data)) in responses.iter().enumerate() {
        let mut bhs = [0; 48];
        bhs[..40].copy_from_slice(fields);
        match login.handle(&LoginResponse::parse(&bhs), data) {
            Ok(Step::Send(..)) => assert!(count < RESPONSES_MAX, "the negotiation does not end"),
            // The target's proof cannot be guessed, so a session with CHAP would be a bypass.
            Ok(Step::Done(_)) => return assert!(!authenticate, "a session without the target's proof"),
            Err(error) => return assert!(!error.to_string().is_empty()),
        }
    }
});
