//! What is reported of every request: the seam between the service and those who watch (audit, metrics).

use crate::request::Caller;
use ledger::{HandoverId, LunId};
use scsi::Completion;
use scsi::pr::PrOutCdb;
use std::sync::Arc;
use std::time::Duration;

/// A PERSISTENT RESERVE OUT that reached the device, or was refused before it did.
#[derive(Clone, Debug)]
pub struct PrOutEvent<'a> {
    /// Whose record it is: `--vm NAME`, else the socket's path.
    pub vm: &'a str,
    /// Who asked.
    pub caller: &'a Caller,
    /// The handover for which the agent asked; `None`: the guest did.
    pub handover: Option<HandoverId>,
    /// The logical unit, if it could be told.
    pub lun: Option<&'a LunId>,
    /// Its device node, if it has one.
    pub node: Option<&'a str>,
    /// The command.
    pub cdb: PrOutCdb,
    /// Its parameter list, as it came.
    pub parameters: &'a [u8],
    /// What the client was answered.
    pub completion: &'a Completion,
    /// Why it did not reach the device; `None` if the answer is the device's.
    pub refused: Option<&'a str>,
    /// From the complete request to the answer.
    pub took: Duration,
}

/// Any request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct RequestEvent<'a> {
    /// The CDB as it came: its first two bytes name the command.
    pub cdb: &'a [u8; 16],
    /// What the client was answered.
    pub completion: &'a Completion,
    /// It did not reach the device.
    pub refused: bool,
    /// From the complete request to the answer.
    pub took: Duration,
}

/// Watches what passes. Called from many threads; must neither fail nor wait for anybody.
pub trait Observer: Send + Sync {
    /// A PERSISTENT RESERVE OUT was carried out or refused.
    fn pr_out(&self, event: &PrOutEvent<'_>) {
        let _ = event;
    }

    /// A request was answered; told of PERSISTENT RESERVE OUT as well.
    fn request(&self, event: &RequestEvent<'_>) {
        let _ = event;
    }
}

impl Observer for () {}

impl Observer for Vec<Arc<dyn Observer>> {
    fn pr_out(&self, event: &PrOutEvent<'_>) {
        self.iter().for_each(|each| each.pr_out(event));
    }

    fn request(&self, event: &RequestEvent<'_>) {
        self.iter().for_each(|each| each.request(event));
    }
}
