//! A whole device, in this process, with a front end and a guest that lie in every message, ring, descriptor and command: the device is
//! there for the next one. Around the lies are truths enough to get far: memory is shared, rings are started, commands are well formed.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use logical_unit::LogicalUnit;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use vhost_user_scsi::device::{Device, Phase, Settings};
use vhost_user_scsi::front::{Stop, serve};
use vhost_user_scsi::unit::emulated::{Emulated, initiator_port};

/// Guest memory; rings have a page each, the rest is buffers.
const MEMORY: u64 = 1 << 18;
const RING: u64 = 0x1000;
const BUFFERS: u64 = 0x10000;
const USER: u64 = 0x7F00_0000_0000;
const SIZE: u16 = 32;
/// Control, event, two request queues.
const RINGS: u32 = 4;
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Arbitrary, Debug)]
enum Act {
    /// A well-formed request.
    Command { ring: u8, lun: u8, cdb: [u8; 16], out: u16, room: u16, cut: u8 },
    /// A task management function.
    Manage { function: u8, lun: u8, tag: u8 },
    /// Anything anywhere in memory.
    Write { at: u16, bytes: Vec<u8> },
    /// How much a ring offers.
    Offer { ring: u8, index: u16 },
    Kick { ring: u8 },
    /// GET_VRING_BASE, and the ring again.
    Restart { ring: u8, base: u16 },
    /// Any message.
    Message { code: u8, payload: Vec<u8>, descriptors: u8, reply: bool },
    /// The file that the memory is in gets shorter.
    Truncate { pages: u8 },
}

#[derive(Arbitrary, Debug)]
struct Story {
    event_idx: bool,
    indirect: bool,
    acts: Vec<Act>,
}

/// The device, for all stories: one logical unit in memory, one in a file.
struct Served {
    device: Arc<Device>,
    units: Vec<Arc<LogicalUnit>>,
    socket: PathBuf,
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("tenure-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = format!("file={},size=1M,direct=off", directory.join("lun").display());
        let open = |spec: &str| LogicalUnit::open(&spec.parse().expect("a LUN")).expect("a LUN");
        let units = vec![open("memory=1M"), open(&file)];
        let settings = Settings { request_queues: 2, workers: 4, most_requests: 64, ..Settings::default() };
        let device = Arc::new(Device::new("fuzz", settings, None));
        for (number, unit) in (0..).zip(&units) {
            let attached = Emulated::attach(unit, initiator_port("fuzz").expect("a name"));
            device.attach(number, Arc::new(attached)).expect("a free place");
        }
        let socket = directory.join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let serving = Arc::clone(&device);
        std::thread::spawn(move || serve(&listener, &serving, &Stop::new().expect("an eventfd")));
        Served { device, units, socket }
    })
}

/// The front end, and the guest's memory.
struct Liar {
    link: UnixStream,
    memory: File,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
    offered: [u16; RINGS as usize],
    /// The next descriptor of each ring.
    next: [u16; RINGS as usize],
    indirect: bool,
}

