//! The leader's end of [`conduct`](crate::conduct) over any [`Link`].

use super::site::{CallError, Link};
use crate::conduct::{Exchange, Lost, Order, Refusal, Reply};
use peer::message::Id;
use std::time::Duration;

/// A link, for one handover that is open on it.
#[derive(Clone, Copy)]
pub(crate) struct Via<'a> {
    pub(crate) link: &'a dyn Link,
    pub(crate) handover: Id,
}

impl Exchange for Via<'_> {
    fn call(&mut self, order: &Order, patience: Duration) -> Result<Result<Reply, Refusal>, Lost> {
        match self.link.call(&order.to_request(self.handover), patience) {
            Ok(answer) => Ok(Reply::from_answer(order, answer).ok_or_else(Refusal::unfit)),
            Err(CallError::Refused(refusal)) => Ok(Reply::from_refusal(order, refusal)),
            Err(lost) => Err(Lost(lost.to_string())),
        }
    }
}
