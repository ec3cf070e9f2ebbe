//! Where two recordings differ, and which differences are meant.

use super::Row;
use std::fmt;

/// What the helper under test was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `migrate = off`: nothing is masked.
    Open,
    /// The default.
    Migrate,
}

/// A row that the two helpers answered differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The incumbent's.
    pub incumbent: Row,
    /// Ours.
    pub ours: Row,
    /// Whether it is one that the policy, or a full-length parameter list, explains.
    pub meant: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { incumbent, ours, .. } = self;
        writeln!(f, "type {}, {} (CDB {}, list {})", ours.kind, ours.name, ours.cdb, ours.list)?;
        writeln!(f, "  incumbent: {:#04x} {} {}", incumbent.status, incumbent.sense, incumbent.data)?;
        write!(f, "  ours:      {:#04x} {} {}", ours.status, ours.sense, ours.data)
    }
}

/// Every row that differs. Both recordings must be of the same script.
///
/// # Errors
/// If they are not.
pub fn differences(incumbent: &[Row], ours: &[Row], policy: Policy) -> anyhow::Result<Vec<Difference>> {
    let script = |rows: &[Row]| rows.iter().map(|row| (row.kind, row.name.clone())).collect::<Vec<_>>();
    anyhow::ensure!(script(incumbent) == script(ours), "the recordings are not of one script");
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
        let answer = |cdb, status| row(cdb, "", status, "", "");
        assert_eq!(
            verdicts(&answer("5f000000000001001800", 0), &answer("5f000000000001001800", 2), Policy::Open),
            [true]
        );
        assert_eq!(
            verdicts(&answer("5f000000000000ffff00", 0), &answer("5f000000000000ffff00", 2), Policy::Open),
            [false]
        );
    }

    #[test]
    fn equal_rows_differ_in_nothing_and_other_scripts_are_refused() {
        let one = row("5e00", "", 0, "", "");
        assert!(verdicts(&one, &one, Policy::Open).is_empty());
        assert!(differences(&[one], &[], Policy::Open).is_err());
    }
}
