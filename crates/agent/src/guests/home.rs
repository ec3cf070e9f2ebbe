//! One guest on this host: its QEMU by its QMP socket, its logical units by configuration and by what QEMU names, its record in
//! the ledger, its journal.

use super::log::BookLog;
use super::machine::{Ordered, QemuMachine};
use super::monitors::Monitors;
use super::orchestrate;
use super::orchestrated::Orchestrated;
use crate::conduct::{Hands, NotDurable};
use crate::config::Vm;
use crate::ground::{self, Fate, Place, Way};
use crate::journal::{self, Begun, Journals};
use crate::migrate::{Begin, End, Ground, Log, Lun, Machine, Site, Trouble, UnitEnd};
use crate::steps::{Step, Steps};
use crate::vmm::{Backing, Role, Vmm};
use handover::{Side, Tracked, UnitIndex, Verdict};
use ledger::{HandoverId, Ledger, LunId, Owner};
use pr_helper::opening::OpenLun;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A guest of this host.
pub(super) struct Home {
    vm: Vm,
    machine: Driven,
    /// The operator's freeze.
    held: Option<HandoverId>,
    ledger: Arc<Ledger>,
    journals: Journals,
    devices: Arc<dyn OpenLun>,
    steps: Steps,
    /// Of a handover that is in the journal.
    remembered: Vec<journal::Lun>,
}

/// Who drives its QEMU.
enum Driven {
    ByUs(QemuMachine),
    BySomebodyElse(Orchestrated),
}

impl Driven {
    fn vmm(&self) -> Option<&Vmm> {
        match self {
            Self::ByUs(machine) => machine.vmm(),
            Self::BySomebodyElse(machine) => machine.vmm(),
        }
    }
}

impl Home {
    /// The guest as it is now; its QEMU may be gone.
    pub(super) fn new(
        vm: Vm,
        (ledger, journals): (Arc<Ledger>, Journals),
        devices: Arc<dyn OpenLun>,
        role: Role,
        steps: Steps,
        monitors: &Monitors,
    ) -> Self {
        let machine = Driven::ByUs(QemuMachine::new(&vm, role, steps.clone(), monitors));
        let remembered = Vec::new();
        Self { vm, machine, held: None, ledger, journals, devices, steps, remembered }
    }

    /// The same, with the logical units that its journal has: its QEMU, which would name them, may be gone.
    pub(super) fn remembering(self, begun: &Begun) -> Self {
        Self { remembered: begun.luns.clone(), ..self }
    }

    /// The same, where somebody else moves the guest. `here`: it stands here already.
    pub(super) fn orchestrated(self, role: Role, here: bool) -> Self {
        let machine = match self.machine {
            Driven::ByUs(qemu) => Driven::BySomebodyElse(Orchestrated::new(qemu, &self.vm, role, here)),
            already @ Driven::BySomebodyElse(_) => already,
        };
        Self { machine, ..self }
    }

    /// The same, whose QEMU sends the guest as it was ordered.
    pub(super) fn ordered(self, ordered: Ordered) -> Self {
        let machine = match self.machine {
            Driven::ByUs(machine) => Driven::ByUs(machine.ordered(ordered)),
            others @ Driven::BySomebodyElse(_) => others,
        };
        Self { machine, ..self }
    }

    /// The same, of a guest that the operator has frozen for this handover.
    pub(super) fn frozen_for(self, handover: HandoverId) -> Self {
        Self { held: Some(handover), ..self }
    }

    /// The guest, which stands still, is frozen until that is ended.
    pub(super) fn hold(&self, handover: HandoverId, why: &str) -> Result<(), Trouble> {
        let mut ground = self.open_ground(handover, Side::Source)?;
        orchestrate::hold(&mut ground, why).map_err(trouble)
    }

    fn open_ground(&self, handover: HandoverId, side: Side) -> Result<ground::Ground, Trouble> {
        let order = ground::Order {
            ledger: &self.ledger,
            owner: Owner(self.vm.record().to_owned()),
            handover,
            side,
            timeout: ground::TIMEOUT,
            devices: &*self.devices,
        };
        ground::Ground::open(&order, &self.places()?).map_err(trouble)
    }

