//! Moves a persistent reservation's registration, and what it holds, from one I_T nexus to another without losing
//! it, without harming another registrant and without ever restoring what somebody else removed.
//!
//! [`Tracker`] knows what one nexus has registered and holds. [`Engine`] is the
//! handover, [`Recovery`] what puts an interrupted one in order; both are a
//! [`Procedure`]: events in, actions out. [`Group`] drives those of all logical units of a guest together. There is no clock, thread, socket or randomness here, and every state is
//! `Clone + Eq + Hash`, so that the explorer can search all of them.
#![forbid(unsafe_code)]

pub mod action;
pub mod engine;
pub mod facts;
pub mod group;
pub mod journal;
pub mod known_targets;
pub mod method;
pub mod plan;
pub mod recovery;
pub mod role;
pub mod settings;
mod survey;
pub mod tracker;
pub mod verdict;

pub use action::{Action, CommandId, Event, Outcome, Path, Phase, Procedure, Side, Step};
pub use engine::Engine;
pub use group::{ENGINE_REVISION, Ending, Group, GroupStep, Round, UnitIndex};
pub use journal::Entry;
pub use method::Method;
pub use plan::Plan;
pub use recovery::{Recovery, Remains};
pub use role::Role;
pub use settings::{Port, Settings};
pub use tracker::{Tracked, Tracker, Wants};
pub use verdict::{Cause, Doubt, Reason, Verdict};
