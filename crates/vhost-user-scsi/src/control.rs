//! The control queue (virtio 1.2 5.6.6.2): task management functions and queries about asynchronous notifications. Used by
//! [`crate::queue::Running`].
//!
//! Guarantees: a function is answered when everything that it ended has left its queue, so that the guest never sees an aborted
//! command's answer after that of the ABORT TASK; what the guest had offered before the function counts as sent before it, taken or not. The
//! ring's thread never waits: functions are carried out by threads of their own.

use crate::chain::Chain;
use crate::queue::inbox::Inbox;
use crate::queue::request::address;
use crate::queue::ring::{Broken, Ring, Taken};
use crate::queue::tasks::Task;
use crate::queue::{Connection, Engine, Event, INBOX, Marks, Order, Start, watching};
use crate::target::Lun;
use crate::unit::{Function, Managed};
use crate::wire::{CONTROL_LENGTH_MAX, Control, ResponseCode, Subtype};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a function waits for commands that it has ended to leave; after that it has failed, and the driver tries a harder one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between looks at rings from which not all could be taken.
const PAUSE: Duration = Duration::from_millis(5);

/// Serves the ring until it is told to stop; the next entry of the available ring, and why it ended early if it did.
pub(crate) fn serve(start: Start, inbox: &Arc<Inbox<Order>>) -> (u16, Result<(), Broken>) {
    let engine = match watching(1, &start, inbox) {
        Ok(engine) => engine,
        Err(error) => return (start.ring.base(), Err(error.into())),
    };
    let Start { ring, connection, .. } = start;
    let under_way = HashMap::new();
    let mut server =
        Server { connection, ring, engine, inbox: Arc::clone(inbox), under_way, number: 0, stopping: false };
    let result = server.run();
    if result.is_err() {
        server.abandon();
    }
    (server.ring.base(), result)
}

struct Server {
    connection: Arc<Connection>,
    ring: Ring,
    engine: Engine,
    inbox: Arc<Inbox<Order>>,
    /// Requests that a thread works on; no more than the ring has entries.
    under_way: HashMap<u32, (u16, Chain)>,
    number: u32,
    stopping: bool,
}

impl Server {
    fn run(&mut self) -> Result<(), Broken> {
        let mut events = Vec::new();
        loop {
            let more = self.take_all()?;
            if self.stopping && self.under_way.is_empty() && !self.ring.owes() {
                return Ok(());
            }
            if more {
                self.engine.poll(&mut events)?
            } else {
                self.engine.wait(&mut events)?
            }
            // All of them, also after one that failed: each answer is waited for.
            let orders = self.orders(&mut events).into_iter();
            let done = orders.map(|order| self.ordered(order)).fold(Ok(()), Result::and);
            done?;
        }
    }

    fn orders(&self, events: &mut Vec<Event>) -> Vec<Order> {
        let told = events.drain(..).filter(|event| matches!(event, Event::Readable(INBOX))).count();
        if told > 0 { self.inbox.take() } else { Vec::new() }
    }

    fn ordered(&mut self, order: Order) -> Result<(), Broken> {
        match order {
            Order::Change(change, answer) => drop(answer.send(change.apply(&mut self.ring))),
            Order::Stop => self.stopping = true,
            Order::Managed(number, answer) => {
                if let Some((head, chain)) = self.under_way.remove(&number) {
                    self.answer(head, &chain, &answer)?;
                }
            }
            Order::Ended(..) | Order::Look(..) => {}
        }
        Ok(())
    }

    /// Waits for what is under way, and gives nothing back.
    fn abandon(&mut self) {
        let mut events = Vec::new();
        while !self.under_way.is_empty() {
            if self.engine.wait(&mut events).is_err() {
                return;
            }
            for order in self.orders(&mut events) {
                match order {
                    Order::Managed(number, _) => drop(self.under_way.remove(&number)),
                    Order::Change(change, answer) => drop(answer.send(change.apply(&mut self.ring))),
                    _ => {}
                }
            }
        }
    }

