//! Golden bytes from virtio 1.2 5.6, and round trips.

use super::*;
use proptest::prelude::*;

const CONFIG: Config = Config {
    num_queues: 4,
    seg_max: 126,
    max_sectors: 0xFFFF,
    cmd_per_lun: 128,
    event_info_size: 16,
    sense_size: 96,
    cdb_size: 32,
    max_channel: 0,
    max_target: 255,
    max_lun: 16383,
};

#[test]
fn the_configuration_space_byte_by_byte() {
    let bytes = CONFIG.to_bytes();
    let golden = [
        4, 0, 0, 0, 126, 0, 0, 0, 0xFF, 0xFF, 0, 0, 128, 0, 0, 0, 16, 0, 0, 0, 96, 0, 0, 0, 32, 0, 0, 0, 0,
        0, 255, 0, 0xFF, 0x3F, 0, 0,
    ];
    assert_eq!(bytes, golden);
    assert_eq!(Config::parse(&bytes), Ok(CONFIG));
    assert!(Config::parse(&bytes[..35]).is_err());
}

#[test]
fn the_configuration_space_is_read_in_any_piece() {
    assert_eq!(CONFIG.read(0, 36).unwrap(), CONFIG.to_bytes());
    assert_eq!(CONFIG.read(21, 2).unwrap(), [0, 0]);
    assert_eq!(CONFIG.read(30, 1).unwrap(), [255]);
    let all = CONFIG.read(0, 256).unwrap();
    assert_eq!((all.len(), &all[..36], &all[36..]), (256, &CONFIG.to_bytes()[..], &[0; 220][..]));
    assert!(CONFIG.read(256, 0).unwrap().is_empty());
    for (offset, length) in [(0, 257), (256, 1), (u32::MAX, 1), (1, u32::MAX)] {
        assert!(CONFIG.read(offset, length).is_err(), "{offset} {length}");
    }
}

#[test]
fn the_driver_writes_two_fields_and_no_others() {
    let written = CONFIG.written(20, &[18, 0, 0, 0, 16, 0, 0, 0]).unwrap();
    assert_eq!(written, Config { sense_size: 18, cdb_size: 16, ..CONFIG });
    assert_eq!(CONFIG.written(0, &CONFIG.to_bytes()), Ok(CONFIG), "the same is no change");
    assert_eq!(CONFIG.written(21, &[1]).unwrap().sense_size, 0x160, "a piece of a field");
    assert_eq!(CONFIG.written(0, &[5]), Err(Error::ReadOnly));
    assert_eq!(CONFIG.written(19, &[1, 96]), Err(Error::ReadOnly));
    assert_eq!(CONFIG.written(22, &[1]), Err(Error::Size(0x1_0060)));
    for size in [0, 5, 261, u32::MAX] {
        assert_eq!(CONFIG.written(24, &size.to_le_bytes()), Err(Error::Size(size)));
    }
    assert!(CONFIG.written(24, &260_u32.to_le_bytes()).is_ok());
    assert!(matches!(CONFIG.written(35, &[0, 0]), Err(Error::ConfigRange { .. })));
    assert!(matches!(CONFIG.written(u32::MAX, &[0]), Err(Error::ConfigRange { .. })));
}

#[test]
fn a_request_byte_by_byte() {
    let header = RequestHeader {
        lun: [1, 0, 0x40, 5, 0, 0, 0, 0],
        id: 0x1122_3344_5566_7788,
        attribute: TaskAttribute::ORDERED,
        priority: 7,
        crn: 9,
    };
    let request = Request { header, cdb: &[0x28, 0, 0, 0] };
    let bytes = request.to_bytes(32);
    assert_eq!(bytes.len(), 51);
    let golden =
        [1, 0, 0x40, 5, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1, 7, 9, 0x28, 0, 0, 0];
    assert_eq!(bytes[..23], golden);
    let parsed = Request::parse(&bytes, 32).unwrap();
    assert_eq!((parsed.header, parsed.cdb.len()), (header, 32));
    assert_eq!(Request::parse(&bytes[..50], 32), Err(Error::Short { needed: 51, length: 50 }));
    assert!(Request::parse(&bytes, u32::MAX).is_err());
}

#[test]
fn a_response_byte_by_byte() {
    let response = Response {
        sense_length: 18,
        residual: 0x0102_0304,
        status_qualifier: 0x0506,
        status: 2,
        response: ResponseCode::OVERRUN,
    };
    assert_eq!(response.to_bytes(), [18, 0, 0, 0, 4, 3, 2, 1, 6, 5, 2, 1]);
    assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
    assert_eq!(Response::length(96), 108);
}

#[test]
fn control_requests_byte_by_byte() {
    let lun = [1, 0, 0, 3, 0, 0, 0, 0];
    let reset = Control::TaskManagement { subtype: Subtype::LOGICAL_UNIT_RESET, lun, id: 0x0A0B };
    let golden = [0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0, 0, 0x0B, 0x0A, 0, 0, 0, 0, 0, 0];
    assert_eq!(reset.to_bytes(), golden);
    assert_eq!(Control::parse(&golden), Ok(reset));
    assert_eq!(reset.answer(ResponseCode::FUNCTION_REJECTED), [11]);
    let query = Control::Query { lun, events: AsyncEvents::MEDIA_CHANGE };
    assert_eq!(query.to_bytes(), [1, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0, 0, 16, 0, 0, 0]);
    assert_eq!(Control::parse(&query.to_bytes()), Ok(query));
    assert_eq!(query.answer(ResponseCode::OK), [0; 5]);
    let reply = AsyncReply { events: AsyncEvents(6), response: ResponseCode::BAD_TARGET };
    assert_eq!(AsyncReply::parse(&reply.to_bytes()), Ok(reply));
    assert_eq!(Control::parse(&[3, 0, 0, 0]), Err(Error::ControlType(3)));
    for length in 0..24 {
        assert!(Control::parse(&golden[..length]).is_err(), "{length}");
    }
}