impl Liar {
    fn connect(story: &Story) -> Self {
        let link = UnixStream::connect(&served().socket).expect("somebody listens");
        link.set_nonblocking(true).expect("a socket");
        let memory = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd"));
        memory.set_len(MEMORY).expect("room");
        let events = || (0..RINGS).map(|_| eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd")).collect();
        let (kicks, calls) = (events(), events());
        let mut liar =
            Self { link, memory, kicks, calls, offered: [0; 4], next: [0; 4], indirect: story.indirect };
        let event_idx = if story.event_idx { 1 << 29 } else { 0 };
        liar.tell(3, &[], &[]);
        liar.tell(2, &words(&[1 << 32 | 1 << 28 | 1 << 1 | event_idx]), &[]);
        let memory = liar.memory.try_clone().expect("a descriptor");
        let table = [&1_u64.to_ne_bytes()[..], &words(&[0, MEMORY, USER, 0])].concat();
        liar.tell(5, &table, &[memory.as_fd()]);
        (0..RINGS).for_each(|ring| liar.start(ring, 0));
        liar
    }

    fn start(&mut self, ring: u32, base: u16) {
        let at = USER + u64::from(ring) * RING;
        let pair = |number: u32| [ring.to_ne_bytes(), number.to_ne_bytes()].concat();
        self.tell(8, &pair(SIZE.into()), &[]);
        self.tell(10, &pair(base.into()), &[]);
        self.tell(9, &[pair(0), words(&[at, at + 0x800, at + 0x400, 0])].concat(), &[]);
        let dup = |fds: &[OwnedFd]| fds[ring as usize].try_clone().expect("a descriptor");
        let (call, kick) = (dup(&self.calls), dup(&self.kicks));
        self.tell(13, &words(&[ring.into()]), &[call.as_fd()]);
        self.tell(12, &words(&[ring.into()]), &[kick.as_fd()]);
        // Without protocol features a ring is enabled from the beginning.
    }

    /// Sends a message, and takes whatever was answered until then.
    fn tell(&mut self, code: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
        self.send(code, 1, payload, descriptors);
    }

    fn send(&mut self, code: u32, flags: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let length = u32::try_from(payload.len()).expect("a short payload");
        let mut bytes = [code.to_ne_bytes(), flags.to_ne_bytes(), length.to_ne_bytes()].concat();
        bytes.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        // It may have hung up by now, or be busy: then the message is lost.
        let _ = sendmsg(&self.link, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
        self.drain();
    }

    /// Takes answers; whether it has hung up.
    fn drain(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.link.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let at = at % MEMORY;
        let room = usize::try_from(MEMORY - at).expect("a short memory").min(bytes.len());
        // Beyond a truncated end the file grows again: so much the better.
        let _ = self.memory.write_all_at(&bytes[..room], at);
    }

    /// Offers a chain: what is read, and room for what is written, cut into pieces.
    fn offer(&mut self, ring: u32, out: &[u8], room: u32, cut: u8) {
        let index = ring as usize;
        let place = BUFFERS + u64::from(self.next[index]) * 0x600;
        self.write(place, out);
        let mut pieces = Vec::new();
        let step = u32::from(cut).max(16);
        let mut add = |mut at: u64, mut left: u32, flags: u16| {
            while left > 0 && pieces.len() < 12 {
                let length = if pieces.len() == 11 { left } else { left.min(step * 8) };
                pieces.push((at, length, flags));
                (at, left) = (at + u64::from(length), left - length);
            }
        };
        add(place, u32::try_from(out.len()).expect("a short request"), 0);
        add(place + out.len() as u64, room, 2);
        let head = self.descriptors(ring, &pieces);
        let base = u64::from(ring) * RING;
        self.write(base + 0x400 + 4 + 2 * u64::from(self.offered[index] % SIZE), &head.to_le_bytes());
        self.offered[index] = self.offered[index].wrapping_add(1);
        self.write(base + 0x402, &self.offered[index].to_le_bytes());
        self.kick(ring);
    }

    /// Writes a chain, in the ring or in a table of its own.
    fn descriptors(&mut self, ring: u32, pieces: &[(u64, u32, u16)]) -> u16 {
        let base = u64::from(ring) * RING;
        let head = self.next[ring as usize] % SIZE;
        let table = BUFFERS + u64::from(head) * 0x600 + 0x500;
        let count = u16::try_from(pieces.len()).expect("few pieces");
        for (number, (at, length, flags)) in (0..).zip(pieces) {
            let more = u16::from(number + 1 < count);
            let (place, next) = match self.indirect {
                true => (table + 16 * u64::from(number), number + 1),
                false => (base + 16 * u64::from((head + number) % SIZE), (head + number + 1) % SIZE),
            };
            self.write(place, &descriptor(*at, *length, flags | more, next));
        }
        if self.indirect {
            self.write(base + 16 * u64::from(head), &descriptor(table, u32::from(count) * 16, 4, 0));
        }
        self.next[ring as usize] = (head + if self.indirect { 1 } else { count }) % SIZE;
        head
    }

    fn kick(&self, ring: u32) {
        let _ = rustix::io::write(&self.kicks[ring as usize], &1_u64.to_ne_bytes());
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Command { ring, lun, cdb, out, room, cut } => {
                let mut bytes = vec![1, 0, lun >> 6 & 0x40, lun % 3, 0, 0, 0, 0];
                bytes.extend([*ring, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(cdb);
                bytes.resize(51, 0);
                bytes.resize(51 + usize::from(*out % 0x400), 0xA5);
                self.offer(2 + u32::from(ring % 2), &bytes, 108 + u32::from(*room), *cut);
            }
            Act::Manage { function, lun, tag } => {
                let mut bytes = vec![0, 0, 0, 0, function % 9, 0, 0, 0, 1, 0, 0, lun % 3, 0, 0, 0, 0];
                bytes.extend([*tag, 0, 0, 0, 0, 0, 0, 0]);
                self.offer(0, &bytes, 1, 255);
            }
            Act::Write { at, bytes } => self.write(u64::from(*at) * 4, bytes),
            Act::Offer { ring, index } => {
                let ring = u32::from(*ring) % RINGS;
                self.offered[ring as usize] = *index;
                self.write(u64::from(ring) * RING + 0x402, &index.to_le_bytes());
                self.kick(ring);
            }
            Act::Kick { ring } => self.kick(u32::from(*ring) % RINGS),
            Act::Restart { ring, base } => {
                let ring = u32::from(*ring) % RINGS;
                self.tell(11, &[ring.to_ne_bytes(), [0; 4]].concat(), &[]);
                self.start(ring, *base);
            }
            Act::Message { code, payload, descriptors, reply } => {
                let memory = self.memory.try_clone().expect("a descriptor");
                let all = vec![memory.as_fd(); usize::from(descriptors % 9)];
                let flags = 1 | u32::from(*reply) << 3;
                self.send(u32::from(*code % 48), flags, &payload[..payload.len().min(1024)], &all);
            }
            Act::Truncate { pages } => {
                let _ = self.memory.set_len(u64::from(*pages) << 12);
            }
        }
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// Waits for something that must come.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

fuzz_target!(|story: Story| {
    let Served { device, units, .. } = served();
    until("the front end before has gone", || device.phase() == Phase::Idle);
    let mut liar = Liar::connect(&story);
    until("it is served", || device.phase() != Phase::Idle || liar.drain());
    story.acts.iter().take(64).for_each(|act| liar.act(act));
    drop(liar);
    until("the device lets go of the front end", || device.phase() == Phase::Idle);
    assert_eq!(device.under_way(), []);
    units.iter().for_each(|unit| unit.power_cycle());
});