    /// Takes what the guest offers; whether there may be more.
    fn take_all(&mut self) -> Result<bool, Broken> {
        let most = usize::from(self.ring.size());
        for _ in 0..most {
            if self.under_way.len() >= most || (self.stopping && !self.ring.owes()) {
                self.ring.tell()?;
                return Ok(false);
            }
            match self.ring.take()? {
                Some(taken) => self.arrive(taken)?,
                None => {
                    self.ring.tell()?;
                    if !self.ring.want_kicks()? {
                        return Ok(false);
                    }
                }
            }
        }
        self.ring.tell()?;
        Ok(true)
    }

    fn arrive(&mut self, taken: Taken) -> Result<(), Broken> {
        let Taken { head, chain, walked, .. } = taken;
        let mut bytes = [0; CONTROL_LENGTH_MAX];
        let length = chain.read(self.ring.memory(), 0, &mut bytes).unwrap_or(0);
        let control = Control::parse(bytes.get(..length).unwrap_or_default());
        let Some(control) = control.ok().filter(|_| walked.is_ok()) else {
            return self.ring.give_back(head, 0);
        };
        let Control::TaskManagement { subtype, lun, id: tag } = control else {
            // No notifications are supported, and that is the answer.
            let code = notifications(&self.connection, control.lun());
            return self.answer(head, &chain, &control.answer(code));
        };
        self.number = self.number.wrapping_add(1);
        self.under_way.insert(self.number, (head, chain));
        let reply = Reply { inbox: Arc::clone(&self.inbox), number: self.number, control, code: None };
        let connection = Arc::clone(&self.connection);
        let lane = address(&lun).flatten().unwrap_or(0);
        let job = Box::new(move || {
            let mut reply = reply;
            reply.code = Some(manage(&connection, subtype, &lun, tag));
        });
        if let Err(error) = self.connection.device.managers().hand(lane, job) {
            // The job was dropped, and has answered that it failed.
            tracing::error!(%error, "no thread for task management");
        }
        Ok(())
    }

    fn answer(&mut self, head: u16, chain: &Chain, answer: &[u8]) -> Result<(), Broken> {
        let room = chain.in_length() >= answer.len();
        let told = room && chain.write(self.ring.memory(), 0, answer).is_ok();
        self.ring.give_back(head, if told { u32::try_from(answer.len()).unwrap_or(0) } else { 0 })
    }
}

/// A thread's answer, which comes also when the thread does not get there.
struct Reply {
    inbox: Arc<Inbox<Order>>,
    number: u32,
    control: Control,
    code: Option<ResponseCode>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(ResponseCode::FAILURE);
        self.inbox.post(Order::Managed(self.number, self.control.answer(code)));
    }
}

/// The logical unit, or what to answer where there is none.
fn unit(connection: &Connection, lun: &[u8; 8]) -> Result<Arc<Lun>, ResponseCode> {
    let number = address(lun).ok_or(ResponseCode::BAD_TARGET)?.ok_or(ResponseCode::INCORRECT_LUN)?;
    let table = connection.device.target().table();
    table.get(number).cloned().ok_or(ResponseCode::INCORRECT_LUN)
}

fn notifications(connection: &Connection, lun: &[u8; 8]) -> ResponseCode {
    unit(connection, lun).map_or_else(|code| code, |_| ResponseCode::OK)
}

