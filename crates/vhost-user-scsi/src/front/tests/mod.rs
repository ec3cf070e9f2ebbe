//! Whole requests of a guest through the handler and the queues, and front ends that lie.

mod control;
mod gate;
mod guest;
mod hang;
mod life;
mod request;