    /// Those of the configuration, and those that QEMU names or, where it is gone, the journal.
    fn places(&self) -> Result<Vec<Place>, Trouble> {
        let mut places =
            self.vm.devices.iter().map(|unit| self.configured(unit)).collect::<Result<Vec<_>, _>>()?;
        if let Some(vmm) = self.machine.vmm() {
            for disk in vmm.disks().map_err(trouble)? {
                places.extend(self.named(&disk.backing)?.filter(|place| !known(&places, place)));
            }
        }
        if self.machine.vmm().is_none() && self.vm.helper.is_some() {
            for node in self.again(&places) {
                places.push(Place::new(self.through_helper(&node, None)?));
            }
        }
        Ok(places)
    }

    /// The device nodes by which logical units were reached when the handover began, unless they are among these places.
    fn again(&self, places: &[Place]) -> Vec<PathBuf> {
        let nodes = |lun: &journal::Lun| {
            let before: Vec<_> = lun.own.iter().map(|path| PathBuf::from(&path.device)).collect();
            // A URL is in the configuration.
            if before.iter().any(|node| node.is_relative() || known_node(places, node)) {
                return Vec::new();
            }
            ground::nodes_again(&LunId(lun.lun.clone()), &before, &*self.devices, Path::new("/dev"))
        };
        self.remembered.iter().flat_map(nodes).collect()
    }

    fn configured(&self, unit: &crate::config::LogicalUnit) -> Result<Place, Trouble> {
        let way = match (&unit.node, &unit.url) {
            (Some(node), _) => self.through_helper(node, unit.helper.as_ref())?,
            (None, Some(url)) => Way::Own(url.clone()),
            (None, None) => {
                return Err(Trouble(format!("vm {}: a device has neither node nor url", self.vm.name)));
            }
        };
        Ok(Place { key: unit.key, lun: unit.lun.clone(), follows: unit.follows, ..Place::new(way) })
    }

    /// QEMU's own initiator is a nexus that nobody else can address; what stands in for it is configured.
    fn named(&self, backing: &Backing) -> Result<Option<Place>, Trouble> {
        match backing {
            Backing::HostDevice(node) => Ok(Some(Place::new(self.through_helper(node, None)?))),
            Backing::Iscsi(_) | Backing::Other { .. } => Ok(None),
        }
    }

    fn through_helper(
        &self,
        node: &std::path::Path,
        own: Option<&std::path::PathBuf>,
    ) -> Result<Way, Trouble> {
        let socket = own.or(self.vm.helper.as_ref()).cloned().ok_or_else(|| {
            Trouble(format!(
                "vm {}: {} needs `helper`, the agent socket of its helper",
                self.vm.name,
                node.display()
            ))
        })?;
        Ok(Way::Helper { node: node.to_owned(), socket })
    }
}

fn known(places: &[Place], place: &Place) -> bool {
    matches!(&place.way, Way::Helper { node, .. } if known_node(places, node))
}

fn known_node(places: &[Place], node: &Path) -> bool {
    let wanted = std::fs::canonicalize(node).ok();
    let is_it = |place: &Place| match &place.way {
        Way::Helper { node, .. } => std::fs::canonicalize(node).ok() == wanted,
        Way::Own(_) => false,
    };
    wanted.is_some() && places.iter().any(is_it)
}

fn trouble(error: impl std::fmt::Display) -> Trouble {
    Trouble(error.to_string())
}

impl Site for Home {
    fn vm(&self) -> &str {
        &self.vm.name
    }

    fn machine(&self) -> &dyn Machine {
        match &self.machine {
            Driven::ByUs(machine) => machine,
            Driven::BySomebodyElse(machine) => machine,
        }
    }

    fn orchestrated(&self) -> bool {
        matches!(self.machine, Driven::BySomebodyElse(_))
    }

    fn frozen_for(&self) -> Option<u128> {
        self.held.map(|held| held.0)
    }

    fn ground(&self, handover: u128, side: Side) -> Result<Arc<dyn Ground>, Trouble> {
        let ground = self.open_ground(HandoverId(handover), side)?;
        Ok(Arc::new(HomeGround { ground: Mutex::new(ground), steps: self.steps.clone() }))
    }

    fn begin(&self, begin: &Begin) -> Result<Arc<dyn Log>, NotDurable> {
        let failed = |error: crate::journal::Error| NotDurable(error.to_string());
        let book = self.journals.open(&self.vm.name).map_err(failed)?;
        Ok(Arc::new(BookLog::begin(book, begin).map_err(failed)?))
    }
}

struct HomeGround {
    ground: Mutex<ground::Ground>,
    steps: Steps,
}

