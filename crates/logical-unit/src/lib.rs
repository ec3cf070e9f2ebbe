//! A SCSI device server: the complete persistent reservation state machine (SPC-4 5.13) and a block
//! logical unit (SBC-4) over a store. Used by the iSCSI target, the explorer and, later, vhost-user-scsi.
#![forbid(unsafe_code)]
