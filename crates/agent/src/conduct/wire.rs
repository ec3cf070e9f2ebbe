//! Orders and replies in the form in which they travel ([`peer::message`]): lossless both ways, and nothing else.

use super::follower::Refusal;
use super::message::{Ask, Decision, Done, Order, Reply, Report};
use super::{Exchange, Lost};
use handover::{CommandId, Outcome, UnitIndex};
use peer::message::{self, Advance, Bytes, Id, Outcomes, Request, Standing, Word};
use peer::{CallError, Link};
use scsi::{Completion, Status};
use std::time::Duration;

/// The class of the refusal that says that entries are not durable; it does not stop the handover.
const JOURNAL_FAILED: &str = "JournalFailed";

/// A link to the follower's agent, for one handover that is open on it.
#[derive(Debug)]
pub struct PeerExchange<'a> {
    /// The link.
    pub link: &'a Link,
    /// The handover.
    pub handover: Id,
}

impl Exchange for PeerExchange<'_> {
    fn call(&mut self, order: &Order, patience: Duration) -> Result<Result<Reply, Refusal>, Lost> {
        match self.link.call(&order.to_request(self.handover), patience) {
            Ok(reply) => Ok(Reply::from_answer(order, reply).ok_or_else(Refusal::unfit)),
            Err(CallError::Refused(refusal)) => Ok(Reply::from_refusal(order, refusal)),
            Err(lost) => Err(Lost(lost.to_string())),
        }
    }
}

impl Order {
    /// The request that says this.
    #[must_use]
    pub fn to_request(&self, handover: Id) -> Request {
        let advance = Advance {
            handover,
            round: self.round,
            digest: Word(self.digest),
            outcomes: self.reports.iter().map(to_wire).collect(),
            decisions: self.decisions.iter().map(|decision| decision_to_wire(*decision)).collect(),
        };
        match self.ask {
            Ask::Journal => Request::Journal(advance),
            Ask::Round => Request::Round(advance),
            Ask::Stand => Request::Settle(advance),
        }
    }

    /// The order that a request is; `None` if it is none.
    #[must_use]
    pub fn from_request(request: &Request) -> Option<Self> {
        let (ask, advance) = match request {
            Request::Journal(advance) => (Ask::Journal, advance),
            Request::Round(advance) => (Ask::Round, advance),
            Request::Settle(advance) => (Ask::Stand, advance),
            _ => return None,
        };
        Some(Self {
            ask,
            round: advance.round,
            reports: advance.outcomes.iter().map(from_wire).collect(),
            decisions: advance.decisions.iter().map(|decision| decision_from_wire(*decision)).collect(),
            digest: advance.digest.0,
        })
    }
}

impl Reply {
    /// The answer that says this; `digest` is where the follower's group stands.
    ///
    /// # Errors
    /// The refusal that says it: the form of [`Done::JournalFailed`].
    pub fn into_answer(self, digest: u64) -> Result<message::Reply, message::Refusal> {
        let wants_out = self.wants_out;
        Ok(match self.done {
            Done::Journalled => message::Reply::Done(message::Done {}),
            Done::JournalFailed => {
                return Err(message::Refusal::new(JOURNAL_FAILED, "the journal cannot be written"));
            }
            Done::Reports(reports) => {
                let outcomes = reports.iter().map(to_wire).collect();
                message::Reply::Outcomes(Outcomes { round: self.round, outcomes, wants_out })
            }
            Done::Standing => message::Reply::Standing(Standing { digest: Word(digest) }),
        })
    }

    /// The reply that an answer to `order` is; `None` if it is no answer to it.
    pub(crate) fn from_answer(order: &Order, answer: message::Reply) -> Option<Self> {
        let (done, round, wants_out) = match (order.ask, answer) {
            (Ask::Journal, message::Reply::Done(_)) => (Done::Journalled, order.round, false),
            (Ask::Round, message::Reply::Outcomes(told)) => {
                (Done::Reports(told.outcomes.iter().map(from_wire).collect()), told.round, told.wants_out)
            }
            (Ask::Stand, message::Reply::Standing(standing)) if standing.digest.0 == order.digest => {
                (Done::Standing, order.round, false)
            }
            _ => return None,
        };
        Some(Self { round, done, wants_out })
    }

    pub(crate) fn from_refusal(order: &Order, refusal: message::Refusal) -> Result<Self, Refusal> {
        if order.ask == Ask::Journal && refusal.class == JOURNAL_FAILED {
            return Ok(Self { round: order.round, done: Done::JournalFailed, wants_out: false });
        }
        Err(Refusal::Told { class: refusal.class, desc: refusal.desc })
    }
}

impl Refusal {
    /// A reply that is none to what was asked.
    pub(crate) fn unfit() -> Self {
        Self::Told { class: "Unfit".to_owned(), desc: "its reply is not one to what it was asked".to_owned() }
    }
}

