//! Reads the replies that do not change while a logical unit is there: VPD page 83h (SPC-4 7.8.5), REPORT SUPPORTED
//! OPERATION CODES (SPC-4 6.35). Bytes come from targets; whatever cannot be read is unknown.

use crate::facts::SameUnit;
use crate::known_targets::Known;

/// A designation descriptor.
struct Designator<'a> {
    association: u8,
    kind: u8,
    bytes: &'a [u8],
}

/// Associated with the logical unit.
const LOGICAL_UNIT: u8 = 0;
/// Associated with the target port the command came through.
const TARGET_PORT: u8 = 1;
/// Relative target port identifier.
const RELATIVE_TARGET_PORT: u8 = 4;

/// The descriptors of a VPD page 83h; one that is cut ends the list.
fn designators(page: &[u8]) -> Vec<Designator<'_>> {
    let mut list = Vec::new();
    let Some([_, 0x83, high, low]) = page.first_chunk() else { return list };
    let end = 4 + usize::from(u16::from_be_bytes([*high, *low]));
    let mut rest = page.get(4..end.min(page.len())).unwrap_or_default();
    while let [_, what, _, length, body @ ..] = rest {
        let Some((bytes, next)) = body.split_at_checked(usize::from(*length)) else { break };
        list.push(Designator { association: what >> 4 & 3, kind: what & 0x0F, bytes });
        rest = next;
    }
    list
}

/// The names of the logical unit that are unique in the world (EUI-64, NAA, SCSI name string), or, where a target has
/// none of these, the T10 vendor identification.
fn unit_names(page: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let named = |wanted: &[u8]| -> Vec<_> {
        let all = designators(page).into_iter();
        all.filter(|name| name.association == LOGICAL_UNIT && wanted.contains(&name.kind))
            .map(|name| (name.kind, name.bytes.to_vec()))
            .collect()
    };
    let unique = named(&[2, 3, 8]);
    if unique.is_empty() { named(&[1]) } else { unique }
}

/// Whether two VPD pages 83h are of the same logical unit.
pub(crate) fn same_unit(source: &[u8], destination: &[u8]) -> SameUnit {
    let (source, destination) = (unit_names(source), unit_names(destination));
    if source.is_empty() || destination.is_empty() {
        return SameUnit::Unknown;
    }
    if source.iter().any(|name| destination.contains(name)) { SameUnit::Same } else { SameUnit::Different }
}

/// The relative target port identifier that a VPD page 83h tells.
pub(crate) fn target_port(page: &[u8]) -> Option<u16> {
    let all = designators(page).into_iter();
    let mut ports = all.filter(|name| name.association == TARGET_PORT && name.kind == RELATIVE_TARGET_PORT);
    match ports.next()?.bytes {
        [_, _, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// SUPPORT of a one-command reply: 011b as the standard says, 101b in a vendor's way, 001b not at all.
pub(crate) fn support(reply: &[u8]) -> Known {
    match reply.get(1).map(|byte| byte & 0x07) {
        Some(3) => Known::Yes,
        Some(1 | 5) => Known::No,
        _ => Known::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(descriptors: &[&[u8]]) -> Vec<u8> {
        let body = descriptors.concat();
        let mut page = vec![0, 0x83, 0, u8::try_from(body.len()).unwrap()];
        page.extend(body);
        page
    }

    const NAA: &[u8] = &[0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7];
    const OTHER: &[u8] = &[0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 8];
    const VENDOR: &[u8] = &[0x02, 0x01, 0, 4, b'A', b'B', b'C', b'D'];
    const PORT: &[u8] = &[0x51, 0x94, 0, 4, 0, 0, 0x12, 0x34];

    #[test]
    fn one_unique_name_in_common_is_the_same_unit() {
        assert_eq!(same_unit(&page(&[VENDOR, NAA]), &page(&[NAA, PORT])), SameUnit::Same);
        assert_eq!(same_unit(&page(&[NAA]), &page(&[OTHER])), SameUnit::Different);
    }

    #[test]
    fn a_vendors_name_counts_only_where_there_is_no_unique_one() {
        assert_eq!(same_unit(&page(&[VENDOR]), &page(&[VENDOR])), SameUnit::Same);
        assert_eq!(same_unit(&page(&[VENDOR, NAA]), &page(&[VENDOR, OTHER])), SameUnit::Different);
        assert_eq!(same_unit(&page(&[]), &page(&[NAA])), SameUnit::Unknown);
    }

    #[test]
    fn the_port_is_the_one_the_command_came_through() {
        assert_eq!(target_port(&page(&[NAA, PORT])), Some(0x1234));
        assert_eq!(target_port(&page(&[NAA])), None);
    }

    #[test]
    fn pages_cut_anywhere_are_read_as_far_as_they_go() {
        let full = page(&[NAA, PORT]);
        for length in 0..full.len() {
            assert_eq!(target_port(&full[..length]), None, "{length}");
        }
    }

    #[test]
    fn support_is_told_by_three_bits() {
        assert_eq!(support(&[0, 0x83]), Known::Yes);
        assert_eq!(support(&[0, 0x01]), Known::No);
        assert_eq!(support(&[0, 0x00]), Known::Unknown);
        assert_eq!(support(&[]), Known::Unknown);
    }
}
