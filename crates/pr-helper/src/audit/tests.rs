//! What is written, what is left out, what survives rotation, crashes and several writers.

use super::read::GuestReader;
use super::*;
use crate::request::Caller;
use ledger::{HandoverId, LunId};
use scsi::pr::{BasicParameters, Key, OutAction, PrOutCdb, ReservationType, Scope};
use scsi::{AdditionalSense, Completion, Sense, SenseKey, Status};
use std::fs;
use std::io::Write;
use std::time::Duration;
use tempfile::TempDir;

fn observe(audit: &dyn Observer, completion: &Completion, refused: Option<&str>) {
    observe_for(None, audit, completion, refused);
}

fn observe_for(
    handover: Option<HandoverId>,
    audit: &dyn Observer,
    completion: &Completion,
    refused: Option<&str>,
) {
    let kind = ReservationType(5);
    let action = OutAction::RESERVE;
    let cdb = PrOutCdb { action, scope: Scope::LOGICAL_UNIT, kind, parameter_list_length: 24, control: 0 };
    let list = BasicParameters { reservation_key: Key(10), ..BasicParameters::default() };
    audit.pr_out(&PrOutEvent {
        handover,
        vm: "db",
        caller: &Caller { pid: Some(7), uid: 107, gid: 107, name: "qemu\n\"}".into() },
        lun: Some(&LunId("naa.6001".into())),
        node: Some("/dev/sdb"),
        cdb,
        parameters: &list.to_bytes(),
        completion,
        refused,
        took: Duration::from_micros(1500),
    });
}

fn lines(state: &TempDir) -> Vec<Line> {
    let mut reader = GuestReader::open(state.path()).unwrap();
    std::iter::from_fn(|| reader.next_line().unwrap()).collect()
}

fn events(state: &TempDir) -> Vec<Event> {
    let event = |line| match line {
        Line::Event(event) => Some(*event),
        Line::Damaged | Line::Unreadable(_) => None,
    };
    lines(state).into_iter().filter_map(event).collect()
}

fn conflict() -> Completion {
    Completion::status(Status::RESERVATION_CONFLICT)
}

#[test]
fn an_event_says_who_did_what_to_which_device_and_what_came_of_it() {
    let state = tempfile::tempdir().unwrap();
    let sense = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
    observe(
        &Audit::open(state.path(), None).unwrap(),
        &Completion::check(&sense),
        Some("policy, rule 1: no"),
    );
    let told = events(&state).remove(0);
    let expected = Event {
        handover: None,
        schema: 1,
        at: told.at,
        vm: "db".into(),
        pid: Some(7),
        uid: 107,
        name: "qemu\n\"}".into(),
        lun: Some("naa.6001".into()),
        node: Some("/dev/sdb".into()),
        action: "RESERVE".into(),
        kind: Some(5),
        key: Some("0x000000000000000a".into()),
        service_action_key: Some("0x0000000000000000".into()),
        status: "CHECK CONDITION".into(),
        sense: Some(SenseCode { key: 5, asc: 0x20, ascq: 0 }),
        refused: Some("policy, rule 1: no".into()),
        took_us: 1500,
        suppressed: 0,
    };
    assert_eq!(told, expected);
    assert!(told.at > Timestamp(1_700_000_000_000));
}

#[test]
fn a_command_of_a_handover_says_of_which() {
    let state = tempfile::tempdir().unwrap();
    let audit = Audit::open(state.path(), None).unwrap();
    observe_for(Some(HandoverId(0xAB)), &audit, &conflict(), None);
    assert_eq!(events(&state).remove(0).handover.as_deref(), Some("000000000000000000000000000000ab"));
}

#[test]
fn a_flood_of_refusals_is_bounded_and_hides_no_command_that_was_carried_out() {
    let state = tempfile::tempdir().unwrap();
    let audit = Audit::open(state.path(), None).unwrap();
    (0..20_000).for_each(|_| observe(&audit, &conflict(), None));
    observe(&audit, &Completion::good(Vec::new()), None);
    let told = events(&state);
    assert!((500..2000).contains(&told.len()), "{}", told.len());
    assert_eq!(audit.counts().suppressed.get(), 20_001 - told.len() as u64);
    assert_eq!(told.last().unwrap().status, "GOOD");
}

