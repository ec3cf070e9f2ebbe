//! Phases Plan and Prepare: reads while the guest runs. Nothing is changed, and the guest's nexus is asked nothing that
//! would take a unit attention from it (INQUIRY takes none), unless the destination has no session of its own, the
//! reservation keeps it from asking whether REGISTER AND MOVE is supported, or that is the method: then the source sees for
//! itself that the port it is to move to has not the guest's key yet.

use super::batch::{Answer, Answers};
use super::course::{At, Course, all_paths};
use super::order::{Name, Order};
use crate::action::{MAX_PATHS, Path, Phase};
use crate::facts::{Facts, FullStatusDigest, SameUnit, Survey};
use crate::known_targets::{Known, TargetIdentity};
use crate::method::Method;
use crate::plan;
use crate::settings::{Port, Settings};
use crate::survey;
use crate::verdict::{Reason, Verdict};
use scsi::pr::Key;

const PROBE: Order = Order::Register(Name::Guest, Name::Guest);
/// The source's path that looks where a MOVE would go: no word of the destination's decides that.
pub(super) const WITNESS: Path = Path::source(0);

impl Course {
    /// The first batch: what does not change.
    pub(crate) fn survey(&mut self) {
        if let Err(reason) = check_settings(&self.settings) {
            return self.refuse(reason);
        }
        if self.settings.survey.is_some() {
            return self.look(Phase::Plan);
        }
        let mut orders = vec![(self.reader(), Order::Inquiry), (self.reader(), Order::MoveSupport)];
        if self.settings.source_alive {
            let all = all_paths(self.settings.source.len());
            orders.extend(Self::on_source(all, Order::Identification));
        }
        if !self.settings.by_identity() {
            orders.push((Path::destination(0), Order::Identification));
            orders.extend(self.on_further_destinations(Order::Identification));
        }
        self.run(At::Survey, orders);
    }

    /// Reads the reservation, and with it PRGENERATION as it was before APTPL is read: whoever changes APTPL later is
    /// counted.
    pub(crate) fn look(&mut self, phase: Phase) {
        let Some(survey) = &self.settings.survey else { return self.refuse(Reason::NotSupported) };
        self.terms.traits = self.settings.targets.traits(&survey.target);
        self.terms.move_reported = survey.move_reported;
        self.terms.forgot |= std::mem::take(&mut self.attentions.forgot);
        let reader = self.reader();
        let mut orders = vec![(reader, Order::Reservation)];
        if !self.terms.traits.full_status.is_no() {
            orders.push((reader, Order::FullStatus));
            if phase == Phase::Prepare && self.terms.method == Method::RegisterAndMove {
                orders.push((WITNESS, Order::FullStatus));
            }
        }
        self.run(At::Look(phase), orders);
    }

    /// Judges a batch of reads.
    pub(crate) fn read(&mut self, answers: &Answers) {
        match self.at {
            At::Survey => self.surveyed(answers),
            At::SurveyMove => self.move_surveyed(answers),
            At::Look(phase) => self.looked(phase, answers),
            At::Aptpl(phase) => self.aptpl_read(phase, answers),
            At::ProbeDestination(phase) => self.destination_probed(phase, answers),
            At::Count(phase) => self.counted(phase, answers),
            _ => {}
        }
    }

    fn surveyed(&mut self, answers: &Answers) {
        let Some(target) = inquiry(answers) else { return self.refuse(Reason::Unreachable) };
        let settings = self.settings.edit();
        learn_ports(answers, settings);
        let moves = |_, order| order == Order::MoveSupport;
        let move_reported = match answers.find(moves) {
            Answer::Data(reply) => survey::support(reply),
            _ => Known::Unknown,
        };
        let same_unit = if settings.by_identity() || !settings.source_alive {
            SameUnit::Same
        } else {
            compare(answers, Path::source(0), Path::destination(0))
        };
        settings.survey = Some(Survey { same_unit, target, move_reported });
        // Nothing that is read next would be about the guest.
        if same_unit == SameUnit::Different {
            return self.refuse(Reason::DifferentUnits);
        }
        let kept_out = answers.find(moves) == &Answer::Conflict;
        if kept_out && self.settings.source_alive {
            return self.run(At::SurveyMove, [(Path::source(0), Order::MoveSupport)]);
        }
        self.look(Phase::Plan);
    }

