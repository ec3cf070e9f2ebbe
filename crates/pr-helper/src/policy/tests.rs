//! What a policy allows, how it is refused, and that the published schema tells the same.

use super::*;
use proptest::prelude::*;
use scsi::pr::{BasicParameters, Key, OutAction, PrOutCdb, ReservationType, Scope};
use scsi::{AdditionalSense, Sense, SenseKey, Status};
use std::path::Path;

fn parse(text: &str) -> Result<Rules, PolicyError> {
    Rules::parse(text, Path::new("p.toml"))
}

fn rules(text: &str) -> Rules {
    parse(&format!("version = 1\n{text}")).unwrap()
}

fn wrong(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn cdb(action: OutAction) -> PrOutCdb {
    PrOutCdb {
        action,
        scope: Scope::LOGICAL_UNIT,
        kind: ReservationType(5),
        parameter_list_length: 24,
        control: 0,
    }
}

/// Whether this guest may send this on the disk `naa.6001`.
fn allowed(rules: &Rules, vm: &str, action: OutAction, own: u64, second: u64) -> bool {
    let list = BasicParameters {
        reservation_key: Key(own),
        service_action_key: Key(second),
        ..BasicParameters::default()
    };
    let lun = LunId("naa.6001".into());
    rules.of(vm, &lun, "/dev/sdb").judge_out(&cdb(action), &list.to_bytes()).is_ok()
}

#[test]
fn without_a_policy_everything_is_allowed_and_migrate_is_on() {
    let lun = LunId("naa.6001".into());
    for rules in [Rules::default(), rules("")] {
        let ruling = rules.of("any", &lun, "/dev/sdb");
        assert!(ruling.migrate() && ruling.judge_in().is_ok());
        assert!((0..32).all(|action| ruling.judge_out(&cdb(OutAction(action)), &[]).is_ok()));
    }
}

#[test]
fn a_refusal_is_an_illegal_request_and_never_a_conflict() {
    let rules = rules("default = 'refuse'");
    let refusal = rules.of("a", &LunId("x".into()), "").judge_in().unwrap_err();
    let expected = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
    assert_eq!(refusal.completion().status, Status::CHECK_CONDITION);
    assert_eq!(refusal.completion().decoded_sense(), Some(expected));
    assert_eq!(refusal.to_string(), "policy, default: the device is not for this guest");
}

#[test]
fn the_first_matching_rule_decides_alone() {
    let rules = rules(
        "default = 'refuse'\nmigrate = 'off'\n\
         [[rule]]\nvm = 'db-?'\nlun = ['eui.*', 'naa.6001*']\nmigrate = 'on'\n\
         [[rule]]\nvm = 'db-*'\naccess = 'refuse'\n\
         [[rule]]\nnode = '/dev/sd*'\n",
    );
    let naa = LunId("naa.60012".into());
    let judge = |vm, lun: &LunId, node| {
        let ruling = rules.of(vm, lun, node);
        (ruling.judge_in().is_ok(), ruling.migrate())
    };
    assert_eq!(judge("db-1", &naa, "/dev/sdb"), (true, true));
    assert_eq!(judge("db-10", &naa, "/dev/sdb"), (false, false));
    assert_eq!(judge("web", &naa, "/dev/sdb"), (true, false));
    assert_eq!(judge("web", &naa, "/dev/sg1"), (false, false));
}

#[test]
fn only_listed_actions_pass_and_unknown_codes_never_do() {
    let rules = rules("[[rule]]\nactions = ['register', 'preempt-abort']");
    let passing = (0..32).filter(|action| allowed(&rules, "a", OutAction(*action), 1, 2));
    assert_eq!(passing.collect::<Vec<_>>(), [0, 5]);
}

#[test]
fn a_guest_uses_its_own_keys_alone_and_preempts_whom_it_may() {
    let rules = rules("[[rule]]\nkeys = ['0xa', '0x100/0xff00']\nvictims = ['0xb']");
    let allowed = |action, own, second| allowed(&rules, "a", action, own, second);
    assert!(allowed(OutAction::REGISTER, 0, 0xA) && allowed(OutAction::REGISTER, 0x1FF, 0));
    assert!(!allowed(OutAction::REGISTER, 0, 0xB), "a foreign new key");
    assert!(!allowed(OutAction::REGISTER, 0xB, 0), "unregistering a neighbour on the same nexus");
    assert!(!allowed(OutAction::RELEASE, 0xB, 0) && !allowed(OutAction::CLEAR, 0xB, 0));
    assert!(allowed(OutAction::PREEMPT, 0xA, 0xB) && !allowed(OutAction::PREEMPT, 0xA, 0xC));
    assert!(!allowed(OutAction::PREEMPT_AND_ABORT, 0xC, 0xB));
    assert!(allowed(OutAction::RESERVE, 0xA, 0xDEAD), "the second field does not count in RESERVE");
    assert!(allowed(OutAction::REGISTER_AND_IGNORE, 0xDEAD, 0xA), "nor the first here");
    assert!(!allowed(OutAction::REGISTER_AND_IGNORE, 0xA, 0xDEAD));
    assert!(!allowed(OutAction::REGISTER_AND_MOVE, 0xA, 0xDEAD));
}

#[test]
fn who_may_not_strike_everybody_may_neither_clear_nor_preempt_key_zero() {
    let strikes = |victims: &str| {
        let rules = rules(&format!("[[rule]]\nvictims = {victims}"));
        [OutAction::CLEAR, OutAction::PREEMPT, OutAction::PREEMPT_AND_ABORT]
            .map(|action| allowed(&rules, "a", action, 0xA, 0))
    };
    assert_eq!(strikes("['0xb']"), [false; 3]);
    assert_eq!(strikes("[]"), [false; 3]);
    assert_eq!(strikes("['0xb', '0/0']"), [true; 3]);
    let free = rules("[[rule]]\nkeys = ['0xa']");
    assert!(allowed(&free, "a", OutAction::CLEAR, 0xA, 0) && allowed(&free, "a", OutAction::PREEMPT, 0xA, 0));
}

#[test]
fn a_wrong_policy_is_refused_with_line_column_and_hint() {
    let cases = [
        ("version = 1\n[[rule]]\nvmm = 'a'\n", "p.toml:3:1: unknown key `vmm`", "did you mean `vm`?"),
        ("version = 1\nmigrat = 'on'\n", "p.toml:2:1: unknown key", "did you mean `migrate`?"),
        (
            "version = 1\n[[rule]]\nactions = ['register', 'preemt']\n",
            "p.toml:3:24: unknown word",
            "did you mean `preempt`?",
        ),
        ("version = 1\nmigrate = 'offf'\n", "p.toml:2:11: unknown word", "did you mean `off`?"),
        ("version = 2\n", "p.toml:1:11:", "version 1, not 2"),
        ("migrate = 'on'\n", "p.toml:1:1:", "missing field `version`"),
        ("version = 1\n[[rule]]\nkeys = ['0xg']\n", "p.toml:3:8: `0xg`:", "a reservation key is a number"),
        ("version = 1\n[[rule]]\nvm = 3\n", "p.toml:3:6:", "a pattern or a list of patterns"),
        ("version = 1\nversion = 1\n", "p.toml:2:1:", "duplicate key"),
        ("version = 1\n[[rule\n", "p.toml:2:", ""),
    ];
    for (text, place, hint) in cases {
        let told = wrong(text);
        assert!(told.starts_with(place) && told.contains(hint), "{text}: {told}");
    }
    assert!(!wrong("version = 1\nquite_other = 1\n").contains("did you mean"));
}

#[test]
fn an_absent_file_is_refused_by_name() {
    let error = Rules::load(Path::new("/nonexistent/policy.toml")).unwrap_err();
    assert!(error.to_string().ends_with("/nonexistent/policy.toml"), "{error}");
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("version = 1\n[[rule]]\n{text}"));
    }

    #[test]
    fn no_parameter_list_breaks_the_judge(action in 0u8..32, list in prop::collection::vec(any::<u8>(), 0..40)) {
        let rules = rules("[[rule]]\nkeys = ['1']\nvictims = []");
        let _ = rules.of("a", &LunId("x".into()), "").judge_out(&cdb(OutAction(action)), &list);
    }
}