#[test]
fn a_full_file_is_turned_over_and_the_oldest_goes() {
    let state = tempfile::tempdir().unwrap();
    let mut file = AuditFile::open(state.path(), 50).unwrap();
    let event = |took_us| Event { schema: 1, took_us, ..Event::default() };
    (0..10).for_each(|n| file.append(&event(n)).unwrap());
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 5);
    assert_eq!(events(&state).iter().map(|e| e.took_us).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
}

#[test]
fn several_helpers_write_one_file_and_nothing_is_lost_when_it_turns_over() {
    let state = tempfile::tempdir().unwrap();
    let size = 20_000;
    std::thread::scope(|scope| {
        for writer in 0..4_u32 {
            let mut file = AuditFile::open(state.path(), size).unwrap();
            let event = move |took_us| Event { schema: 1, uid: writer, took_us, ..Event::default() };
            scope.spawn(move || (0..100).for_each(|n| file.append(&event(n)).unwrap()));
        }
    });
    let told = events(&state);
    assert!(fs::exists(state.path().join("audit.jsonl.1")).unwrap());
    assert_eq!((told.len(), lines(&state).len()), (400, 400));
}

#[test]
fn a_line_cut_short_by_a_crash_swallows_no_other() {
    let state = tempfile::tempdir().unwrap();
    observe(&Audit::open(state.path(), None).unwrap(), &conflict(), None);
    let path = state.path().join(FILE_NAME);
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"schema\":1,\"at\":3").unwrap();
    observe(&Audit::open(state.path(), None).unwrap(), &conflict(), None);
    let told = lines(&state);
    assert!(matches!(told[..], [Line::Event(_), Line::Damaged, Line::Event(_)]), "{told:?}");
}

#[test]
fn a_reader_follows_growth_and_rotation() {
    let state = tempfile::tempdir().unwrap();
    let mut reader = GuestReader::open(state.path()).unwrap();
    assert_eq!(reader.next_line().unwrap(), None);
    let mut file = AuditFile::open(state.path(), 50).unwrap();
    for took_us in 0..20 {
        let event = Event { schema: 1, took_us, ..Event::default() };
        file.append(&event).unwrap();
        assert_eq!(reader.next_line().unwrap(), Some(Line::Event(Box::new(event))));
        assert_eq!(reader.next_line().unwrap(), None);
    }
}

#[test]
fn a_reader_that_sleeps_through_rotations_misses_no_line_that_is_still_there() {
    let state = tempfile::tempdir().unwrap();
    let mut file = AuditFile::open(state.path(), 500).unwrap();
    let mut write = |times: std::ops::Range<u64>| {
        let event = |took_us| Event { schema: 1, took_us, ..Event::default() };
        times.for_each(|time| file.append(&event(time)).unwrap());
    };
    let mut reader = GuestReader::open(state.path()).unwrap();
    let mut read = || {
        let line = || reader.next_line().unwrap();
        let number = |line| if let Line::Event(event) = line { event.took_us } else { panic!("{line:?}") };
        std::iter::from_fn(line).map(number).collect::<Vec<_>>()
    };
    let mut next = 0;
    for count in [1, 1, 2, 3, 5, 1, 1, 8, 2, 2, 4, 6, 7, 1, 3, 1, 1, 1, 9] {
        write(next..next + count);
        assert_eq!(read(), (next..next + count).collect::<Vec<_>>());
        next += count;
    }
    write(next..next + 100);
    let left = read();
    assert_eq!(left.last(), Some(&(next + 99)));
    // Between the file it had open and the oldest that is left, files are gone.
    let gaps = left.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
    assert!(gaps <= 1 && left.len() > 15, "{left:?}");
}

