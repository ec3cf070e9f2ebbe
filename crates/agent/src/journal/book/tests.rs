//! The file: what is durable, what is refused, and that one program at a time writes it.

use super::*;
use crate::conduct::Journal as _;
use handover::journal::Stage;
use handover::{Method, Role, Side};
use ledger::HandoverId;
use scsi::pr::Key;
use tempfile::TempDir;

fn begun(id: u128) -> Begun {
    let lun = |name: &str| super::super::Lun {
        lun: name.to_owned(),
        own: Vec::new(),
        peer: Vec::new(),
        key: None,
        nonce: Key(id.try_into().unwrap_or(1)),
        target: None,
    };
    Begun {
        handover: HandoverId(id),
        uuid: "u".into(),
        side: Side::Source,
        peer: "beta".into(),
        luns: vec![lun("naa.1"), lun("naa.2")],
        method: None,
        allow_absence: false,
        stays_paused: false,
        orchestrated: false,
    }
}

fn entry(stage: Stage) -> Entry {
    Entry {
        stage,
        method: Method::SourceNonce,
        key: Key(1),
        nonce: Key(2),
        role: Role::Registrant,
        aptpl: true,
        generation: 9,
        source_paths: 1,
        holder: None,
        destination_had: 0,
        sharers: 0,
    }
}

/// Whether an error is the right one.
type Wanted = fn(&Error) -> bool;

struct Desk {
    state: TempDir,
    journals: Journals,
}

fn desk() -> Desk {
    let state = TempDir::new().unwrap();
    let journals = Journals::new(state.path(), "alpha");
    Desk { state, journals }
}

impl Desk {
    fn file(&self) -> PathBuf {
        self.state.path().join("handovers/vm.log")
    }

    fn begun(&self) -> Book {
        let mut book = self.journals.open("vm").unwrap();
        book.begin(begun(1)).unwrap();
        book
    }
}

const UNIT: UnitIndex = UnitIndex(1);

#[test]
fn a_handover_is_found_again_as_far_as_it_came() {
    let desk = desk();
    let mut book = desk.begun();
    book.entries(3, vec![(UNIT, entry(Stage::Freeze))]).unwrap();
    book.mark(Mark::Taken).unwrap();
    book.mark(Mark::Taken).unwrap();
    book.turn(vec![UNIT]).unwrap();
    drop(book);
    let book = desk.journals.open("vm").unwrap();
    let open = book.open_handover().unwrap();
    assert_eq!(open.begun, begun(1));
    assert_eq!((open.last[&UNIT].entry, open.last[&UNIT].turn), (entry(Stage::Freeze), 0));
    assert_eq!((open.turn(UNIT), open.turn(UnitIndex(0))), (1, 0));
    assert_eq!(open.marks, [Mark::Taken]);
    assert!(open.promises().touched);
    assert_eq!(desk.journals.guests().unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>(), ["vm"]);
    assert_eq!(desk.journals.read("vm").unwrap().handovers().len(), 1);
    assert_eq!(desk.journals.read("nobody").unwrap(), Log::default());
}

#[test]
fn a_second_handover_begins_only_when_the_first_is_over() {
    let desk = desk();
    let mut book = desk.begun();
    assert!(matches!(book.begin(begun(2)), Err(Error::Unfinished(HandoverId(1)))));
    book.end("moved").unwrap();
    assert!(matches!(book.mark(Mark::Go), Err(Error::NoneOpen)));
    assert!(matches!(book.end("again"), Err(Error::NoneOpen)));
    book.begin(begun(2)).unwrap();
    assert!(matches!(book.entries(1, vec![(UnitIndex(2), entry(Stage::Take))]), Err(Error::NoneOpen)));
    assert_eq!(book.handovers().len(), 2);
    assert_eq!(desk.journals.read("vm").unwrap().handovers().len(), 2);
}

#[test]
fn one_program_at_a_time_acts_for_a_guest() {
    let desk = desk();
    let book = desk.begun();
    assert!(matches!(desk.journals.open("vm"), Err(Error::Locked(_))));
    assert!(desk.journals.open("other").is_ok());
    // A process that another thread has just forked has one until it calls exec.
    let _copy = book._lock.0.try_clone().unwrap();
    drop(book);
    assert!(desk.journals.open("vm").is_ok());
}

#[test]
fn half_a_line_is_cut_off_and_the_next_one_stands_in_its_place() {
    let desk = desk();
    let mut book = desk.begun();
    book.mark(Mark::Taken).unwrap();
    drop(book);
    let whole = fs::read(desk.file()).unwrap();
    for torn in [&whole[..whole.len() - 1], &whole[..whole.len() - 20]] {
        fs::write(desk.file(), torn).unwrap();
        let mut book = desk.journals.open("vm").unwrap();
        assert_eq!(book.open_handover().unwrap().marks, []);
        book.mark(Mark::Abort).unwrap();
        drop(book);
        let log = desk.journals.read("vm").unwrap();
        assert_eq!(log.handovers()[0].marks, [Mark::Abort]);
    }
}

