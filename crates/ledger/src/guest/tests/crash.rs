//! Crashes and failing writes: a log opens to the state before or after the change that was cut, never to another.

use super::*;

/// The log's bytes, and the records after each number of whole lines.
fn story() -> (Vec<u8>, Vec<(usize, Vec<Record>)>) {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let length = || fs::read(log_path(state.path())).unwrap().len();
    let mut states = vec![(length(), guest.records())];
    let sense = Some(vec![0x70, 0, 6]);
    let owed = |sense| Change::Owed { path: path(), sense };
    let lost = Change::State { state: State::Lost, handover: None, why: Some("it forgot".into()) };
    for change in [seen("/dev/sdb"), intent(5), commit(5), owed(sense), owed(None), lost] {
        guest.append(&[(lun(1), change)]).unwrap();
        states.push((length(), guest.records()));
    }
    (fs::read(log_path(state.path())).unwrap(), states)
}

#[test]
fn every_prefix_opens_to_the_state_before_or_after_the_cut_change() {
    let (bytes, states) = story();
    let state = TempDir::new().unwrap();
    fs::create_dir_all(log_path(state.path()).parent().unwrap()).unwrap();
    for end in 0..=bytes.len() {
        let expected = states
            .iter()
            .rev()
            .find(|(length, _)| *length <= end)
            .map_or(&states[0].1, |(_, records)| records);
        let log = Log::parse(&bytes[..end]).unwrap();
        assert!(log.records().eq(expected), "cut at {end}");
        // The disk is slow: of the cuts inside a line every seventh is tried as a file.
        if end % 7 != 0 && states.iter().all(|(length, _)| end.abs_diff(*length) > 1) {
            continue;
        }
        fs::write(log_path(state.path()), &bytes[..end]).unwrap();
        let guest = open(state.path());
        assert_eq!(&guest.records(), expected, "cut at {end}");
        guest.append(&[(lun(9), commit(9))]).unwrap();
        assert_eq!(open(state.path()).records(), guest.records(), "cut at {end}");
    }
}

#[test]
fn a_last_line_that_never_reached_the_disk_whole_is_cut() {
    let (bytes, states) = story();
    let state = TempDir::new().unwrap();
    open(state.path());
    let (last, _) = states[states.len() - 2];
    let expected = &states[states.len() - 2].1;
    for hole in last..bytes.len() - 1 {
        let mut broken = bytes.clone();
        broken[hole] ^= 0x01;
        assert!(Log::parse(&broken).unwrap().records().eq(expected), "byte {hole}");
    }
    let mut zeros = bytes.clone();
    zeros[last..].fill(0);
    fs::write(log_path(state.path()), &zeros).unwrap();
    assert_eq!(&open(state.path()).records(), expected);
}

#[test]
fn any_other_damage_is_refused() {
    let (bytes, states) = story();
    let last = states[states.len() - 2].0;
    for at in (0..last).filter(|at| bytes[*at] != b'\n') {
        let mut broken = bytes.clone();
        broken[at] ^= 0x01;
        // The header has no checksum: a name of its own protects it.
        let log = Log::parse(&broken);
        assert!(log.is_err() || log.unwrap().owner() != Some(&owner()), "byte {at}");
    }
}

/// What others write can be read before it is durable; if it then fails they cut it, and write something else.
#[test]
fn a_line_that_was_read_and_then_taken_back_is_forgotten() {
    let state = TempDir::new().unwrap();
    let (guest, other) = (open(state.path()), open(state.path()));
    let length = fs::metadata(log_path(state.path())).unwrap().len();
    let log = File::options().write(true).open(log_path(state.path())).unwrap();
    for (lost, kept) in [(1, 2), (3, 0x1234_5678)] {
        other.append(&[(lun(1), commit(lost)), (lun(1), seen("/dev/sdb"))]).unwrap();
        guest.refresh().unwrap();
        log.set_len(length).unwrap();
        let again = open(state.path());
        again.append(&[(lun(1), seen("/dev/sdc")), (lun(1), commit(kept)), (lun(2), commit(kept))]).unwrap();
        guest.refresh().unwrap();
        assert_eq!(guest.records(), again.records());
        log.set_len(length).unwrap();
    }
}

#[test]
fn a_log_that_somebody_cut_is_read_anew() {
    let (bytes, states) = story();
    let state = TempDir::new().unwrap();
    open(state.path());
    fs::write(log_path(state.path()), &bytes).unwrap();
    let guest = open(state.path());
    fs::write(log_path(state.path()), &bytes[..states[2].0]).unwrap();
    guest.refresh().unwrap();
    assert_eq!(guest.records(), states[2].1);
}

#[test]
fn a_crash_in_a_compaction_leaves_the_old_log_in_force() {
    let (bytes, states) = story();
    let state = TempDir::new().unwrap();
    open(state.path());
    fs::write(log_path(state.path()), &bytes).unwrap();
    fs::write(log_path(state.path()).with_file_name("log.new"), &bytes[..70]).unwrap();
    assert_eq!(open(state.path()).records(), states.last().unwrap().1);
}
