//! Both halves of the login against each other, without a socket, and the target's half against what
//! no initiator of ours would send.

use super::chap::{Chap, Credentials};
use super::keys::{DigestOffer, Proposal};
use super::requester::{LoginError, LoginPlan, Requester, Step};
use super::responder::{Admitted, End, Policy, Responder};
use crate::pdu::{LoginFlags, LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::text::Text;
use proptest::prelude::*;
use scsi::{IscsiName, Isid};

fn name(text: &str) -> IscsiName {
    IscsiName::new(text).unwrap()
}

fn plan() -> LoginPlan {
    LoginPlan {
        initiator: name("iqn.i"),
        isid: Isid([1, 2, 3, 4, 5, 6]),
        target: Some(name("iqn.t")),
        chap: None,
        proposal: Proposal::default(),
        challenge: [1; 16],
    }
}

fn policy(chap: Option<Chap>) -> Policy {
    Policy { target: name("iqn.t"), portal_group: 1, chap, proposal: Proposal::default(), window: 32 }
}

fn chap(secret: &str, mutual: Option<&str>) -> Chap {
    let credentials = |user: &str, secret: &str| Credentials { user: user.into(), secret: secret.into() };
    Chap { initiator: credentials("alice", secret), target: mutual.map(|secret| credentials("disk", secret)) }
}

/// Runs a login to its end: what the target admitted, or what the initiator was told.
fn login(plan: LoginPlan, policy: Policy) -> Result<Admitted, LoginError> {
    let (mut requester, mut responder) = (Requester::new(plan), Responder::new(policy, [2; 16], 7));
    let (mut request, mut data) = requester.start();
    loop {
        let reply = responder.handle(&request, &data);
        match requester.handle(&reply.response, &reply.data)? {
            Step::Send(next, text) => (request, data) = (next, text),
            Step::Done(established) => {
                let End::Established(admitted) = reply.end else { panic!("only one side is done") };
                let theirs = admitted.parameters;
                let ours = established.parameters;
                assert_eq!((ours.max_send, theirs.max_send), (theirs.max_recv, ours.max_recv));
                assert_eq!((ours.digests, ours.first_burst), (theirs.digests, theirs.first_burst));
                return Ok(*admitted);
            }
        }
    }
}

fn status(outcome: Result<Admitted, LoginError>) -> LoginStatus {
    match outcome {
        Err(LoginError::Refused(status)) => status,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn login_without_authentication_negotiates_digests() {
    let proposal = Proposal { header_digest: DigestOffer::Require, ..Proposal::default() };
    let admitted = login(LoginPlan { proposal, ..plan() }, policy(None)).unwrap();
    assert!(admitted.parameters.digests.header && !admitted.parameters.digests.data);
    assert_eq!((admitted.initiator.as_str(), admitted.isid), ("iqn.i", Isid([1, 2, 3, 4, 5, 6])));
}

#[test]
fn chap_admits_the_right_secret_only() {
    let with = |secret| LoginPlan { chap: Some(chap(secret, None)), ..plan() };
    assert!(login(with("right"), policy(Some(chap("right", None)))).is_ok());
    let outcome = login(with("wrong"), policy(Some(chap("right", None))));
    assert_eq!(status(outcome), LoginStatus::AUTHENTICATION_FAILURE);
    let outcome = login(plan(), policy(Some(chap("right", None))));
    assert_eq!(status(outcome), LoginStatus::AUTHENTICATION_FAILURE, "no credentials at all");
    let outcome = login(with("right"), policy(None));
    assert_eq!(status(outcome), LoginStatus::AUTHENTICATION_FAILURE, "the target cannot check them");
}

#[test]
fn mutual_chap_unmasks_a_false_target() {
    let with = |secret| LoginPlan { chap: Some(chap("a", Some(secret))), ..plan() };
    assert!(login(with("b"), policy(Some(chap("a", Some("b"))))).is_ok());
    let outcome = login(with("c"), policy(Some(chap("a", Some("b")))));
    assert!(matches!(outcome, Err(LoginError::Authentication(_))), "{outcome:?}");
}

#[test]
fn a_reflected_challenge_is_refused_by_both_sides() {
    let mutual = chap("a", Some("b"));
    let reflecting = LoginPlan { chap: Some(mutual.clone()), challenge: [2; 16], ..plan() };
    let outcome = login(reflecting, policy(Some(mutual)));
    assert!(matches!(outcome, Err(LoginError::Authentication(_))), "{outcome:?}");
}

#[test]
fn the_operational_stage_is_closed_to_who_has_not_proven_a_name() {
    let mut responder = Responder::new(policy(Some(chap("a", None))), [2; 16], 7);
    let text = Text::default().with("InitiatorName", "iqn.i").with("TargetName", "iqn.t");
    let reply = responder
        .handle(&request(LoginFlags::transit(Stage::Operational, Stage::FullFeature)), &text.to_bytes());
    assert_eq!(reply.response.status, LoginStatus::AUTHENTICATION_FAILURE);
    let mut responder = Responder::new(policy(Some(chap("a", None))), [2; 16], 7);
    let reply = responder
        .handle(&request(LoginFlags::transit(Stage::Security, Stage::FullFeature)), &text.to_bytes());
    assert_eq!(reply.end, End::Continue, "the transit is not granted");
}

#[test]
fn a_discovery_session_needs_no_target_name() {
    assert!(login(LoginPlan { target: None, ..plan() }, policy(None)).unwrap().discovery);
}

fn request(flags: LoginFlags) -> LoginRequest {
    LoginRequest {
        immediate: true,
        flags,
        version_max: 0,
        version_min: 0,
        isid: Isid([0; 6]),
        tsih: 0,
        initiator_task_tag: 0,
        cid: 0,
        cmd_sn: 1,
        exp_stat_sn: 0,
    }
}

fn first(request: &LoginRequest, text: &Text) -> LoginStatus {
    let reply = Responder::new(policy(None), [2; 16], 7).handle(request, &text.to_bytes());
    assert_eq!(reply.end == End::Failed, reply.response.status != LoginStatus::SUCCESS);
    reply.response.status
}

#[test]
fn every_failure_has_its_status() {
    let stay = request(LoginFlags::stay(Stage::Security));
    let known = || Text::default().with("InitiatorName", "iqn.i").with("TargetName", "iqn.t");
    assert_eq!(first(&stay, &known()), LoginStatus::SUCCESS);
    assert_eq!(first(&stay, &Text::default()), LoginStatus::MISSING_PARAMETER);
    let nameless = Text::default().with("InitiatorName", "iqn.i");
    assert_eq!(first(&stay, &nameless), LoginStatus::MISSING_PARAMETER);
    assert_eq!(first(&stay, &nameless.with("TargetName", "iqn.x")), LoginStatus::TARGET_NOT_FOUND);
    assert_eq!(first(&stay, &known().with("SessionType", "Odd")), LoginStatus::SESSION_TYPE_NOT_SUPPORTED);
    assert_eq!(first(&stay, &known().with("AuthMethod", "KRB5")), LoginStatus::AUTHENTICATION_FAILURE);
    assert_eq!(first(&stay, &known().with("MaxBurstLength", "1")), LoginStatus::INITIATOR_ERROR);
    assert_eq!(first(&stay, &known().with("TargetName", "iqn.t")), LoginStatus::INITIATOR_ERROR, "twice");
    let newer = LoginRequest { version_min: 1, ..stay };
    assert_eq!(first(&newer, &known()), LoginStatus::UNSUPPORTED_VERSION);
    let old = LoginRequest { tsih: 5, ..stay };
    assert_eq!(first(&old, &known()), LoginStatus::SESSION_DOES_NOT_EXIST);
    assert_eq!(first(&request(LoginFlags(0x08)), &known()), LoginStatus::INITIATOR_ERROR, "reserved stage");
}

#[test]
fn an_endless_login_is_ended() {
    let mut responder = Responder::new(policy(None), [2; 16], 7);
    let text = Text::default().with("InitiatorName", "iqn.i").with("TargetName", "iqn.t").to_bytes();
    let stay = request(LoginFlags::stay(Stage::Security));
    let mut replies = std::iter::repeat_with(|| responder.handle(&stay, &text));
    assert!(replies.by_ref().take(100).any(|reply| reply.end == End::Failed));
}

#[test]
fn redirections_reach_the_caller() {
    let mut requester = Requester::new(plan());
    let (request, _) = requester.start();
    let reply =
        Responder::new(policy(None), [2; 16], 7).refuse(&request, LoginStatus::TARGET_MOVED_PERMANENTLY);
    let outcome = requester.handle(&reply.response, b"TargetAddress=[::1]:3261,1\0");
    assert!(
        matches!(outcome, Err(LoginError::Redirected { address, permanent: true }) if address == "[::1]:3261,1")
    );
}

proptest! {
    #[test]
    fn any_request_and_any_response_are_judged_without_panic(
        bytes: [u8; 32], more: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..200),
        keys in prop::collection::vec(("(InitiatorName|TargetName|AuthMethod|CHAP_[AINRC]|[A-Z]{3})", "[ -~]{0,12}"), 0..5),
    ) {
        use crate::pdu::Header;
        let mut bhs = [0; 48];
        bhs[..32].copy_from_slice(&bytes);
        bhs[32..].copy_from_slice(&more);
        let text = keys.into_iter().fold(Text::default(), |text, (key, value)| text.with(&key, value)).to_bytes();
        for chap in [None, Some(chap("a", Some("b")))] {
            for data in [&data, &text] {
                let mut responder = Responder::new(policy(chap.clone()), [2; 16], 7);
                let mut request = LoginRequest::parse(&bhs);
                (request.version_min, request.tsih) = (0, 0);
                let _ = responder.handle(&request, data);
                let _ = responder.handle(&request, data);
                let mut requester = Requester::new(LoginPlan { chap: chap.clone(), ..plan() });
                let _ = requester.handle(&LoginResponse::parse(&bhs), data);
            }
        }
    }
}
