//! Tests of the module above: what one command absorbs, and what it never does.

use super::*;
use crate::action::Side;
use crate::journal::Stage;
use crate::settings::Port;
use scsi::{AdditionalSense, Sense};

const SOURCE: Path = Path::source(0);
const DESTINATION: Path = Path::destination(0);
const CLAIM: Order = Order::Register(Name::Nothing, Name::Guest);
const PROBE: Order = Order::Register(Name::Guest, Name::Guest);

fn settings() -> Settings {
    Settings::new(Some(Key(1)), Key(2), Port::default(), Port::default())
}

/// Runs one command against these outcomes, the last for ever; how often it was sent, and what it came to.
fn run(order: Order, outcomes: &[Outcome]) -> (usize, Answer) {
    let settings = settings();
    let speech = Speech { settings: &settings, key: Key(1), aptpl: false };
    let mut batch = Batch::new([(SOURCE, order)], None);
    let mut sent = 0;
    while let Some(step) = batch.poll(&speech) {
        assert!(matches!(step, Step::Run(ref actions) if actions.len() == 1));
        assert_eq!(batch.poll(&speech), Some(Step::Wait));
        let outcome = outcomes.get(sent).or(outcomes.last()).unwrap().clone();
        batch.complete(CommandId(0), outcome, &settings, Some(Key(1)), &mut Attentions::new());
        sent += 1;
    }
    (sent, batch.take().on(SOURCE).clone())
}

fn done(status: Status) -> Outcome {
    Outcome::Done(Completion::status(status))
}

fn check(key: SenseKey) -> Outcome {
    Outcome::Done(Completion::check(&Sense::new(key, AdditionalSense::NONE)))
}

#[test]
fn what_was_not_executed_is_sent_again_but_not_for_ever() {
    let limit = usize::from(MAX_TRIES) + 1;
    for again in [check(SenseKey::UNIT_ATTENTION), done(Status::BUSY), done(Status::TASK_SET_FULL)] {
        assert_eq!(run(CLAIM, &[again.clone(), done(Status::GOOD)]), (2, Answer::Good));
        assert_eq!(run(CLAIM, &[again]), (limit, Answer::NotSent));
    }
    assert_eq!(run(CLAIM, &[Outcome::NotSent, done(Status::GOOD)]), (2, Answer::Good));
    assert_eq!(run(CLAIM, &[Outcome::NotSent]), (usize::from(MAX_LOST), Answer::NotSent));
}

#[test]
fn what_may_have_been_executed_is_sent_again_only_if_that_tells_as_much() {
    for doubt in [Outcome::Unknown, done(Status::TASK_ABORTED), check(SenseKey::HARDWARE_ERROR)] {
        for order in [CLAIM, Order::Move, Order::Register(Name::Guest, Name::Nothing)] {
            let (sent, answer) = run(order, std::slice::from_ref(&doubt));
            assert!(
                (sent, answer.clone()) == (1, Answer::Unknown) || (sent == 0 && order == Order::Move),
                "{order:?} {answer:?}"
            );
        }
        assert_eq!(run(PROBE, &[doubt.clone(), done(Status::GOOD)]), (2, Answer::Good));
        assert_eq!(run(PROBE, &[doubt]), (usize::from(MAX_LOST), Answer::Unknown));
    }
}

#[test]
fn a_possible_execution_is_not_forgotten_by_a_later_certainty() {
    assert_eq!(run(PROBE, &[Outcome::Unknown, Outcome::NotSent]), (3, Answer::Unknown));
}

#[test]
fn statuses_say_what_the_standard_says() {
    assert_eq!(run(CLAIM, &[done(Status::RESERVATION_CONFLICT)]), (1, Answer::Conflict));
    assert_eq!(run(CLAIM, &[check(SenseKey::ILLEGAL_REQUEST)]), (1, Answer::Rejected));
    assert_eq!(run(CLAIM, &[check(SenseKey::RECOVERED_ERROR)]), (1, Answer::Good));
    let mute = Completion { status: Status::CHECK_CONDITION, sense: Vec::new(), data: Vec::new() };
    assert_eq!(run(CLAIM, &[Outcome::Done(mute)]), (1, Answer::Unknown));
}

#[test]
fn data_that_cannot_be_read_is_a_rejection() {
    for order in [Order::Keys, Order::Reservation, Order::Capabilities, Order::FullStatus] {
        let cut = Outcome::Done(Completion::good(vec![0; 3]));
        assert_eq!(run(order, &[cut]), (1, Answer::Rejected), "{order}");
    }
}

#[test]
fn nothing_is_sent_when_the_entry_could_not_be_written() {
    let settings = settings();
    let speech = Speech { settings: &settings, key: Key(1), aptpl: false };
    let entry = crate::engine::course::Course::new(settings.clone()).entry(Stage::Freeze);
    let mut batch = Batch::new([(DESTINATION, CLAIM)], Some(entry));
    let Some(Step::Run(actions)) = batch.poll(&speech) else { panic!("nothing to do") };
    assert_eq!(actions[0], Action::Journal(entry), "the entry comes first");
    batch.fail_journal();
    assert_eq!(batch.poll(&speech), None);
    let answers = batch.take();
    assert!(answers.journal_failed);
    assert_eq!(*answers.on(DESTINATION), Answer::NotSent);
}

#[test]
fn a_command_that_nobody_can_build_is_a_rejection() {
    let settings = settings();
    let speech = Speech { settings: &settings, key: Key(1), aptpl: false };
    let mut batch = Batch::new([(SOURCE, Order::Move)], None);
    assert_eq!(batch.poll(&speech), None, "the destination's port is not known");
    assert_eq!(*batch.take().on(SOURCE), Answer::Rejected);
}

#[test]
fn only_what_was_executed_counts_for_the_generation() {
    let jobs =
        [(SOURCE, PROBE, Answer::Good), (SOURCE, Order::Register(Name::Guest, Name::Nothing), Answer::Good)];
    let conflict = (DESTINATION, CLAIM, Answer::Conflict);
    let answers = Answers { jobs: jobs.into_iter().chain([conflict]).collect(), journal_failed: false };
    assert_eq!((answers.counted(true), answers.counted(false)), (2, 1));
    assert_eq!(answers.mask(Side::Source, Answer::is_good), 1);
}
