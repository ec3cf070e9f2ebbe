//! `tenure pr` against a scripted nexus: what is sent, how often, and what is printed.

use super::*;
use crate::console::Verbosity;
use crate::console::tests::Kept;
use nexus::TransportError;
use scsi::AdditionalSense;
use scsi::pr::{InAction, Key, ReadKeys, ReservationType, request};
use std::collections::VecDeque;

/// Answers from a list and remembers what was sent.
struct Script {
    answers: VecDeque<Completion>,
    sent: Vec<Request>,
}

impl Nexus for Script {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.sent.push(request.clone());
        self.answers
            .pop_front()
            .ok_or_else(|| TransportError::NotSent(std::io::ErrorKind::NotConnected.into()))
    }
}

fn attention() -> Completion {
    Completion::check(&Sense::new(SenseKey::UNIT_ATTENTION, AdditionalSense::RESERVATIONS_PREEMPTED))
}

fn read_keys(device: &agent::drive::Device) -> Command<'_> {
    Command {
        device,
        name: "READ KEYS".into(),
        request: request::read(InAction::READ_KEYS, 16),
        reads: answer::Reads::Keys,
        grows: true,
        question: None,
    }
}

type Sent = Result<(Completion, Vec<Sense>), Failure>;

fn sent(answers: Vec<Completion>, retries: u8) -> (Script, Sent, String) {
    let device = "/dev/null".parse().unwrap();
    let kept = Kept::default();
    let mut console = Console::new(Box::new(std::io::sink()), Box::new(kept.clone()), Verbosity::Normal);
    let mut script = Script { answers: answers.into(), sent: Vec::new() };
    let result = send(&mut script, &read_keys(&device), retries, &mut console);
    (script, result, kept.text())
}

fn keys(count: u64) -> Vec<u8> {
    ReadKeys { generation: 7, keys: (1..=count).map(Key).collect(), truncated: false }.to_bytes()
}

#[test]
fn a_unit_attention_is_reported_and_the_command_sent_again() {
    let (script, result, said) = sent(vec![attention(), Completion::good(keys(1))], 5);
    let (completion, attentions) = result.unwrap();
    assert!(completion.status.is_good());
    assert_eq!((script.sent.len(), attentions.len()), (2, 1));
    assert!(said.contains("RESERVATIONS PREEMPTED") && said.contains("1 of 5"), "{said}");
}

#[test]
fn unit_attentions_without_end_are_not_retried_without_end() {
    let (script, result, said) = sent(vec![attention(); 10], 2);
    assert_eq!(script.sent.len(), 3);
    assert_eq!(exit_of(result.unwrap().0.status), Exit::Failed);
    assert!(said.contains("not sent again"), "{said}");
}

#[test]
fn a_cut_answer_is_read_again_with_the_largest_buffer() {
    let mut cut = keys(9);
    cut.truncate(16);
    let (script, result, _) = sent(vec![Completion::good(cut), Completion::good(keys(9))], 5);
    assert_eq!(result.unwrap().0.data.len(), 8 + 9 * 8);
    assert_eq!(script.sent[1].data, DataPhase::In(65_535));
    assert_eq!(script.sent[1].cdb[7..9], [0xFF, 0xFF]);
}

#[test]
fn a_lost_transport_is_a_failure_not_an_answer() {
    let (_, result, _) = sent(Vec::new(), 5);
    assert_eq!(result.unwrap_err().exit, Exit::Failed);
}

#[test]
fn statuses_have_their_exit_codes() {
    assert_eq!(exit_of(Status::GOOD), Exit::Done);
    assert_eq!(exit_of(Status::RESERVATION_CONFLICT), Exit::Conflict);
    assert_eq!(exit_of(Status::BUSY), Exit::Failed);
}

#[test]
fn the_field_pointer_is_told() {
    let sense = scsi::FieldError::cdb_bit(2, 3).sense();
    let told = words::status(&Completion::check(&sense));
    assert_eq!(told, "CHECK CONDITION, ILLEGAL REQUEST: INVALID FIELD IN CDB (24/00), CDB byte 2 bit 3");
}

#[test]
fn keys_in_json_have_sixteen_digits_and_the_document_a_schema() {
    let completion = Completion::good(keys(1));
    let answer = Answer::new(answer::Reads::Keys, &completion);
    let document = serde_json::to_value(json::Document::new(&completion, &[], &answer)).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["keys"][0], "0x0000000000000001");
    assert_eq!(document["status"], "GOOD");
    assert!(document["sense"].is_null());
}

#[test]
fn no_reservation_is_null_and_not_absent() {
    let completion = Completion::good(vec![0, 0, 0, 1, 0, 0, 0, 0]);
    let answer = Answer::new(answer::Reads::Reservation, &completion);
    let document = serde_json::to_value(json::Document::new(&completion, &[], &answer)).unwrap();
    assert_eq!(document.get("reservation"), Some(&serde_json::Value::Null));
}

#[test]
fn malformed_parameter_data_is_not_taken_for_an_empty_list() {
    assert_eq!(Answer::new(answer::Reads::Keys, &Completion::good(vec![0; 3])), Answer::Unreadable);
}

#[test]
fn text_is_like_sg_persist() {
    let completion = Completion::good(keys(2));
    let told = text::render(&Answer::new(answer::Reads::Keys, &completion));
    assert_eq!(told, "  PR generation=0x7, 2 registered reservation keys follow:\n    0x1\n    0x2\n");
    let kind = ReservationType(5);
    let held = scsi::pr::Reservation { key: Key(0xA), scope: scsi::pr::Scope(0), kind };
    let read = scsi::pr::ReadReservation { generation: 2, reservation: Some(held) };
    let told = text::render(&Answer::Reservation(read));
    let expected = "  PR generation=0x2, Reservation follows:\n    Key=0xa\n    \
                    scope: LU_SCOPE,  type: Write Exclusive - Registrants Only\n";
    assert_eq!(told, expected);
}
