//! The order in which a peer may send what it sends about a handover: pure, one for each link on the following side.
//!
//! A certified peer may be compromised. It can act only in a handover that it opened itself on this link, and can ask for
//! nothing but the next step: a message of another handover, a round that was or that is not next, a `go` before a round,
//! anything after the end is refused, and the refused message changes nothing. What a round may contain is not
//! decided here: the follower's own replica of the engine says that.

use crate::message::{Id, Refusal, Request};

/// Where a link stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence {
    open: Option<Open>,
}

/// The handover of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Open {
    handover: Id,
    /// Of the last round that began, its journal included; 0: none.
    round: u64,
    /// The last round's entries were to be made durable, and its commands have not been asked for yet.
    journalled: bool,
    course: Course,
}

/// What may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Course {
    /// Only looking: rounds, but nothing that lasts.
    Planning,
    /// Everything.
    Moving,
    /// An interrupted handover is being put in order: no migration.
    Recovering,
    /// `go` was said: rounds of the phase release, and the end.
    Gone,
    /// `abort` was said: rounds that undo, and the end.
    Undoing,
}

impl Sequence {
    /// A link on which nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { open: None }
    }

    /// The handover that is open.
    #[must_use]
    pub fn handover(&self) -> Option<Id> {
        self.open.map(|open| open.handover)
    }

    /// Takes the request in if it may come now; to be asked before anything is done for it. What then is refused for another
    /// reason has not come, and a copy from before is to be used again; only a step of the replicas counts all the same.
    ///
    /// # Errors
    /// `UnknownHandover` or `OutOfOrder`, and nothing has changed.
    pub fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        match (request, self.open) {
            // The steps of devices may come in any order: each says what it needs, and is refused where that is not so.
            (Request::Ping | Request::State(_) | Request::Device(_), _) => Ok(()),
            // It is led over a link of its own.
            (Request::Take(_), None) => Ok(()),
            (Request::Open(open), None) => {
                let course = if open.options.plan_only { Course::Planning } else { Course::Moving };
                self.begin(open.handover, course)
            }
            (Request::Recover(recover), None) => self.begin(recover.record.handover, Course::Recovering),
            (Request::Open(_) | Request::Recover(_) | Request::Take(_), Some(open)) => {
                Err(out_of_order(request, &format!("handover {} is open on this link", open.handover)))
            }
            (_, None) => Err(unknown(request)),
            (_, Some(open)) if request.handover() != Some(open.handover) => Err(unknown(request)),
            (_, Some(open)) => {
                self.open = open.follow(request)?;
                Ok(())
            }
        }
    }

    fn begin(&mut self, handover: Id, course: Course) -> Result<(), Refusal> {
        self.open = Some(Open { handover, round: 0, journalled: false, course });
        Ok(())
    }
}

impl Open {
    /// What the handover is after this request; `None` after its end.
    fn follow(self, request: &Request) -> Result<Option<Self>, Refusal> {
        if self.journalled && request.advance().is_none() && !matches!(request, Request::Abort(_)) {
            return Err(out_of_order(request, &format!("round {} was journalled and not run", self.round)));
        }
        match request {
            Request::Journal(advance) => self.journal(request, advance.round),
            Request::Round(advance) => self.run(request, advance.round),
            Request::Settle(advance) => self.settle(request, advance.round),
            Request::Close(_) => return Ok(None),
            Request::Abort(_) => self.give_up(request),
            // A recovery may find that everything is there and only `go` is missing.
            Request::Go(_) => {
                self.on(request, &[Course::Moving, Course::Recovering]).map(|open| open.turn(Course::Gone))
            }
            Request::Back(_) => {
                let open = self.on(request, &[Course::Moving, Course::Undoing, Course::Recovering])?;
                Ok(Self { round: 0, ..open })
            }
            Request::Freeze(_) | Request::Incoming(_) => self.on(request, &[Course::Moving]),
            _ => self.on(request, &[Course::Moving, Course::Undoing, Course::Recovering, Course::Gone]),
        }
        .map(Some)
    }

    fn journal(self, request: &Request, round: u64) -> Result<Self, Refusal> {
        if self.course == Course::Planning {
            return Err(out_of_order(request, "this link is only for planning"));
        }
        self.next(request, round).map(|open| Self { journalled: true, ..open })
    }

    fn run(self, request: &Request, round: u64) -> Result<Self, Refusal> {
        match self.journalled {
            true if round == self.round => Ok(Self { journalled: false, ..self }),
            // Entries alone, or entries that are not durable on both hosts, are not followed by commands.
            _ => self.next(request, round).map(|open| Self { journalled: false, ..open }),
        }
    }

    fn settle(self, request: &Request, round: u64) -> Result<Self, Refusal> {
        if round != self.round {
            return Err(self.not_next(request, round, self.round));
        }
        Ok(Self { journalled: false, ..self })
    }

    fn next(self, request: &Request, round: u64) -> Result<Self, Refusal> {
        match self.round.checked_add(1) {
            Some(next) if next == round => Ok(Self { round, ..self }),
            next => Err(self.not_next(request, round, next.unwrap_or(u64::MAX))),
        }
    }

    fn not_next(&self, request: &Request, round: u64, next: u64) -> Refusal {
        let what = if round <= self.round { "a replay" } else { "a gap" };
        out_of_order(request, &format!("round {round} is {what}: {next} is next"))
    }

    fn give_up(self, request: &Request) -> Result<Self, Refusal> {
        if self.course == Course::Gone {
            return Err(out_of_order(request, "go was said"));
        }
        Ok(Self { journalled: false, ..self.turn(Course::Undoing) })
    }

    fn on(self, request: &Request, courses: &[Course]) -> Result<Self, Refusal> {
        let why = match self.course {
            _ if courses.contains(&self.course) => return Ok(self),
            Course::Planning => "this link is only for planning",
            Course::Moving => "the handover is under way",
            Course::Recovering => "the handover is being recovered",
            Course::Gone => "go was said",
            Course::Undoing => "the handover is being undone",
        };
        Err(out_of_order(request, why))
    }

    const fn turn(self, course: Course) -> Self {
        Self { course, ..self }
    }
}

fn out_of_order(request: &Request, why: &str) -> Refusal {
    Refusal::new("OutOfOrder", format!("{} does not belong here: {why}", request.name()))
}

fn unknown(request: &Request) -> Refusal {
    let desc = request.handover().map_or_else(
        || format!("{}: no handover is open on this link", request.name()),
        |id| format!("{}: handover {id} is not open on this link", request.name()),
    );
    Refusal::new("UnknownHandover", desc)
}

#[cfg(test)]
mod tests;
