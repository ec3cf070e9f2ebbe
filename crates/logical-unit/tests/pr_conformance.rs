//! Persistent reservations of the logical unit against SPC-4: transition table, tricky scenarios,
//! random interleavings, profiles. Only the public API is used, as a transport would use it.

#[cfg(test)]
mod pr {
    mod durability;
    mod errors;
    mod harness;
    mod preempt;
    mod profiles;
    mod random;
    mod registration;
    mod reservation;
    mod scenarios;
    mod transitions;
    mod wire;
}
