//! `tenure pr`: one PERSISTENT RESERVE command, its answer as text like `sg_persist`'s or as JSON.

mod answer;
mod command;
mod json;
mod text;

use crate::cli::PrArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use agent::drive::words;
use answer::Answer;
use command::Command;
use nexus::Nexus;
use scsi::{Completion, DataPhase, Request, Sense, SenseKey, Status};

/// Sends the command that `args` name and prints what came back.
///
/// # Errors
/// A usage error, a refusal, or a logical unit that cannot be reached.
pub fn run(args: &PrArgs, console: &mut Console) -> Result<Exit, Failure> {
    let command = Command::from_verb(&args.verb);
    if let Some(question) = &command.question {
        console.confirm(question)?;
    }
    let mut nexus = command.device.open(args.timeout)?;
    let (completion, attentions) = send(&mut nexus, &command, args.retries, console)?;
    let answer = Answer::new(command.reads, &completion);
    if args.json {
        console.json(&json::Document::new(&completion, &attentions, &answer))?;
    } else {
        print(&command, &completion, &answer, console)?;
    }
    Ok(if answer == Answer::Unreadable { Exit::Failed } else { exit_of(completion.status) })
}

fn print(
    command: &Command,
    completion: &Completion,
    answer: &Answer,
    console: &mut Console,
) -> Result<(), Failure> {
    if !completion.status.is_good() {
        console.error(format!("{}: {}", command.name, words::status(completion)));
        return Ok(());
    }
    if matches!(answer, Answer::Unreadable) {
        console.error(format!("{}: the parameter data is malformed", command.name));
    }
    console.data(&text::render(answer))
}

const fn exit_of(status: Status) -> Exit {
    match status {
        Status::GOOD => Exit::Done,
        Status::RESERVATION_CONFLICT => Exit::Conflict,
        _ => Exit::Failed,
    }
}

/// Sends the command; a unit attention means that it was not executed, so it is sent again, bounded.
fn send(
    nexus: &mut dyn Nexus,
    command: &Command,
    retries: u8,
    console: &mut Console,
) -> Result<(Completion, Vec<Sense>), Failure> {
    let mut attentions = Vec::new();
    loop {
        let completion = execute(nexus, &command.request, command.grows)?;
        let Some(sense) = unit_attention(&completion) else { return Ok((completion, attentions)) };
        let left = usize::from(retries).saturating_sub(attentions.len());
        if left == 0 {
            console.warning(format!("unit attention: {}; not sent again", sense.code));
            return Ok((completion, attentions));
        }
        let told = format!(
            "unit attention: {}; the command was not executed and is sent again ({} of {retries})",
            sense.code,
            attentions.len() + 1,
        );
        // 29h is what our own login causes on many targets: nothing that happened to anybody.
        if sense.code.asc == 0x29 {
            console.detail(told);
        } else {
            console.warning(told);
        }
        attentions.push(sense);
    }
}

/// The sense data of a unit attention.
pub(crate) fn unit_attention(completion: &Completion) -> Option<Sense> {
    completion
        .decoded_sense()
        .filter(|sense| completion.status == Status::CHECK_CONDITION && sense.key == SenseKey::UNIT_ATTENTION)
}

/// Sends a read again with the largest buffer if its answer was cut.
fn execute(nexus: &mut dyn Nexus, request: &Request, grows: bool) -> Result<Completion, Failure> {
    let completion = nexus.execute(request).map_err(anyhow::Error::from)?;
    if !(grows && completion.status.is_good() && announced(&completion) > completion.data.len()) {
        return Ok(completion);
    }
    let mut larger = request.clone();
    larger.cdb.splice(7..9, u16::MAX.to_be_bytes());
    larger.data = DataPhase::In(usize::from(u16::MAX));
    Ok(nexus.execute(&larger).map_err(anyhow::Error::from)?)
}

/// Header plus ADDITIONAL LENGTH of READ KEYS, READ RESERVATION and READ FULL STATUS.
fn announced(completion: &Completion) -> usize {
    let length = completion.data.get(4..8).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    length
        .map_or(0, |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX).saturating_add(8))
}

#[cfg(test)]
mod tests;