/// Carries a function out, on everything that the guest had offered before: also on what a queue had no room for until others ended.
/// May wait, up to [`PATIENCE`].
fn manage(connection: &Connection, subtype: Subtype, lun: &[u8; 8], tag: u64) -> ResponseCode {
    if connection.refusing.get().is_some() {
        // The guest is not let in: nothing of it is under way, and what others have is not its business.
        return ResponseCode::FUNCTION_REJECTED;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut marks = Marks::new();
    loop {
        let all = connection.look(&mut marks);
        match manage_taken(connection, subtype, lun, tag, deadline) {
            Outcome::Nothing | Outcome::Again if !all && Instant::now() < deadline => thread::sleep(PAUSE),
            Outcome::Nothing | Outcome::Again if !all => return ResponseCode::FAILURE,
            Outcome::Nothing | Outcome::Again => return ResponseCode::OK,
            Outcome::Answer(code) => return code,
        }
    }
}

/// What became of a function on what a queue has taken.
enum Outcome {
    /// That is the answer, whatever is still in the ring.
    Answer(ResponseCode),
    /// There was nothing for it.
    Nothing,
    /// It is done, and has to be done again on what is still in the ring.
    Again,
}

impl Outcome {
    fn of(code: ResponseCode) -> Self {
        if code == ResponseCode::OK { Self::Again } else { Self::Answer(code) }
    }
}

fn manage_taken(
    connection: &Connection,
    subtype: Subtype,
    lun: &[u8; 8],
    tag: u64,
    deadline: Instant,
) -> Outcome {
    if subtype == Subtype::I_T_NEXUS_RESET {
        return reset_nexus(connection, lun, deadline);
    }
    let lun = match unit(connection, lun) {
        Ok(lun) => lun,
        Err(code) => return Outcome::Answer(code),
    };
    let here = |task: &Task| task.lun == lun.number;
    let named = |task: &Task| here(task) && task.tag == tag;
    let end = |function| end(connection, &lun, function, deadline);
    match subtype {
        Subtype::ABORT_TASK => abort(connection, &lun, tag, deadline),
        Subtype::ABORT_TASK_SET => Outcome::of(end(Function::AbortTaskSet)),
        Subtype::CLEAR_TASK_SET => Outcome::of(end(Function::ClearTaskSet)),
        Subtype::LOGICAL_UNIT_RESET => Outcome::of(end(Function::LogicalUnitReset)),
        Subtype::QUERY_TASK => found(connection, named),
        Subtype::QUERY_TASK_SET => found(connection, here),
        _ => Outcome::Answer(ResponseCode::FUNCTION_REJECTED),
    }
}

fn found(connection: &Connection, wanted: impl Fn(&Task) -> bool) -> Outcome {
    if ids(connection, wanted).is_empty() {
        Outcome::Nothing
    } else {
        Outcome::Answer(ResponseCode::FUNCTION_SUCCEEDED)
    }
}

fn ids(connection: &Connection, wanted: impl Fn(&Task) -> bool) -> Vec<u64> {
    connection.tasks.iter().flat_map(|tasks| tasks.under_way(&wanted)).map(|task| task.id).collect()
}

/// Every command of that tag: a guest that uses a tag twice gets both aborted.
fn abort(connection: &Connection, lun: &Lun, tag: u64, deadline: Instant) -> Outcome {
    let named = ids(connection, |task| task.lun == lun.number && task.tag == tag);
    if named.is_empty() {
        return Outcome::Nothing;
    }
    let mut failed = None;
    for id in &named {
        let code = code(lun.unit.manage(Function::AbortTask(*id)));
        failed = failed.or((code != ResponseCode::OK).then_some(code));
    }
    Outcome::Answer(failed.unwrap_or_else(|| gone(connection, &named, deadline)))
}

/// A function on all commands of the logical unit.
fn end(connection: &Connection, lun: &Lun, function: Function, deadline: Instant) -> ResponseCode {
    let all = ids(connection, |task| task.lun == lun.number);
    match code(lun.unit.manage(function)) {
        ResponseCode::OK => gone(connection, &all, deadline),
        failed => failed,
    }
}

/// I_T NEXUS RESET: every logical unit, whichever the request names; that has to be one of this target's.
fn reset_nexus(connection: &Connection, lun: &[u8; 8], deadline: Instant) -> Outcome {
    if address(lun).is_none() {
        return Outcome::Answer(ResponseCode::BAD_TARGET);
    }
    let table = connection.device.target().table();
    let codes = table.luns().map(|lun| end(connection, lun, Function::NexusReset, deadline));
    let first =
        codes.fold(ResponseCode::OK, |so_far, code| if code == ResponseCode::OK { so_far } else { code });
    Outcome::of(first)
}

/// Waits until these commands have left.
fn gone(connection: &Connection, ids: &[u64], deadline: Instant) -> ResponseCode {
    if connection.tasks.iter().all(|tasks| tasks.wait_for(ids, deadline)) {
        ResponseCode::OK
    } else {
        ResponseCode::FAILURE
    }
}

fn code(managed: Managed) -> ResponseCode {
    match managed {
        Managed::Complete => ResponseCode::OK,
        Managed::Rejected => ResponseCode::FUNCTION_REJECTED,
        Managed::Lost => ResponseCode::TRANSPORT_FAILURE,
        Managed::Failed => ResponseCode::FAILURE,
    }
}