    /// The reservation keeps the unregistered destination from asking, so the source was asked. A unit attention that this
    /// took from the guest is kept for it.
    fn move_surveyed(&mut self, answers: &Answers) {
        if let (Answer::Data(reply), Some(survey)) =
            (answers.on(Path::source(0)), &mut self.settings.edit().survey)
        {
            survey.move_reported = survey::support(reply);
        }
        self.look(Phase::Plan);
    }

    fn looked(&mut self, phase: Phase, answers: &Answers) {
        let reader = self.reader();
        if answers.iter().any(|(path, _, answer)| *path == reader && answer.is_lost()) {
            return self.refuse(Reason::Unreachable);
        }
        let Some(held) = answers.reservation() else { return self.refuse(Reason::NotSupported) };
        let status = answers.full_status_on(reader);
        let vacant = |(_, status): (Key, FullStatusDigest)| status.destination.with_key & 1 == 0;
        self.terms.port_vacant = answers.full_status_on(WITNESS).is_some_and(vacant);
        // A guest that is there after all has registered again.
        self.terms.forgot &= status.is_none_or(|(_, status)| status.source.with_key == 0);
        if let Some((key, _)) = status {
            self.terms.key = self.terms.key.or(Some(key));
        }
        let Some(key) = self.terms.key else { return self.refuse(Reason::KeyUnknown) };
        let Some(survey) = self.settings.survey.clone() else { return self.refuse(Reason::NotSupported) };
        self.facts = Some(Box::new(Facts {
            survey,
            traits: self.terms.traits,
            key,
            capabilities: None,
            generation: held.generation,
            keys: Vec::new(),
            keys_truncated: false,
            reservation: held.reservation,
            full_status: status.map(|(_, digest)| digest),
        }));
        self.terms.mark = held.generation;
        self.terms.own = 0;
        self.terms.aptpl_doubt = false;
        self.attentions.reset_lately = false;
        self.terms.destination_had = 0;
        self.run(At::Aptpl(phase), [(reader, Order::Capabilities)]);
    }

    /// What was not answered is not known, and must not be taken for off.
    fn aptpl_read(&mut self, phase: Phase, answers: &Answers) {
        if answers.on(self.reader()).is_lost() {
            return self.refuse(Reason::Unreachable);
        }
        let Some(facts) = &mut self.facts else { return };
        facts.capabilities = answers.capabilities();
        self.terms.aptpl = facts.aptpl();
        self.terms.persist_capable =
            facts.capabilities.is_some_and(|capabilities| capabilities.persist_capable);
        if phase == Phase::Plan || facts.full_status.is_some() || self.settings.by_identity() {
            return self.count(phase);
        }
        // Tells whether the destination already has the key; conflicts, and changes nothing, if it has not.
        let all = (0u8..).zip(&self.settings.destination).map(|(index, _)| Path::destination(index));
        let probes: Vec<_> = all.map(|path| (path, PROBE)).collect();
        self.run(At::ProbeDestination(phase), probes);
    }

    fn destination_probed(&mut self, phase: Phase, answers: &Answers) {
        if answers.iter().any(|(_, _, answer)| answer.is_lost()) {
            return self.refuse(Reason::Unreachable);
        }
        self.terms.destination_had = answers.mask_of(PROBE, Answer::is_good);
        self.count(phase);
    }

    fn count(&mut self, phase: Phase) {
        self.attentions.destination_stirred = false;
        let reader = self.reader();
        self.run(At::Count(phase), [(reader, Order::Keys)]);
    }

    fn counted(&mut self, phase: Phase, answers: &Answers) {
        let Some(keys) = answers.keys() else {
            let lost = answers.on(self.reader()).is_lost();
            return self.refuse(if lost { Reason::Unreachable } else { Reason::NotSupported });
        };
        let Some(facts) = &mut self.facts else { return };
        facts.generation = keys.generation;
        facts.keys.clone_from(&keys.keys);
        facts.keys_truncated = keys.truncated;
        let other_key = facts.full_status.is_some_and(|status| status.source_has_another_key());
        let trusted = facts.traits.full_status.is_yes();
        facts.full_status = facts.full_status.filter(|status| trusted || status.source.with_key != 0);
        if facts.key.is_none() {
            return self.refuse(Reason::NotRegistered);
        }
        let gone = facts.full_status.is_some_and(|status| status.source.with_key == 0);
        if facts.listed() == 0 || gone {
            if facts.full_status.is_some_and(|status| status.destination.with_key != 0) {
                return self.refuse(Reason::AlreadyThere);
            }
            // Whoever was fenced has no registration at all: this one was made since, or the key that was given is wrong.
            if other_key {
                return self.refuse(Reason::OtherKey);
            }
            let forgot = self.forgot(Some(keys.generation));
            self.at = At::End(if forgot { Verdict::Lost } else { Verdict::Fenced { nonce_left: false } });
            return;
        }
        match plan::plan(facts, &self.settings) {
            Ok(plan) => self.agree(phase, plan.method),
            Err(reason) => self.refuse(reason),
        }
    }

