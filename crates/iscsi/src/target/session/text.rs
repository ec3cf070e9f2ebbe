//! Text requests in the full feature phase: SendTargets (RFC 7143 appendix C) and a changed data segment limit.

use super::{Out, Refusal, Session, size};
use crate::pdu::{Bhs, Header, Lun, NO_TAG, RejectReason, TextFlags, TextRequest, TextResponse};
use crate::text::Text;

impl Session<'_> {
    pub(super) fn text_request(&mut self, bhs: &Bhs, data: &[u8], out: &mut Out) -> Result<(), Refusal> {
        let request = TextRequest::parse(bhs);
        let invalid = Refusal::Reject(RejectReason::INVALID_PDU_FIELD);
        let more = request.flags.has(TextFlags::CONTINUE);
        let text = self.text.add(data, more).map_err(|_| {
            self.text = Default::default();
            invalid
        })?;
        let answer = match &text {
            Some(text) => self.answer(text).ok_or(invalid)?,
            None => Text::default(),
        }
        .to_bytes();
        // Its initiator takes no more, and nothing that is worth asking has so long an answer.
        if answer.len() > size(self.parameters.max_send) {
            return Err(invalid);
        }
        let goes_on = more || !request.flags.has(TextFlags::FINAL);
        let response = TextResponse {
            flags: TextFlags::FINAL.when(!goes_on),
            lun: Lun::default(),
            initiator_task_tag: request.initiator_task_tag,
            target_transfer_tag: if goes_on { self.transfer_tag() } else { NO_TAG },
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
        };
        self.emit(&response, &answer, out);
        Ok(())
    }

    /// `None` for a value that is not allowed.
    fn answer(&mut self, text: &Text) -> Option<Text> {
        let mut answer = Text::default();
        for (key, value) in text.iter() {
            match key {
                "SendTargets" => self.send_targets(value, &mut answer),
                "MaxRecvDataSegmentLength" => {
                    self.parameters.respond(&self.shared.policy.proposal, key, value).ok()?;
                }
                // Everything else is settled by the login (RFC 7143 13, "use: IO" or "LO").
                _ => answer.push(key, "Reject"),
            }
        }
        Some(answer)
    }

    /// `All` is for discovery sessions; no value means the session's own target.
    fn send_targets(&self, value: &str, answer: &mut Text) {
        let policy = &self.shared.policy;
        let own = value.eq_ignore_ascii_case(policy.target.as_str()) || (value.is_empty() && !self.discovery);
        if own || (value == "All" && self.discovery) {
            answer.push("TargetName", policy.target.as_str());
            answer.push("TargetAddress", format!("{},{}", self.local, policy.portal_group));
        }
    }
}
