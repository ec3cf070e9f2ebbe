//! A journal in memory, which survives its agent. To write it is a step, which may be the agent's last.

use super::{World, lock};
use crate::conduct::NotDurable;
use crate::migrate::{Begin, Last, Leg, Log};
use crate::ownership::{Mark, Marks};
use handover::journal::Stage as Entered;
use handover::{Entry, UnitIndex};
use std::sync::{Arc, Mutex, Weak};

#[derive(Clone, Debug)]
enum Line {
    Entry(Leg, UnitIndex, Entry),
    Mark(Mark),
    Resumed,
    RanThere,
    End(String),
}

pub(in crate::migrate::tests) struct Journal {
    begin: Begin,
    world: Weak<World>,
    lines: Mutex<Vec<Line>>,
}

impl Journal {
    pub(super) fn new(begin: &Begin, world: &Arc<World>) -> Self {
        Self { begin: begin.clone(), world: Arc::downgrade(world), lines: Mutex::default() }
    }

    fn write(&self, lines: Vec<Line>) {
        let world = self.world.upgrade().unwrap();
        world.step(self.begin.side);
        lock(&self.lines).extend(lines);
        world.step(self.begin.side);
    }

    /// As if its agent had died just before it wrote that the guest ran.
    pub(super) fn forget_ran_and_end(&self) {
        lock(&self.lines).retain(|line| !matches!(line, Line::Mark(Mark::Ran) | Line::End(_)));
    }

    /// As if its agent had died just before it wrote that the guest was given back.
    pub(in crate::migrate::tests) fn forget_resumed(&self) {
        lock(&self.lines).retain(|line| !matches!(line, Line::Resumed));
    }

    pub(in crate::migrate::tests) fn ended(&self) -> Option<String> {
        lock(&self.lines).iter().rev().find_map(|line| match line {
            Line::End(verdict) => Some(verdict.clone()),
            _ => None,
        })
    }
}

impl Log for Journal {
    fn entries(&self, _: u64, leg: Leg, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        self.write(entries.iter().map(|(unit, entry)| Line::Entry(leg, *unit, *entry)).collect());
        Ok(())
    }

    fn mark(&self, mark: Mark) -> Result<(), NotDurable> {
        self.write(vec![Line::Mark(mark)]);
        Ok(())
    }

    fn resumed(&self) -> Result<(), NotDurable> {
        self.write(vec![Line::Resumed]);
        Ok(())
    }

    fn was_resumed(&self) -> bool {
        lock(&self.lines).iter().any(|line| matches!(line, Line::Resumed))
    }

    fn saw_ran_there(&self) -> Result<(), NotDurable> {
        self.write(vec![Line::RanThere]);
        Ok(())
    }

    fn ran_there(&self) -> bool {
        lock(&self.lines).iter().any(|line| matches!(line, Line::RanThere))
    }

    fn begun(&self) -> &Begin {
        &self.begin
    }

    fn marks(&self) -> Marks {
        let lines = lock(&self.lines);
        let marks: Marks = lines
            .iter()
            .filter_map(|line| if let Line::Mark(mark) = line { Some(*mark) } else { None })
            .collect();
        let touched = lines
            .iter()
            .any(|line| matches!(line, Line::Entry(_, _, entry) if entry.stage >= Entered::Freeze));
        if touched { marks.touched() } else { marks }
    }

    fn last(&self) -> Vec<Option<Last>> {
        let mut last = vec![None; self.begin.luns.len()];
        for line in lock(&self.lines).iter() {
            if let Line::Entry(leg, unit, entry) = line {
                last[usize::from(unit.0)] = Some(Last { leg: *leg, entry: *entry });
            }
        }
        last
    }

    fn end(&self, verdict: &str) -> Result<(), NotDurable> {
        self.write(vec![Line::End(verdict.to_owned())]);
        Ok(())
    }
}