#[test]
fn a_journal_of_which_not_even_the_header_was_written_begins_anew() {
    let desk = desk();
    drop(desk.begun());
    let whole = fs::read(desk.file()).unwrap();
    for left in [&b""[..], &whole[..9], &[0; 20]] {
        fs::write(desk.file(), left).unwrap();
        assert_eq!(desk.journals.open("vm").unwrap().handovers(), []);
        assert!(fs::read(desk.file()).unwrap().ends_with(b"\"vm\"}\n"));
    }
}

#[test]
fn damage_the_future_and_other_hosts_are_refused_and_left_as_they_are() {
    let desk = desk();
    drop(desk.begun());
    let whole = String::from_utf8(fs::read(desk.file()).unwrap()).unwrap();
    let cases: [(&str, String, Wanted); 6] = [
        ("damaged", whole.replace("naa.1", "naa.3") + "x\n", |e| matches!(e, Error::Damaged { .. })),
        ("no journal", "hello\n".into(), |e| matches!(e, Error::Damaged { .. })),
        ("no line", "hello".into(), |e| matches!(e, Error::Damaged { .. })),
        ("newer", whole.replacen("handovers 1", "handovers 2", 1), |e| matches!(e, Error::Newer { .. })),
        ("another host's", header("beta", "vm"), |e| matches!(e, Error::Foreign { .. })),
        ("another guest's", header("alpha", "db"), |e| matches!(e, Error::Foreign { .. })),
    ];
    for (what, text, wanted) in cases {
        fs::write(desk.file(), &text).unwrap();
        for error in [desk.journals.open("vm").unwrap_err(), desk.journals.read("vm").unwrap_err()] {
            assert!(wanted(&error) && error.to_string().contains("vm.log"), "{what}: {error}");
        }
        assert_eq!(fs::read_to_string(desk.file()).unwrap(), text, "{what}");
    }
}

#[test]
fn a_long_journal_is_begun_anew_with_the_last_few() {
    let desk = desk();
    let mut book = desk.begun();
    book.end(&"x".repeat(2 << 20)).unwrap();
    for id in 2..20 {
        book.begin(begun(id)).unwrap();
        book.end("moved").unwrap();
    }
    let before = book.handovers().len();
    assert!(fs::metadata(desk.file()).unwrap().len() < 100 << 10, "the long one is gone");
    assert!((8..=19).contains(&before));
    drop(book);
    let mut book = desk.journals.open("vm").unwrap();
    assert_eq!(book.handovers().len(), before);
    assert_eq!(book.handovers().last().unwrap().begun.handover, HandoverId(19));
    book.begin(begun(20)).unwrap();
    assert!(desk.journals.open("vm").is_err(), "the lock outlives the new file");
}

/// A disk that fails at one of its operations, and tells what was asked of it.
#[derive(Default)]
struct Failing {
    told: Vec<&'static str>,
    fails_at: usize,
}

impl Failing {
    fn step(&mut self, what: &'static str) -> io::Result<()> {
        self.told.push(what);
        if self.told.len() == self.fails_at { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Storage for Failing {
    fn cut(&mut self, _: u64) -> io::Result<()> {
        self.step("cut")
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        self.step("write")
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step("sync")
    }
}

#[test]
fn a_line_that_was_not_promised_is_cut_off_durably() {
    let after = |fails_at| {
        let mut disk = Failing { fails_at, ..Failing::default() };
        (append(&mut disk, 100, b"12345").is_ok(), disk.told)
    };
    assert_eq!(after(0), (true, vec!["cut", "write", "sync"]));
    assert_eq!(after(2), (false, vec!["cut", "write", "cut", "sync"]));
    assert_eq!(after(3), (false, vec!["cut", "write", "sync", "cut", "sync"]));
}

#[test]
fn on_a_disk_that_takes_nothing_nothing_is_promised_and_later_it_goes_on() {
    let desk = desk();
    let mut book = desk.begun();
    let good = std::mem::replace(&mut book.file, File::open(desk.file()).unwrap());
    let shared = Arc::new(Mutex::new(book));
    let mut entries = Entries::new(Arc::clone(&shared), vec![UNIT]);
    assert!(entries.append(1, &[(UnitIndex(0), entry(Stage::Freeze))]).is_err());
    assert_eq!(shared.lock().unwrap().open_handover().unwrap().last.len(), 0);
    shared.lock().unwrap().file = good;
    entries.append(1, &[(UnitIndex(0), entry(Stage::Take))]).unwrap();
    assert!(entries.append(1, &[(UnitIndex(1), entry(Stage::Take))]).is_err(), "the group has one unit");
    let log = desk.journals.read("vm").unwrap();
    assert_eq!(log.handovers()[0].last[&UNIT].entry.stage, Stage::Take);
}

#[test]
fn names_that_cannot_be_recorded_are_refused_and_strange_ones_are_not() {
    let desk = desk();
    for bad in ["", "a\0b", &"x".repeat(5000)] {
        assert!(matches!(desk.journals.open(bad), Err(Error::Name)));
    }
    for strange in ["../up", ".hidden", "a/b", &"x".repeat(4000), "ü"] {
        let mut book = desk.journals.open(strange).unwrap();
        book.begin(begun(1)).unwrap();
        assert_eq!(desk.journals.read(strange).unwrap().handovers().len(), 1);
    }
    assert_eq!(fs::read_dir(desk.state.path()).unwrap().count(), 1, "nothing beside the directory");
}
