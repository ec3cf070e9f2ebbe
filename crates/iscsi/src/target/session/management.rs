//! Task management functions (RFC 7143 11.5, SAM-5 clause 7): they end commands of this session here and
//! those of others in the logical unit.

use super::{Out, Session};
use crate::pdu::{
    Bhs, Header, Lun, TaskFunction, TaskManagementRequest, TaskManagementResponse, TaskResponse,
};
use logical_unit::{LogicalUnit, NexusHandle};

impl Session<'_> {
    pub(super) fn task_management(&mut self, bhs: &Bhs, out: &mut Out) {
        let request = TaskManagementRequest::parse(bhs);
        let response = match request.function.code() {
            TaskFunction::ABORT_TASK => self.abort_task(&request),
            TaskFunction::ABORT_TASK_SET => self.on_unit(request.lun, LogicalUnit::abort_task_set),
            TaskFunction::CLEAR_TASK_SET => self.on_unit(request.lun, LogicalUnit::clear_task_set),
            TaskFunction::LOGICAL_UNIT_RESET => self.on_unit(request.lun, |unit, _| unit.reset()),
            TaskFunction::TARGET_WARM_RESET => self.reset_target(),
            TaskFunction::TARGET_COLD_RESET => {
                self.shared.registry.end_others(self.ticket);
                self.closing = true;
                self.reset_target()
            }
            TaskFunction::TASK_REASSIGN => TaskResponse::REASSIGNMENT_NOT_SUPPORTED,
            _ => TaskResponse::FUNCTION_NOT_SUPPORTED,
        };
        // Commands that are gone get no status after the function's response.
        self.sweep(out);
        let response = TaskManagementResponse {
            flags: 0x80,
            response,
            initiator_task_tag: request.initiator_task_tag,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
        };
        self.emit(&response, &[], out);
    }

    fn on_unit(&self, lun: Lun, function: impl Fn(&LogicalUnit, &NexusHandle)) -> TaskResponse {
        let found = lun.number().and_then(|number| {
            let index = usize::try_from(number).ok()?;
            Some((self.shared.device.units().get(index)?, self.nexuses.get(index)?))
        });
        let Some((unit, nexus)) = found else { return TaskResponse::LUN_DOES_NOT_EXIST };
        function(unit, nexus);
        TaskResponse::FUNCTION_COMPLETE
    }

    /// A command that has been executed has been answered too: on one connection nothing overtakes.
    fn abort_task(&mut self, request: &TaskManagementRequest) -> TaskResponse {
        let tag = request.referenced_task_tag;
        if !self.pending.iter().any(|pending| pending.tag == tag && pending.lun == request.lun) {
            return TaskResponse::TASK_DOES_NOT_EXIST;
        }
        self.on_unit(request.lun, |unit, nexus| {
            // Whether it was still waiting does not matter: it is under way here, so it was.
            let _ = unit.abort_task(nexus, tag.into());
        })
    }

    fn reset_target(&self) -> TaskResponse {
        self.shared.device.units().iter().for_each(|unit| unit.target_reset());
        TaskResponse::FUNCTION_COMPLETE
    }
}