#[test]
fn events_byte_by_byte() {
    let lun = Lun::Unit { target: 0, address: Address::Number(300) };
    let event = Event::of(lun, EventKind::PARAM_CHANGE, Reason::sense(0x2A, 0x09));
    let golden = [3, 0, 0, 0, 1, 0, 0x41, 0x2C, 0, 0, 0, 0, 0x2A, 0x09, 0, 0];
    assert_eq!(event.to_bytes(), golden);
    assert_eq!(Event::parse(&golden), Ok(event));
    assert_eq!(event.after_missed().to_bytes()[..4], [3, 0, 0, 0x80]);
    assert!(Event::parse(&golden[..15]).is_err());
}

#[test]
fn luns_as_drivers_send_them() {
    let parse = |first: [u8; 4]| Lun::parse(&join(&[&first, &[0; 4]]));
    let unit = |target, number| Ok(Lun::Unit { target, address: Address::Number(number) });
    assert_eq!(parse([1, 0, 0x40, 0]), unit(0, 0), "Linux");
    assert_eq!(parse([1, 7, 0x40, 255]), unit(7, 255));
    assert_eq!(parse([1, 0, 0x7F, 0xFF]), unit(0, 16383));
    assert_eq!(parse([1, 0, 0, 5]), unit(0, 5), "Windows");
    let well_known = Lun::Unit { target: 3, address: Address::WellKnown(1) };
    assert_eq!(parse([1, 3, 0xC1, 1]), Ok(well_known));
    assert_eq!(parse([0xC1, 1, 0, 0]), Ok(Lun::ReportLuns));
}

#[test]
fn what_is_no_lun_is_told_apart() {
    let parse = |first: [u8; 4]| Lun::parse(&join(&[&first, &[0; 4]])).unwrap_err();
    assert_eq!(parse([0, 0, 0, 0]), Error::LunFormat(0));
    assert_eq!(parse([2, 0, 0, 0]), Error::LunFormat(2));
    assert_eq!(parse([1, 0, 1, 0]), Error::LunBus(1));
    assert_eq!(parse([1, 0, 0x3F, 0]), Error::LunBus(0x3F));
    assert_eq!(parse([1, 0, 0x80, 0]), Error::LunMethod(0x80));
    assert_eq!(parse([1, 0, 0xD2, 0]), Error::LunMethod(0xD2));
    assert_eq!(parse([0xC1, 2, 0, 0]), Error::LunMethod(2));
    assert_eq!(Lun::parse(&[1, 0, 0, 0, 0, 0, 0, 1]), Err(Error::LunLevels));
}

fn lun() -> impl Strategy<Value = Lun> {
    let address =
        prop_oneof![(0..=16383_u16).prop_map(Address::Number), any::<u8>().prop_map(Address::WellKnown)];
    let unit = (any::<u8>(), address).prop_map(|(target, address)| Lun::Unit { target, address });
    prop_oneof![Just(Lun::ReportLuns), unit]
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(lun in lun(), bytes: [u8; 36], cdb_size in 6..=260_u32) {
        prop_assert_eq!(Lun::parse(&lun.to_bytes()), Ok(lun));
        prop_assert_eq!(&Config::parse(&bytes).unwrap().to_bytes(), &bytes);
        prop_assert_eq!(&RequestHeader::parse(&bytes).unwrap().to_bytes()[..], &bytes[..19]);
        prop_assert_eq!(&Response::parse(&bytes).unwrap().to_bytes()[..], &bytes[..12]);
        prop_assert_eq!(&Event::parse(&bytes).unwrap().to_bytes()[..], &bytes[..16]);
        prop_assert_eq!(&AsyncReply::parse(&bytes).unwrap().to_bytes()[..], &bytes[..5]);
        let header = RequestHeader::parse(&bytes).unwrap();
        let written = Request { header, cdb: &bytes }.to_bytes(cdb_size);
        let cdb: Vec<u8> = bytes.iter().copied().chain([0; 260]).take(cdb_size as usize).collect();
        prop_assert_eq!(Request::parse(&written, cdb_size), Ok(Request { header, cdb: &cdb }));
    }

    #[test]
    fn control_requests_are_what_they_were(kind in 0..4_u32, rest: [u8; 20]) {
        let bytes: [u8; 24] = join(&[&kind.to_le_bytes(), &rest]);
        if let Ok(control) = Control::parse(&bytes) {
            let written = control.to_bytes();
            prop_assert_eq!(&written[..], &bytes[..written.len()]);
        }
    }

    #[test]
    fn a_lun_of_any_bytes_is_refused_or_names_one_unit(bytes: [u8; 8]) {
        if let Ok(lun) = Lun::parse(&bytes) {
            prop_assert_eq!(Lun::parse(&lun.to_bytes()), Ok(lun));
        }
    }
}
