//! START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, SEND DIAGNOSTIC, READ DEFECT DATA: what little they mean
//! to a medium that cannot be removed, does not spin and has no defects.

use super::Disk;
use super::refusal::{Answer, cut};
use scsi::FieldError;
use scsi::block::{Form, PreventAllow, ReadDefectData, SendDiagnostic, StartStop};
use std::sync::atomic::Ordering;

impl Disk {
    /// START STOP UNIT (SBC-4 5.25). A stopped unit refuses medium access until somebody starts it. The
    /// power conditions active, idle and standby are all the same here.
    pub(super) fn start_stop(&self, command: &StartStop) -> Answer {
        match command.power_condition {
            0 => {}
            1..=3 | 7 | 0xA | 0xB => return Ok(Vec::new()),
            _ => return Err(FieldError::cdb_bit(4, 7).into()),
        }
        if command.load_eject {
            return Err(FieldError::cdb_bit(4, 1).into());
        }
        if !command.start && !command.no_flush {
            self.flush()?;
        }
        self.stopped.store(!command.start, Ordering::Release);
        Ok(Vec::new())
    }

    /// PREVENT ALLOW MEDIUM REMOVAL: nobody can remove the medium anyway.
    pub(super) fn prevent_allow(&self, command: &PreventAllow) -> Answer {
        if command.prevent > 1 { Err(FieldError::cdb_bit(4, 1).into()) } else { Ok(Vec::new()) }
    }

    /// SEND DIAGNOSTIC: the default self-test asks the store for everything it has cached; other tests and
    /// diagnostic pages do not exist (SPC-4 6.42).
    pub(super) fn send_diagnostic(&self, command: &SendDiagnostic) -> Answer {
        if command.self_test_code != 0 {
            return Err(FieldError::cdb_bit(1, 7).into());
        }
        if command.length != 0 {
            return Err(FieldError::cdb(3).into());
        }
        if command.self_test {
            self.flush()?;
        }
        Ok(Vec::new())
    }

    /// READ DEFECT DATA(10/12): the lists are empty (SBC-4 5.18, 5.19).
    pub(super) fn read_defect_data(&self, command: &ReadDefectData) -> Answer {
        let lists = u8::from(command.primary) << 4 | u8::from(command.grown) << 3 | command.format;
        let header = if command.form == Form::Ten { 4 } else { 8 };
        let mut data = vec![0, lists];
        data.resize(header, 0);
        cut(data, command.allocation_length)
    }
}