    /// Takes over from the facts what the pause will need.
    fn agree(&mut self, phase: Phase, method: Method) {
        let Some(facts) = &self.facts else { return };
        let situation = facts.situation(&self.settings);
        let terms = &mut self.terms;
        terms.method = method;
        terms.role = situation.role;
        terms.shared = situation.shared;
        terms.aptpl = facts.aptpl();
        terms.generation = facts.generation;
        let seen = facts.full_status.filter(|status| status.source.with_key != 0);
        terms.seen = seen.filter(|_| !facts.aptpl()).map(|status| status.generation);
        terms.source_paths = all_paths(self.settings.source.len());
        terms.full_status = facts.full_status.is_some();
        terms.seen_together = false;
        if let Some(status) = facts.full_status {
            terms.source_paths = status.source.with_key;
            terms.holder = status.source.holder;
            terms.sharers = status.sharers;
            terms.destination_had = status.destination.with_key;
            terms.seen_together = status.generation == facts.generation;
        } else {
            let sides =
                self.settings.source.len() + usize::try_from(terms.destination_had.count_ones()).unwrap_or(0);
            terms.sharers = u16::try_from(facts.listed().saturating_sub(sides)).unwrap_or(u16::MAX);
        }
        self.beliefs.key = terms.source_paths;
        self.at = At::Stand(phase);
    }

    /// Whether the target forgot the guest's registration, which is gone, rather than somebody removing it: power was
    /// lost while APTPL was off, or PRGENERATION has counted no command of another node since it was seen. Without a
    /// sign of either the guest is taken for fenced.
    pub(crate) fn forgot(&self, generation: Option<u32>) -> bool {
        let since = |(now, seen): (u32, u32)| now.wrapping_sub(seen).wrapping_sub(u32::from(self.terms.own));
        let foreign = generation.zip(self.terms.seen).map(since);
        let counts = self.terms.traits.counts_registrations.is_yes();
        let uncounted = foreign.is_some_and(|foreign| counts && foreign == 0 || foreign > u32::MAX / 2);
        self.attentions.forgot || self.terms.forgot || uncounted
    }

    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.at = At::End(Verdict::Refused(reason));
    }
}

fn check_settings(settings: &Settings) -> Result<(), Reason> {
    let counts = [settings.source.len(), settings.destination.len()];
    if counts.iter().any(|count| !(1..=MAX_PATHS).contains(count)) {
        return Err(Reason::Paths);
    }
    let same = |(source, destination): (&Port, &Port)| source.initiator.is_some() && source == destination;
    let pair = settings.source.first().zip(settings.destination.first());
    if !settings.by_identity() && pair.is_some_and(same) {
        return Err(Reason::SameNexus);
    }
    if settings.key == Some(Key::NONE) { Err(Reason::NotRegistered) } else { Ok(()) }
}

fn inquiry(answers: &Answers) -> Option<TargetIdentity> {
    match answers.find(|_, order| order == Order::Inquiry) {
        Answer::Data(data) => TargetIdentity::from_inquiry(data),
        _ => None,
    }
}

fn page(answers: &Answers, path: Path) -> &[u8] {
    match answers.find(|at, order| at == path && order == Order::Identification) {
        Answer::Data(data) => data,
        _ => &[],
    }
}

fn compare(answers: &Answers, source: Path, destination: Path) -> SameUnit {
    survey::same_unit(page(answers, source), page(answers, destination))
}

/// Fills in the relative target ports that the caller did not know.
fn learn_ports(answers: &Answers, settings: &mut Settings) {
    let learn = |path: Path, port: &mut Port| {
        port.target_port = port.target_port.or_else(|| survey::target_port(page(answers, path)));
    };
    for (index, port) in (0u8..).zip(&mut settings.source) {
        learn(Path::source(index), port);
    }
    for (index, port) in (0u8..).zip(&mut settings.destination) {
        learn(Path::destination(index), port);
    }
}