impl From<Refusal> for message::Refusal {
    fn from(refusal: Refusal) -> Self {
        let class = match &refusal {
            Refusal::OutOfOrder { .. } => "OutOfOrder",
            Refusal::Disagree(_) => "Disagree",
            Refusal::Misplaced(_) => "Misplaced",
            Refusal::Stopped => "Stopped",
            Refusal::Told { class, .. } => class,
        };
        Self::new(class, refusal.to_string())
    }
}

fn to_wire(report: &Report) -> message::Report {
    let outcome = match &report.outcome {
        Some(Outcome::Done(Completion { status, sense, data })) => {
            let (sense, data) = (Bytes(sense.clone()), Bytes(data.clone()));
            message::Outcome::Done(message::Completion { status: status.0, sense, data })
        }
        Some(Outcome::NotSent) => message::Outcome::NotSent,
        Some(Outcome::Unknown) => message::Outcome::Unknown,
        None => message::Outcome::Dangling,
    };
    message::Report { unit: report.unit.0, id: report.id.0, outcome }
}

fn from_wire(report: &message::Report) -> Report {
    let outcome = match &report.outcome {
        message::Outcome::Done(message::Completion { status, sense, data }) => {
            let (sense, data) = (sense.0.clone(), data.0.clone());
            Some(Outcome::Done(Completion { status: Status(*status), sense, data }))
        }
        message::Outcome::NotSent => Some(Outcome::NotSent),
        message::Outcome::Unknown => Some(Outcome::Unknown),
        message::Outcome::Dangling => None,
    };
    Report { unit: UnitIndex(report.unit), id: CommandId(report.id), outcome }
}

const fn decision_to_wire(decision: Decision) -> message::Decision {
    match decision {
        Decision::JournalFailed => message::Decision::JournalFailed,
        Decision::Proceed => message::Decision::Proceed,
        Decision::Refresh => message::Decision::Refresh,
        Decision::Abort => message::Decision::Abort,
    }
}

const fn decision_from_wire(decision: message::Decision) -> Decision {
    match decision {
        message::Decision::JournalFailed => Decision::JournalFailed,
        message::Decision::Proceed => Decision::Proceed,
        message::Decision::Refresh => Decision::Refresh,
        message::Decision::Abort => Decision::Abort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    fn any_report() -> impl Strategy<Value = Report> {
        let bytes = || vec(any::<u8>(), 0..20);
        let done = (any::<u8>(), bytes(), bytes()).prop_map(|(status, sense, data)| {
            Outcome::Done(Completion { status: Status(status), sense, data })
        });
        let outcome = of(prop_oneof![done, Just(Outcome::NotSent), Just(Outcome::Unknown)]);
        (any::<u16>(), any::<u8>(), outcome).prop_map(|(unit, id, outcome)| Report {
            unit: UnitIndex(unit),
            id: CommandId(id),
            outcome,
        })
    }

    fn any_order() -> impl Strategy<Value = Order> {
        let ask = prop::sample::select(vec![Ask::Journal, Ask::Round, Ask::Stand]);
        let decision = prop::sample::select(vec![
            Decision::JournalFailed,
            Decision::Proceed,
            Decision::Refresh,
            Decision::Abort,
        ]);
        (ask, any::<u64>(), vec(any_report(), 0..4), vec(decision, 0..4), any::<u64>()).prop_map(
            |(ask, round, reports, decisions, digest)| Order { ask, round, reports, decisions, digest },
        )
    }

    proptest! {
        #[test]
        fn an_order_arrives_as_it_was_sent(order in any_order()) {
            prop_assert_eq!(Order::from_request(&order.to_request(Id(7))), Some(order));
        }

        #[test]
        fn a_reply_arrives_as_it_was_sent(order in any_order(), reports in vec(any_report(), 0..4), out in any::<bool>()) {
            let done = match order.ask {
                Ask::Journal => Done::JournalFailed,
                Ask::Round => Done::Reports(reports),
                Ask::Stand => Done::Standing,
            };
            let reply = Reply { round: order.round, done, wants_out: out && order.ask == Ask::Round };
            let heard = match reply.clone().into_answer(order.digest) {
                Ok(answer) => Reply::from_answer(&order, answer),
                Err(refusal) => Reply::from_refusal(&order, refusal).ok(),
            };
            prop_assert_eq!(heard, Some(reply));
        }
    }

    #[test]
    fn a_follower_that_stands_elsewhere_is_not_heard() {
        let order = Order { ask: Ask::Stand, round: 3, reports: vec![], decisions: vec![], digest: 5 };
        let elsewhere = message::Reply::Standing(Standing { digest: Word(6) });
        assert_eq!(Reply::from_answer(&order, elsewhere), None);
    }
}
