//! Where two recordings differ, and which differences are meant.

use super::Row;
use anyhow::{Result, ensure};
use scsi::pr::ReservationType;
use std::fmt;

/// What the helper under test was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `migrate = off`: nothing is masked.
    Open,
    /// The default.
    Migrate,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "migrate off",
            Self::Migrate => "default policy",
        })
    }
}

/// A row that the two helpers answered differently.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    incumbent: Row,
    ours: Row,
    /// Whether it is one that the policy, or a full-length parameter list, explains.
    meant: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { incumbent, ours, .. } = self;
        writeln!(f, "type {}, {} (CDB {}, list {})", ours.kind, ours.name, ours.cdb, ours.list)?;
        writeln!(f, "  incumbent: {:#04x} {} {}", incumbent.status, incumbent.sense, incumbent.data)?;
        write!(f, "  ours:      {:#04x} {} {}", ours.status, ours.sense, ours.data)
    }
}

/// Rows that differ whatever the policy: PARAMETER LIST LENGTH has four bytes, of which the incumbent reads two.
const LONG: [&str; 1] = ["Guest: REGISTER AND IGNORE EXISTING KEY: 64 KiB and 24 bytes"];

/// Rows that differ besides if guests may migrate.
const MASKED: [&str; 9] = [
    "Guest: REPORT CAPABILITIES: what the target can do",
    "Guest: REPORT CAPABILITIES: with APTPL active",
    "Guest: REPORT CAPABILITIES: without APTPL",
    "Guest: REGISTER: ALL_TG_PT",
    "Guest: REGISTER AND IGNORE EXISTING KEY: ALL_TG_PT",
    "Guest: REGISTER: SPEC_I_PT",
    "Guest: REGISTER AND IGNORE EXISTING KEY: SPEC_I_PT",
    "Guest: REGISTER: SPEC_I_PT, but no port",
    "Guest: RESERVE: SPEC_I_PT",
];

impl Policy {
    /// The rows that differ, by name, for each reservation type.
    #[must_use]
    pub fn differing(self) -> Vec<&'static str> {
        let masked = if self == Self::Migrate { MASKED.as_slice() } else { &[] };
        [masked, &LONG].concat()
    }
}

/// Wants exactly the rows to differ that the policy names, each in the way that is meant; gives their number.
///
/// # Errors
/// The rows for which this does not hold, or that the recordings are not of one script.
pub fn judge(incumbent: &[Row], ours: &[Row], policy: Policy) -> Result<usize> {
    let found = differences(incumbent, ours, policy)?;
    let unmeant: Vec<_> = found.iter().filter(|one| !one.meant).map(ToString::to_string).collect();
    ensure!(unmeant.is_empty(), "{} of {} rows differ:\n{}", unmeant.len(), ours.len(), unmeant.join("\n"));
    let names = |kind| found.iter().filter(move |one| one.ours.kind == kind).map(|one| &*one.ours.name);
    for kind in ReservationType::ALL {
        let names: Vec<&str> = names(kind.0).collect();
        ensure!(names == policy.differing(), "with type {} only these rows differ: {names:?}", kind.0);
    }
    Ok(found.len())
}

/// Every row that differs.
fn differences(incumbent: &[Row], ours: &[Row], policy: Policy) -> Result<Vec<Difference>> {
    let script = |rows: &[Row]| rows.iter().map(|row| (row.kind, row.name.clone())).collect::<Vec<_>>();
    ensure!(script(incumbent) == script(ours), "the recordings are not of one script");
    let pairs = incumbent.iter().zip(ours).filter(|(incumbent, ours)| incumbent != ours);
    let difference = |(incumbent, ours): (&Row, &Row)| Difference {
        incumbent: incumbent.clone(),
        ours: ours.clone(),
        meant: is_meant(incumbent, ours, policy),
    };
    Ok(pairs.map(difference).collect())
}

fn is_meant(incumbent: &Row, ours: &Row, policy: Policy) -> bool {
    long_list(ours) || policy == Policy::Migrate && (masked(incumbent, ours) || forbidden_bits(ours))
}

/// PARAMETER LIST LENGTH of 64 KiB and more: the incumbent looks at its lower half only.
fn long_list(row: &Row) -> bool {
    row.cdb.starts_with("5f") && row.cdb.get(10..14).is_some_and(|upper| upper != "0000")
}

/// REPORT CAPABILITIES without SIP_C and ATP_C, and nothing else changed.
fn masked(incumbent: &Row, ours: &Row) -> bool {
    let byte = |row: &Row| row.data.get(4..6).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let rest = |row: &Row| Row {
        data: [row.data.get(..4), row.data.get(6..)].map(|part| part.unwrap_or("")).concat(),
        ..row.clone()
    };
    let bits = byte(incumbent).zip(byte(ours)).is_some_and(|(theirs, ours)| theirs & !0x0C == ours);
    incumbent.cdb.starts_with("5e02") && bits && rest(incumbent) == rest(ours)
}