impl HomeGround {
    fn ground(&self) -> MutexGuard<'_, ground::Ground> {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lun(unit: &ground::Unit) -> Lun {
    Lun {
        name: unit.lun.0.clone(),
        key: unit.key(),
        nodes: unit.paths.iter().map(|path| path.node.clone()).collect(),
        ports: unit.ports(),
        identity_is_ours: unit.follows,
        target: unit.target,
    }
}

impl Ground for HomeGround {
    fn luns(&self) -> Vec<Lun> {
        self.ground().units().iter().map(lun).collect()
    }

    fn arrange(&self, offered: &[String]) -> Result<Vec<Lun>, Trouble> {
        let names: Vec<_> = offered.iter().map(|name| LunId(name.clone())).collect();
        let mut ground = self.ground();
        ground.arrange(&names).map_err(trouble)?;
        Ok(ground.units().iter().map(lun).collect())
    }

    fn owed(&self) -> Vec<Vec<Vec<u8>>> {
        let ground = self.ground();
        let mut owed = vec![Vec::new(); ground.units().len()];
        for (unit, sense) in ground.owed() {
            if let Some(of) = owed.get_mut(usize::from(unit.0)) {
                *of = sense;
            }
        }
        owed
    }

    fn owe(&self, owed: &[(u16, Vec<Vec<u8>>)]) -> Result<(), Trouble> {
        let owed: Vec<_> = owed.iter().map(|(place, sense)| (UnitIndex(*place), sense.clone())).collect();
        self.ground().owe(&owed).map_err(trouble)
    }

    fn hands(&self) -> Box<dyn Hands> {
        self.steps.hands(Box::new(self.ground().lines()))
    }

    fn freeze(&self) -> Result<bool, Trouble> {
        let freeze = || self.ground().freeze(Instant::now() + ground::FREEZE);
        self.steps.take(Step::Freeze, freeze).map(|frozen| frozen.changed).map_err(trouble)
    }

    fn settle(&self, end: End, units: &[UnitEnd]) -> Result<(), Trouble> {
        self.steps.take(Step::Settle(end), || {
            let mut ground = self.ground();
            let ended = match end {
                End::Arrived => ground.arrive(&ends(units, &Verdict::Moved)?),
                End::Kept => ground.restore(&kept(units)),
                End::Departed => ground.depart_with(&gone(units)),
                End::Refused => ground.depart(),
            };
            ended.map_err(trouble)
        })
    }
}

/// A unit whose group stands has come as far as `otherwise` says.
fn ends(units: &[UnitEnd], otherwise: &Verdict) -> Result<Vec<ground::End>, Trouble> {
    let one = |(place, end): (usize, &UnitEnd)| {
        let entry = end.last.map(|last| last.entry);
        let fate = Fate::of(end.verdict.as_ref().unwrap_or(otherwise), entry.as_ref());
        let unit = UnitIndex(u16::try_from(place).map_err(trouble)?);
        let fate =
            fate.ok_or_else(|| Trouble(format!("it is not known what the guest has on {}", end.lun)))?;
        Ok(ground::End { unit, fate, owed: end.owed.clone() })
    };
    units.iter().enumerate().map(one).collect()
}

/// What went with the guest, as the last entries say it; of what was fenced or lost nothing did.
fn gone(units: &[UnitEnd]) -> Vec<(UnitIndex, Tracked)> {
    let one = |(place, end): (usize, &UnitEnd)| {
        let there = matches!(end.verdict, None | Some(Verdict::Moved));
        let last = end.last.filter(|_| there)?;
        Some((UnitIndex(u16::try_from(place).ok()?), ground::tracked(&last.entry)))
    };
    units.iter().enumerate().filter_map(one).collect()
}

/// What came back is as it was; what was fenced or lost is not.
fn kept(units: &[UnitEnd]) -> Vec<ground::End> {
    let one = |(place, end): (usize, &UnitEnd)| {
        let fate = match end.verdict {
            Some(Verdict::Fenced { .. }) => Fate::Fenced,
            Some(Verdict::Lost) => Fate::Lost,
            _ => Fate::AsBefore,
        };
        Some(ground::End { unit: UnitIndex(u16::try_from(place).ok()?), fate, owed: end.owed.clone() })
    };
    units.iter().enumerate().filter_map(one).collect()
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Home").field("vm", &self.vm.name).finish_non_exhaustive()
    }
}
