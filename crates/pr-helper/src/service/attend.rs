//! A handover's commands, which the agent sends on the guest's nexus (`agent`).
//!
//! - The policy must allow the device to the guest, and `migrate` must be on. What the policy says of service actions and
//!   keys is for the guest: a handover registers keys that no guest knows.
//! - A command that can change what is registered passes if the record says that a handover is under way, and the command is
//!   of this one. The record is read when every other such command, and the guest's, has ended on this nexus. One that waited
//!   for that and was overtaken is not sent: whatever is answered, all is over that came before it.
//! - A query passes for a logical unit of which the guest has a record, while its guest runs too: a plan needs no handover.
//!   During a handover only its own agent may ask, because a question takes unit attentions, and the agent must see those
//!   that say that the guest was fenced. On a host where the guest has never been the agent opens the handover in the record
//!   first.
//!
//! No lock is taken: the agent holds the freeze lock alone. A unit attention goes to the agent, which knows whether it is
//! the guest's and records that it is owed. What this process knew of the nexus is in doubt after a change: it is asked anew
//! before the guest's next PERSISTENT RESERVE OUT.

use super::Service;
use crate::agent::frame::Role;
use crate::agent::{Answer, Attend, Command, allowed};
use crate::opening::{Identity, Opened};
use crate::{Caller, PrOutEvent, RequestEvent, failure};
use guard::{Task, Unsent};
use ledger::HandoverId;
use nexus::{TransportError, unit_attention};
use scsi::Completion;
use scsi::pr::PrOutCdb;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

/// What is told of a command.
struct Told<'a> {
    caller: &'a Caller,
    handover: HandoverId,
    cdb: &'a [u8],
    data_out: &'a [u8],
    identity: Option<&'a Identity>,
    begun: Instant,
}

impl Attend for Service {
    fn attend(&self, caller: &Caller, command: Command) -> Answer {
        let begun = Instant::now();
        let Command { handover, role, cdb, data_out, allocation, fd } = command;
        let mut identity = None;
        let answer = allowed::request(role, &cdb, &data_out, allocation)
            .map_err(|why| Answer::Refused(why.to_string()))
            .and_then(|request| {
                let opened = self.devices.open(fd, role == Role::Change).map_err(unopened)?;
                identity.clone_from(&opened.identity);
                let changes = role == Role::Change;
                self.hand_over(&Task { handover, changes, request, begun }, opened).map_err(Answer::Refused)
            })
            .unwrap_or_else(|answer| answer);
        let identity = identity.as_deref();
        self.tell(&Told { caller, handover, cdb: &cdb, data_out: &data_out, identity, begun }, &answer);
        answer
    }
}

impl Service {
    pub(super) fn hand_over(&self, task: &Task, opened: Opened) -> Result<Answer, String> {
        let Opened { identity, multipath, mut nexus } = opened;
        let identity: Arc<Identity> = identity.ok_or("the device has no name to find its record by")?;
        self.allows(&identity, multipath, task.changes)?;
        match self.on_the_way(&identity, &mut *nexus, |way| self.guard.hand_over(way, task)) {
            Ok(result) => Ok(answer(result)),
            Err(Unsent::Disturbed(ended)) => Ok(unopened(ended)),
            Err(Unsent::Refused(why)) => Err(why),
        }
    }

    /// What is asked of a device, whatever its record says.
    fn allows(&self, identity: &Identity, multipath: bool, changes: bool) -> Result<(), String> {
        let ruling = self.rules.of(&self.vm, &identity.lun, &identity.node);
        ruling.judge_in().map_err(|refusal| refusal.to_string())?;
        if !ruling.migrate() {
            return Err("policy: `migrate` is off for this device".to_owned());
        }
        if multipath && changes {
            return Err("a dm-multipath map: its paths have registrations of their own".to_owned());
        }
        Ok(())
    }

    /// Audit, metrics and log. What a refusal has no status for is told as a guest would have been answered.
    fn tell(&self, told: &Told<'_>, answer: &Answer) {
        let (completion, refused) = match answer {
            Answer::Completion(completion) => (completion, None),
            Answer::Refused(why) => (&failure::not_allowed(), Some(why.as_str())),
            Answer::NotSent(why) => (&failure::not_a_device(), Some(why.as_str())),
            Answer::OutcomeUnknown(_) => (&failure::not_a_device(), None),
        };
        let &Told { caller, handover, cdb, data_out, identity, begun } = told;
        if let Ok(cdb) = PrOutCdb::parse(cdb) {
            self.observer.pr_out(&PrOutEvent {
                vm: &self.vm,
                caller,
                handover: Some(handover),
                lun: identity.map(|identity| &identity.lun),
                node: identity.map(|identity| identity.node.as_str()),
                cdb,
                parameters: data_out,
                completion,
                refused,
                took: begun.elapsed(),
            });
        } else if let Some(why) = refused {
            tracing::warn!(pid = caller.pid, %handover, "a query of the agent was not sent: {why}");
        }
        let mut padded = [0; 16];
        padded.iter_mut().zip(cdb).for_each(|(to, from)| *to = *from);
        self.observer.request(&RequestEvent {
            cdb: &padded,
            completion,
            refused: refused.is_some(),
            took: begun.elapsed(),
        });
    }
}

/// Why a descriptor cannot be used. A unit attention that a question about the device's name took is the agent's like any other;
/// whatever else it answered says nothing of the command, which was not sent.
fn unopened(ended: Completion) -> Answer {
    if unit_attention(&ended).is_some() {
        Answer::Completion(ended)
    } else if ended == failure::not_a_device() {
        Answer::Refused("no SCSI device".to_owned())
    } else if ended == failure::not_allowed() {
        Answer::Refused("no SCSI device opened for writing".to_owned())
    } else {
        let sense = ended
            .decoded_sense()
            .map(|sense| format!(" {:02x}/{:02x}/{:02x}", sense.key.0, sense.code.asc, sense.code.ascq));
        let sense = sense.unwrap_or_default();
        Answer::NotSent(format!("the device does not say which it is: {}{sense}", ended.status))
    }
}

fn answer(result: Result<Completion, TransportError>) -> Answer {
    match result {
        Ok(completion) => Answer::Completion(completion),
        Err(error @ TransportError::NotSent(_)) => Answer::NotSent(told(&error)),
        Err(error @ TransportError::OutcomeUnknown(_)) => Answer::OutcomeUnknown(told(&error)),
    }
}

/// The error and what caused it.
fn told(error: &dyn Error) -> String {
    std::iter::successors(error.source(), |cause| (*cause).source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
