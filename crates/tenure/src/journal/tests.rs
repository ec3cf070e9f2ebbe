//! The journal: what it keeps, what a crash leaves, what damage it refuses.

use super::*;
use handover::journal::Stage;
use handover::{Method, Role};
use scsi::pr::{Key, ReservationType};
use tempfile::TempDir;

fn entry(stage: Stage) -> Entry {
    Entry {
        stage,
        method: Method::SourceNonce,
        key: Key(0xA),
        nonce: Key(0xFFFF_0000_1111_2222),
        role: Role::Holder(ReservationType(5)),
        aptpl: true,
        generation: 9,
        source_paths: 3,
        holder: Some(1),
        destination_had: 2,
        sharers: 1,
    }
}

fn begun(directory: &TempDir) -> JournalFile {
    let mut journal = JournalFile::open(directory.path()).unwrap();
    journal.begin(vec!["/dev/a".into()], vec!["/dev/b".into()]).unwrap();
    journal
}

fn path(directory: &TempDir) -> PathBuf {
    directory.path().join("handover.jsonl")
}

#[test]
fn the_last_entry_of_an_open_handover_is_found_again() {
    let directory = TempDir::new().unwrap();
    let mut journal = begun(&directory);
    journal.append(&entry(Stage::Freeze)).unwrap();
    journal.append(&entry(Stage::Take)).unwrap();
    drop(journal);
    let journal = JournalFile::open(directory.path()).unwrap();
    let unfinished = journal.unfinished().unwrap();
    assert_eq!(unfinished.entry, Some(entry(Stage::Take)));
    assert_eq!(unfinished.from, ["/dev/a"]);
}

#[test]
fn a_finished_handover_leaves_nothing_open() {
    let directory = TempDir::new().unwrap();
    let mut journal = begun(&directory);
    journal.append(&entry(Stage::Freeze)).unwrap();
    journal.end(&Verdict::Moved).unwrap();
    drop(journal);
    assert_eq!(JournalFile::open(directory.path()).unwrap().unfinished(), None);
}

#[test]
fn a_copy_of_the_file_in_a_process_just_forked_keeps_nobody_out() {
    let directory = TempDir::new().unwrap();
    let journal = begun(&directory);
    let _copy = journal.file.try_clone().unwrap();
    assert!(JournalFile::open(directory.path()).is_err(), "it is not locked");
    drop(journal);
    assert!(JournalFile::open(directory.path()).unwrap().unfinished().is_some());
}

#[test]
fn a_line_cut_by_a_crash_is_dropped_and_the_one_before_it_counts() {
    let directory = TempDir::new().unwrap();
    let mut journal = begun(&directory);
    journal.append(&entry(Stage::Freeze)).unwrap();
    journal.append(&entry(Stage::Take)).unwrap();
    drop(journal);
    let text = std::fs::read(path(&directory)).unwrap();
    std::fs::write(path(&directory), &text[..text.len() - 7]).unwrap();
    let mut journal = JournalFile::open(directory.path()).unwrap();
    assert_eq!(journal.unfinished().unwrap().entry, Some(entry(Stage::Freeze)));
    assert!(std::fs::read(path(&directory)).unwrap().ends_with(b"}\n"), "half a line is left");
    journal.append(&entry(Stage::Moved)).unwrap();
    drop(journal);
    let journal = JournalFile::open(directory.path()).unwrap();
    assert_eq!(journal.unfinished().unwrap().entry, Some(entry(Stage::Moved)));
}

#[test]
fn a_line_that_a_full_disk_cut_short_is_not_glued_to_the_next() {
    let directory = TempDir::new().unwrap();
    let mut journal = begun(&directory);
    journal.append(&entry(Stage::Freeze)).unwrap();
    let file = std::mem::replace(&mut journal.file, File::open(path(&directory)).unwrap());
    assert!(journal.append(&entry(Stage::Take)).is_err(), "a file that takes no bytes");
    journal.file = file;
    journal.file.write_all(b"{\"line\":\"entry\",").unwrap();
    journal.append(&entry(Stage::Undo)).unwrap();
    drop(journal);
    let journal = JournalFile::open(directory.path()).unwrap();
    assert_eq!(journal.unfinished().unwrap().entry, Some(entry(Stage::Undo)));
}

/// A disk that fails at one of its operations, and tells what was asked of it.
#[derive(Default)]
struct Failing {
    told: Vec<&'static str>,
    fails_at: usize,
}

