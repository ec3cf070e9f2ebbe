//! Answers as text, close to what people know from `sg_persist`.

use super::answer::Answer;
use scsi::pr::{
    Capabilities, FullStatus, FullStatusDescriptor, ReadKeys, ReadReservation, ReservationType, Scope,
};
use std::fmt::Write;

/// The text for one answer; empty if there is nothing to tell.
pub(super) fn render(answer: &Answer) -> String {
    match answer {
        Answer::Nothing | Answer::Unreadable => String::new(),
        Answer::Keys(keys) => read_keys(keys),
        Answer::Reservation(reservation) => read_reservation(reservation),
        Answer::Capabilities(capabilities) => report_capabilities(capabilities),
        Answer::FullStatus(status) => full_status(status),
    }
}

fn read_keys(answer: &ReadKeys) -> String {
    let generation = answer.generation;
    let mut out = match answer.keys.len() {
        0 => format!("  PR generation={generation:#x}, there are NO registered reservation keys\n"),
        1 => format!("  PR generation={generation:#x}, 1 registered reservation key follows:\n"),
        n => format!("  PR generation={generation:#x}, {n} registered reservation keys follow:\n"),
    };
    for key in &answer.keys {
        let _ = writeln!(out, "    {:#x}", key.0);
    }
    out + cut(answer.truncated)
}

fn read_reservation(answer: &ReadReservation) -> String {
    let generation = answer.generation;
    let Some(held) = answer.reservation else {
        return format!("  PR generation={generation:#x}, there is NO reservation held\n");
    };
    format!(
        "  PR generation={generation:#x}, Reservation follows:\n    Key={:#x}\n    {}\n",
        held.key.0,
        scope_and_type(held.scope, held.kind)
    )
}

fn report_capabilities(answer: &Capabilities) -> String {
    let mut out = String::from("Report capabilities response:\n");
    let flags = [
        ("Replace Lost Reservation Capable(RLR_C)", answer.replace_lost),
        ("Compatible Reservation Handling(CRH)", answer.compatible_reservation_handling),
        ("Specify Initiator Ports Capable(SIP_C)", answer.specify_initiator_ports),
        ("All Target Ports Capable(ATP_C)", answer.all_target_ports),
        ("Persist Through Power Loss Capable(PTPL_C)", answer.persist_capable),
        ("Type Mask Valid(TMV)", answer.type_mask_valid),
    ];
    for (name, set) in flags {
        let _ = writeln!(out, "  {name}: {}", u8::from(set));
    }
    let _ = writeln!(out, "  Allow Commands: {}", answer.allow_commands);
    let _ = writeln!(out, "  Persist Through Power Loss Active(PTPL_A): {}", u8::from(answer.persist_active));
    if answer.type_mask_valid {
        out.push_str("    Support indicated in Type mask:\n");
        for kind in ReservationType::ALL {
            let _ = writeln!(out, "      {kind}: {}", u8::from(answer.supports(kind)));
        }
    }
    out
}

fn full_status(answer: &FullStatus) -> String {
    let generation = answer.generation;
    if answer.descriptors.is_empty() {
        return format!("  PR generation={generation:#x}, no full status descriptors\n")
            + cut(answer.truncated);
    }
    let mut out = format!("  PR generation={generation:#x}\n");
    answer.descriptors.iter().for_each(|registration| out.push_str(&descriptor(registration)));
    out + cut(answer.truncated)
}

fn descriptor(registration: &FullStatusDescriptor) -> String {
    let mut out = format!("    Key={:#x}\n", registration.key.0);
    if registration.all_target_ports {
        out.push_str("      All target ports bit set\n");
    } else {
        let port = registration.relative_target_port;
        let _ = writeln!(out, "      All target ports bit clear\n      Relative port address: {port:#x}");
    }
    match registration.holds {
        Some((scope, kind)) => {
            let _ = writeln!(out, "      << Reservation holder >>\n      {}", scope_and_type(scope, kind));
        }
        None => out.push_str("      not reservation holder\n"),
    }
    let _ = writeln!(out, "      Initiator port: {}", initiator_port(registration));
    out
}

/// The initiator port, or its raw bytes where the target sends what nobody can read.
pub(super) fn initiator_port(registration: &FullStatusDescriptor) -> String {
    match &registration.initiator_port {
        Ok(port) => port.to_string(),
        Err(raw) => raw.iter().fold(String::from("malformed:"), |text, byte| text + &format!("{byte:02x}")),
    }
}

fn scope_and_type(scope: Scope, kind: ReservationType) -> String {
    match scope {
        Scope::LOGICAL_UNIT => format!("scope: LU_SCOPE,  type: {kind}"),
        Scope(other) => format!("scope: {other:#x},  type: {kind}"),
    }
}

const fn cut(truncated: bool) -> &'static str {
    if truncated { "  (cut: the list is longer than one command can return)\n" } else { "" }
}
