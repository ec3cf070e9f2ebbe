//! Taking unit attentions out of the way, for callers who know that nobody else waits for them.

use crate::{Nexus, TransportError};
use scsi::{AdditionalSense, Completion, Request, SenseKey};

/// A completion, and the unit attentions that were delivered before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attended {
    /// The last answer; still a unit attention if the limit was reached.
    pub completion: Completion,
    /// Every unit attention in the order of delivery, the one in `completion` included. The logical unit
    /// has forgotten them: whoever else should know must be told.
    pub attentions: Vec<AdditionalSense>,
}

/// The unit attention that a completion reports.
#[must_use]
pub fn unit_attention(completion: &Completion) -> Option<AdditionalSense> {
    let sense = completion.decoded_sense()?;
    let current = completion.status == scsi::Status::CHECK_CONDITION && !sense.deferred;
    (current && sense.key == SenseKey::UNIT_ATTENTION).then_some(sense.code)
}

/// Sends `request`, and again while a unit attention comes back, at most `retries` times. A command that
/// reports a unit attention was not executed (SAM-5 5.14), so nothing happens twice.
///
/// # Errors
/// [`TransportError`] if one of the attempts has no completion. Attempts before it were not executed.
pub fn retry_unit_attention(
    nexus: &mut dyn Nexus,
    request: &Request,
    retries: usize,
) -> Result<Attended, TransportError> {
    let mut attentions = Vec::new();
    loop {
        let completion = nexus.execute(request)?;
        let attention = unit_attention(&completion);
        attentions.extend(attention);
        if attention.is_none() || attentions.len() > retries {
            return Ok(Attended { completion, attentions });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::{DataPhase, Sense, Status};

    /// Answers with what is left of a script, then GOOD.
    struct Scripted(Vec<Completion>);

    impl Nexus for Scripted {
        fn execute(&mut self, _: &Request) -> Result<Completion, TransportError> {
            Ok(self.0.pop().unwrap_or(Completion::good(vec![])))
        }
    }

    fn attention(code: AdditionalSense) -> Completion {
        Completion::check(&Sense::unit_attention(code))
    }

    fn run(answers: Vec<Completion>, retries: usize) -> Attended {
        let request = Request { cdb: vec![0; 6], data: DataPhase::None };
        retry_unit_attention(&mut Scripted(answers), &request, retries).unwrap()
    }

    #[test]
    fn attentions_are_taken_and_reported_in_order() {
        let (reset, preempted) = (AdditionalSense::POWER_ON, AdditionalSense::RESERVATIONS_PREEMPTED);
        let ended = run(vec![attention(preempted), attention(reset)], 3);
        assert_eq!(ended.completion.status, Status::GOOD);
        assert_eq!(ended.attentions, [reset, preempted]);
    }

    #[test]
    fn an_endless_source_of_attentions_ends_at_the_limit() {
        let ended = run(vec![attention(AdditionalSense::POWER_ON); 9], 2);
        assert_eq!(unit_attention(&ended.completion), Some(AdditionalSense::POWER_ON));
        assert_eq!(ended.attentions.len(), 3);
    }

    #[test]
    fn other_answers_are_final() {
        let conflict = Completion::status(Status::RESERVATION_CONFLICT);
        assert_eq!(run(vec![conflict.clone()], 3).completion, conflict);
        let deferred = Sense { deferred: true, ..Sense::unit_attention(AdditionalSense::POWER_ON) };
        assert!(run(vec![Completion::check(&deferred)], 3).attentions.is_empty());
    }
}