impl Failing {
    fn step(&mut self, what: &'static str) -> std::io::Result<()> {
        self.told.push(what);
        if self.told.len() == self.fails_at { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Storage for Failing {
    fn cut(&mut self, _: u64) -> std::io::Result<()> {
        self.step("cut")
    }

    fn write(&mut self, _: &[u8]) -> std::io::Result<()> {
        self.step("write")
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.step("sync")
    }
}

#[test]
fn a_line_that_was_not_promised_is_cut_off_durably() {
    let after = |fails_at| {
        let mut disk = Failing { fails_at, ..Failing::default() };
        let length = append(&mut disk, 100, b"12345").ok();
        (length, disk.told)
    };
    assert_eq!(after(0), (Some(105), vec!["cut", "write", "sync"]));
    assert_eq!(after(2), (None, vec!["cut", "write", "cut", "sync"]));
    assert_eq!(after(3), (None, vec!["cut", "write", "sync", "cut", "sync"]));
}

#[test]
fn a_state_directory_is_made_with_all_that_leads_to_it() {
    let directory = TempDir::new().unwrap();
    let deep = directory.path().join("var/lib/tenure");
    JournalFile::open(&deep).unwrap().begin(vec![], vec![]).unwrap();
    assert!(JournalFile::open(&deep).unwrap().unfinished().is_some());
    std::fs::write(directory.path().join("file"), "").unwrap();
    assert!(JournalFile::open(&directory.path().join("file/state")).is_err());
}

#[test]
fn damage_is_refused_with_the_path_and_the_file_stays_as_it_is() {
    let twice = "{\"line\":\"begin\",\"schema\":1,\"from\":[],\"to\":[]}\n".repeat(2);
    let cases: [(&str, &[u8]); 6] = [
        ("no JSON", b"garbage\n"),
        ("an end of nothing", b"{\"line\":\"end\",\"schema\":1,\"verdict\":\"x\"}\n"),
        ("an impossible schema", b"{\"line\":\"begin\",\"schema\":0,\"from\":[],\"to\":[]}\n"),
        ("two beginnings", twice.as_bytes()),
        ("no text", b"\xFF"),
        ("endless", &vec![b' '; 1 << 21]),
    ];
    for (what, bad) in cases {
        let directory = TempDir::new().unwrap();
        std::fs::write(path(&directory), bad).unwrap();
        let failure = JournalFile::open(directory.path()).unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Refused, "{what}");
        assert!(failure.to_string().contains("handover.jsonl"), "{failure}");
        assert!(failure.to_string().contains("cannot be trusted"), "{failure}");
        assert!(std::fs::read(path(&directory)).unwrap() == bad, "{what} was changed");
    }
}

/// What a newer version writes may have other lines with other fields; the lines before it may be older.
#[test]
fn a_journal_of_a_newer_version_is_not_called_damaged_and_stays_as_it_is() {
    let older = "{\"line\":\"begin\",\"schema\":1,\"from\":[],\"to\":[]}\n";
    let newer = [
        "{\"line\":\"begin\",\"schema\":2,\"from\":[],\"to\":[]}\n".to_owned(),
        "{\"line\":\"pause\",\"schema\":3,\"since\":1}\n".to_owned(),
        format!("{older}{{\"line\":\"entry\",\"schema\":4294967296,\"entry\":[]}}\n"),
    ];
    for text in newer {
        let directory = TempDir::new().unwrap();
        std::fs::write(path(&directory), &text).unwrap();
        let failure = JournalFile::open(directory.path()).unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Refused, "{text}");
        let told = failure.to_string();
        assert!(told.contains("was written by a newer version") && told.contains("update"), "{told}");
        assert!(told.contains("handover.jsonl") && !told.contains("trusted"), "{told}");
        assert_eq!(std::fs::read_to_string(path(&directory)).unwrap(), text);
    }
}

const GOLDEN: &str = include_str!("golden/schema-1.jsonl");

/// The handover that the golden file has, with every field at its widest and, in the last entry, absent.
fn golden() -> [Entry; 2] {
    let first = Entry { generation: u32::MAX, sharers: u16::MAX, ..entry(Stage::Freeze) };
    let last = Entry { role: Role::Registrant, holder: None, aptpl: false, ..entry(Stage::SourceClosed) };
    [first, last]
}

#[test]
fn schema_1_is_read_and_written_as_it_was() {
    let directory = TempDir::new().unwrap();
    let mut journal = JournalFile::open(directory.path()).unwrap();
    let to = "iscsi://127.0.0.1:3260/iqn.2026-11.example.tenure:lab/0?initiator=beta";
    journal.begin(vec!["/dev/a".into(), "/dev/\u{e4}".into()], vec![to.into()]).unwrap();
    golden().iter().for_each(|entry| journal.append(entry).unwrap());
    journal.end(&Verdict::Moved).unwrap();
    drop(journal);
    assert_eq!(std::fs::read_to_string(path(&directory)).unwrap(), GOLDEN, "written as it was");
    let (open, end) = GOLDEN.trim_end().rsplit_once('\n').unwrap();
    assert!(end.contains("\"end\""), "{end}");
    std::fs::write(path(&directory), format!("{open}\n")).unwrap();
    let mut journal = JournalFile::open(directory.path()).unwrap();
    let unfinished = journal.unfinished().unwrap();
    assert_eq!((unfinished.entry, unfinished.from.len()), (Some(golden()[1]), 2), "read as it was");
    assert_eq!(unfinished.to, [to]);
    journal.end(&Verdict::Moved).unwrap();
    drop(journal);
    assert_eq!(std::fs::read_to_string(path(&directory)).unwrap(), GOLDEN, "and written on");
    assert_eq!(parse(GOLDEN).unwrap().1, None);
}

#[test]
fn two_runs_cannot_share_a_journal() {
    let directory = TempDir::new().unwrap();
    let _first = begun(&directory);
    assert_eq!(JournalFile::open(directory.path()).unwrap_err().exit, crate::exit::Exit::Refused);
}

#[test]
fn every_role_and_stage_reads_back() {
    let directory = TempDir::new().unwrap();
    let kind = ReservationType(7);
    let roles = [
        Role::Registrant,
        Role::Unregistered,
        Role::Member(kind),
        Role::AllRegistrants(kind),
        Role::Holder(kind),
        Role::HolderOrSharer(kind),
    ];
    for role in roles {
        let mut journal = begun(&directory);
        let entry = Entry { role, ..entry(Stage::SourceClosed) };
        journal.append(&entry).unwrap();
        drop(journal);
        let journal = JournalFile::open(directory.path()).unwrap();
        assert_eq!(journal.unfinished().unwrap().entry, Some(entry));
    }
}
