//! Everything that virtio-scsi's queues and configuration space carry, and LUNs.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use vhost_user_scsi::wire::{
    AsyncReply, Config, Control, Event, Lun, Request, RequestHeader, ResponseCode, Response,
};

fuzz_target!(|bytes: &[u8]| {
    settles(bytes, |bytes| RequestHeader::parse(bytes).ok(), |header| header.to_bytes().to_vec());
    settles(bytes, |bytes| Response::parse(bytes).ok(), |response| response.to_bytes().to_vec());
    settles(bytes, |bytes| Event::parse(bytes).ok(), |event| event.to_bytes().to_vec());
    settles(bytes, |bytes| AsyncReply::parse(bytes).ok(), |reply| reply.to_bytes().to_vec());
    let lun = |bytes: &[u8]| Lun::parse(bytes.first_chunk()?).ok();
    settles(bytes, lun, |lun| lun.to_bytes().to_vec());
    if let Some(control) = settles(bytes, |bytes| Control::parse(bytes).ok(), Control::to_bytes) {
        assert_eq!(control.answer(ResponseCode::BAD_TARGET).last(), Some(&ResponseCode::BAD_TARGET.0));
    }
    if let Some((&[low, high], rest)) = bytes.split_first_chunk() {
        request(u16::from_le_bytes([low, high]).into(), rest);
        config(u32::from(low), usize::from(high), rest);
    }
});

fn request(cdb_size: u32, bytes: &[u8]) {
    let Ok(request) = Request::parse(bytes, cdb_size) else { return };
    assert_eq!(request.cdb.len(), cdb_size as usize);
    assert!(bytes.starts_with(&request.to_bytes(cdb_size)));
}

/// A space of any content, read and written anywhere: only what the driver may write is ever different.
fn config(offset: u32, length: usize, bytes: &[u8]) {
    let Ok(config) = Config::parse(bytes) else { return };
    assert!(bytes.starts_with(&config.to_bytes()));
    if let Ok(read) = config.read(offset, length as u32) {
        assert_eq!(read.len(), length);
    }
    let data = &bytes[..length.min(bytes.len())];
    if let Ok(new) = config.written(offset, data) {
        let same = Config { sense_size: config.sense_size, cdb_size: config.cdb_size, ..new };
        assert_eq!(same, config);
        assert_eq!(new.read(offset, data.len() as u32).as_deref(), Ok(data));
    }
}