/// SPEC_I_PT or ALL_TG_PT, answered with INVALID FIELD IN PARAMETER LIST.
fn forbidden_bits(row: &Row) -> bool {
    let flags = row.list.get(40..42).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let set = flags.is_some_and(|flags| flags & 0x0C != 0);
    let refused = row.sense.get(4..6) == Some("05") && row.sense.get(24..28) == Some("2600");
    row.cdb.starts_with("5f") && set && row.status == 2 && refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cdb: &str, list: &str, status: u8, sense: &str, data: &str) -> Row {
        let text = str::to_owned;
        Row {
            kind: 1,
            name: "x".into(),
            cdb: text(cdb),
            list: text(list),
            status,
            sense: text(sense),
            data: text(data),
        }
    }

    fn verdicts(incumbent: &Row, ours: &Row, policy: Policy) -> Vec<bool> {
        let found = differences(std::slice::from_ref(incumbent), std::slice::from_ref(ours), policy).unwrap();
        found.iter().map(|difference| difference.meant).collect()
    }

    const REFUSED: &str = "700005000000000a00000000260000c00014";

    #[test]
    fn masked_capabilities_are_meant_under_the_default_policy_only() {
        let incumbent = row("5e02000000000000080000", "", 0, "", "00081d90ea010000");
        let ours = row("5e02000000000000080000", "", 0, "", "00081190ea010000");
        assert_eq!(verdicts(&incumbent, &ours, Policy::Migrate), [true]);
        assert_eq!(verdicts(&incumbent, &ours, Policy::Open), [false]);
        let more = row("5e02000000000000080000", "", 0, "", "00081190ea000000");
        assert_eq!(verdicts(&incumbent, &more, Policy::Migrate), [false]);
        let unmasked = row("5e02000000000000080000", "", 0, "", "00081990ea010000");
        assert_eq!(verdicts(&incumbent, &unmasked, Policy::Migrate), [false]);
    }

    #[test]
    fn a_refused_bit_is_meant_under_the_default_policy_only() {
        let list = "000000000000000000000000000000a10000000004000000";
        let incumbent = row("5f000000000000001800", list, 0, "", "");
        let ours = row("5f000000000000001800", list, 2, REFUSED, "");
        assert_eq!(verdicts(&incumbent, &ours, Policy::Migrate), [true]);
        assert_eq!(verdicts(&incumbent, &ours, Policy::Open), [false]);
        let without = list.replace("04000000", "01000000");
        let ours = row("5f000000000000001800", &without, 2, REFUSED, "");
        assert_eq!(verdicts(&incumbent, &ours, Policy::Migrate), [false]);
    }

    #[test]
    fn a_long_list_is_meant_and_a_shorter_one_is_not() {
        assert_eq!(
            verdicts(&answer("5f000000000001001800", 0), &answer("5f000000000001001800", 2), Policy::Open),
            [true]
        );
        assert_eq!(
            verdicts(&answer("5f000000000000ffff00", 0), &answer("5f000000000000ffff00", 2), Policy::Open),
            [false]
        );
    }

    /// What differs is named; what ought to and does not is told as well.
    #[test]
    fn exactly_the_named_rows_have_to_differ() {
        let rows = |status| -> Vec<Row> {
            let named = |kind: ReservationType| {
                let long = answer("5f000000000001001800", status);
                Row { kind: kind.0, name: LONG[0].into(), ..long }
            };
            ReservationType::ALL.map(named).into()
        };
        assert_eq!(judge(&rows(0), &rows(2), Policy::Open).unwrap(), 6);
        assert!(judge(&rows(0), &rows(0), Policy::Open).is_err());
        assert!(judge(&rows(0), &rows(2), Policy::Migrate).is_err());
        let other = |status| rows(status).into_iter().map(|row| Row { name: "other".into(), ..row });
        let with = |status| rows(status).into_iter().chain(other(status)).collect::<Vec<_>>();
        assert!(judge(&with(0), &with(2), Policy::Open).is_err());
    }

    fn answer(cdb: &str, status: u8) -> Row {
        row(cdb, "", status, "", "")
    }

    #[test]
    fn equal_rows_differ_in_nothing_and_other_scripts_are_refused() {
        let one = row("5e00", "", 0, "", "");
        assert!(verdicts(&one, &one, Policy::Open).is_empty());
        assert!(differences(&[one], &[], Policy::Open).is_err());
    }
}
