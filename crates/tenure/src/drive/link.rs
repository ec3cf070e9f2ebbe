//! One path: a DEVICE and the nexus to it, which is opened again after the session was lost.

use crate::device::{Device, Opened};
use handover::{CommandId, Outcome, Port};
use nexus::{Nexus, TransportError};
use scsi::{Completion, Request};
use std::time::Duration;

/// What one path is asked to do.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Send a command.
    Command(Request),
    /// Log out for good.
    Close,
    /// Log in.
    Open,
}

/// One path of one host.
#[derive(Debug)]
pub struct Link {
    device: Device,
    timeout: Duration,
    way: Option<Opened>,
    /// Logged out for good: nothing here logs in again unless it is asked to.
    closed: bool,
}

impl Link {
    /// A path that is open already.
    #[must_use]
    pub const fn open(device: Device, timeout: Duration, way: Opened) -> Self {
        Self { device, timeout, way: Some(way), closed: false }
    }

    /// A path that cannot be reached now, or must not be opened before the procedure asks for it.
    #[must_use]
    pub const fn closed(device: Device, timeout: Duration) -> Self {
        Self { device, timeout, way: None, closed: true }
    }

    /// How the path is named on the target.
    #[must_use]
    pub fn port(&self) -> Port {
        let known = || self.way.as_ref().and_then(Nexus::initiator_port);
        Port { initiator: self.device.initiator_port().or_else(known), target_port: None }
    }

    /// Sends one command; it is not logged in again for it after it was closed for good.
    pub fn send(&mut self, request: &Request) -> Outcome {
        self.execute_all(std::slice::from_ref(request)).pop().unwrap_or(Outcome::NotSent)
    }

    /// Does these in order; one outcome for each.
    pub(crate) fn carry_out(&mut self, jobs: &[(CommandId, Job)]) -> Vec<Outcome> {
        let commands: Vec<Request> = jobs
            .iter()
            .filter_map(|(_, job)| if let Job::Command(request) = job { Some(request.clone()) } else { None })
            .collect();
        if commands.len() == jobs.len() {
            return self.execute_all(&commands);
        }
        jobs.iter().map(|(_, job)| self.one(job)).collect()
    }

    fn one(&mut self, job: &Job) -> Outcome {
        match job {
            Job::Command(request) => self.send(request),
            Job::Close => self.close(),
            Job::Open => self.reopen(),
        }
    }

    fn execute_all(&mut self, requests: &[Request]) -> Vec<Outcome> {
        if self.way.is_none() && !self.closed {
            self.reopen();
        }
        let Some(way) = &mut self.way else { return vec![Outcome::NotSent; requests.len()] };
        let outcomes: Vec<Outcome> = way.execute_all(requests).into_iter().map(outcome).collect();
        if outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Done(_))) {
            // The same initiator port logs in anew: the target ends the old session and its commands with it
            // (RFC 7143 6.3.5), so that an unknown outcome cannot change any more.
            self.way = None;
            self.reopen();
        }
        outcomes
    }

    fn close(&mut self) -> Outcome {
        self.closed = true;
        match self.way.take().map(Opened::close) {
            Some(Ok(())) => Outcome::Done(Completion::good(Vec::new())),
            Some(Err(_)) => Outcome::Unknown,
            None => Outcome::NotSent,
        }
    }

    fn reopen(&mut self) -> Outcome {
        match self.device.open(self.timeout) {
            Ok(way) => {
                (self.way, self.closed) = (Some(way), false);
                Outcome::Done(Completion::good(Vec::new()))
            }
            Err(_) => Outcome::NotSent,
        }
    }
}

impl Nexus for Link {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let lost = || std::io::ErrorKind::NotConnected.into();
        match self.send(request) {
            Outcome::Done(completion) => Ok(completion),
            Outcome::NotSent => Err(TransportError::NotSent(lost())),
            Outcome::Unknown => Err(TransportError::OutcomeUnknown(lost())),
        }
    }
}

fn outcome(result: Result<Completion, TransportError>) -> Outcome {
    match result {
        Ok(completion) => Outcome::Done(completion),
        Err(TransportError::NotSent(_)) => Outcome::NotSent,
        Err(TransportError::OutcomeUnknown(_)) => Outcome::Unknown,
    }
}