/// It is read, found without more, gets a last line, and is turned over, before the reader looks again.
#[test]
fn the_last_line_of_a_file_that_is_turned_over_is_read() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join(FILE_NAME);
    let line = |took_us| {
        let event = Event { schema: 1, took_us, ..Event::default() };
        serde_json::to_string(&event).unwrap() + "\n"
    };
    fs::write(&path, line(1)).unwrap();
    let mut reader = GuestReader::open(state.path()).unwrap();
    let mut read = || std::iter::from_fn(|| reader.next_line().unwrap()).count();
    assert_eq!(read(), 1);
    let mut open = fs::OpenOptions::new().append(true).open(&path).unwrap();
    fs::rename(&path, state.path().join(format!("{FILE_NAME}.1"))).unwrap();
    fs::write(&path, line(3)).unwrap();
    open.write_all(line(2).as_bytes()).unwrap();
    open.write_all(b"{\"cut short").unwrap();
    assert_eq!(read(), 3);
}

#[test]
fn the_audits_of_all_guests_are_read_as_one_in_the_order_of_time() {
    let state = tempfile::tempdir().unwrap();
    let mut reader = Reader::open(state.path()).unwrap();
    assert_eq!(reader.next_line().unwrap(), None);
    let write = |guest: &str, times: &[u64]| {
        let directory = state.path().join("guests").join(guest);
        fs::create_dir_all(&directory).unwrap();
        let mut file = AuditFile::open(&directory, 150).unwrap();
        for &time in times {
            file.append(&Event { schema: 1, at: Timestamp(time), ..Event::default() }).unwrap();
        }
    };
    let mut read = || {
        let line = || reader.next_line().unwrap();
        let time = |line| if let Line::Event(event) = line { event.at.0 } else { panic!("{line:?}") };
        std::iter::from_fn(line).map(time).collect::<Vec<_>>()
    };
    write("a", &[1, 4, 6]);
    write("b", &[2, 3, 7]);
    assert_eq!(read(), [1, 2, 3, 4, 6, 7]);
    write("a", &[9]);
    write("c", &[8]);
    assert_eq!(read(), [8, 9]);
}

/// A directory belongs to whom the helper became, who may have been taken over.
#[test]
fn what_a_guests_directory_holds_instead_of_an_audit_hides_no_other_and_holds_nobody_up() {
    let state = tempfile::tempdir().unwrap();
    let place = |guest: &str| {
        let directory = state.path().join("guests").join(guest);
        fs::create_dir_all(&directory).unwrap();
        directory.join(FILE_NAME)
    };
    fs::create_dir(place("directory")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", place("link")).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), kind, mode, 0).unwrap();
    fs::write(state.path().join("guests/file"), "stray").unwrap();
    observe(&Audit::open(place("well").parent().unwrap(), None).unwrap(), &conflict(), None);
    let mut reader = Reader::open(state.path()).unwrap();
    let told: Vec<Line> = std::iter::from_fn(|| reader.next_line().unwrap()).collect();
    let unreadable = |line: &&Line| matches!(line, Line::Unreadable(why) if why.contains("cannot be read"));
    assert_eq!((told.len(), told.iter().filter(unreadable).count()), (4, 3), "{told:?}");
    assert!(matches!(told.last(), Some(Line::Event(_))), "{told:?}");
    assert_eq!(reader.next_line().unwrap(), None, "each is said once");
}

#[test]
fn lines_of_another_version_or_of_any_length_are_damaged_and_harmless() {
    let state = tempfile::tempdir().unwrap();
    let long = "x".repeat(200_000);
    fs::write(state.path().join(FILE_NAME), format!("{{\"schema\":2}}\n{long}\n{{\"schema\":1}}\n")).unwrap();
    let told = lines(&state);
    assert_eq!(told.iter().filter(|line| matches!(line, Line::Event(_))).count(), 1);
    assert_eq!(told.first(), Some(&Line::Damaged));
}

#[test]
fn the_file_is_for_root_alone_and_never_through_a_link() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join(FILE_NAME);
    drop(AuditFile::open(state.path(), 100).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::rename(&path, state.path().join("elsewhere")).unwrap();
    symlink(state.path().join("elsewhere"), &path).unwrap();
    assert!(AuditFile::open(state.path(), 100).is_err());
}
