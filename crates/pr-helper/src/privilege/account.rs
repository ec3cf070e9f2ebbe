//! The user and group of `-u` and `-g`: found by name or number, and become for good.

use super::PrivilegeError;
use nix::unistd::{Group, User};
use rustix::io::Result;
use rustix::process::{Gid, Uid};
use rustix::thread;

/// A user and group to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub(super) uid: Option<Uid>,
    pub(super) gid: Option<Gid>,
}

impl Account {
    /// Finds what `-u` and `-g` name. A user without a group brings its own primary group, where it has one.
    /// `None` if neither is given.
    ///
    /// # Errors
    /// [`PrivilegeError::NoSuchUser`] and [`PrivilegeError::NoSuchGroup`].
    pub fn find(
        user: Option<&str>,
        group: Option<&str>,
    ) -> std::result::Result<Option<Self>, PrivilegeError> {
        let user = user.map(|name| find_user(name).ok_or_else(|| PrivilegeError::NoSuchUser(name.into())));
        let group =
            group.map(|name| find_group(name).ok_or_else(|| PrivilegeError::NoSuchGroup(name.into())));
        Ok(match (user.transpose()?, group.transpose()?) {
            (None, None) => None,
            (None, gid) => Some(Self { uid: None, gid }),
            (Some((uid, primary)), gid) => Some(Self { uid: Some(uid), gid: gid.or(primary) }),
        })
    }

    /// The number of the user, if one was named.
    #[must_use]
    pub fn user(self) -> Option<u32> {
        self.uid.map(Uid::as_raw)
    }

    /// Leaves every group, then becomes the group, then the user: the other way round the right to change groups
    /// would be gone. Permitted capabilities stay; `capabilities` drops them.
    pub(super) fn assume(self) -> Result<()> {
        thread::set_keep_capabilities(true)?;
        thread::set_thread_groups(&[])?;
        if let Some(gid) = self.gid {
            thread::set_thread_res_gid(gid, gid, gid)?;
        }
        if let Some(uid) = self.uid {
            thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    }
}

fn find_user(name: &str) -> Option<(Uid, Option<Gid>)> {
    let known = User::from_name(name).ok().flatten();
    let known = known.or_else(|| User::from_uid(number(name)?.into()).ok().flatten());
    match known {
        Some(user) => Some((Uid::from_raw(user.uid.as_raw()), Some(Gid::from_raw(user.gid.as_raw())))),
        None => Some((Uid::from_raw(number(name)?), None)),
    }
}

fn find_group(name: &str) -> Option<Gid> {
    let known = Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
    known.or_else(|| number(name)).map(Gid::from_raw)
}

/// All ones means "leave as it is" to the kernel, so it is no number of anybody.
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|&number| number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: Option<&str>, group: Option<&str>) -> Option<(Option<u32>, Option<u32>)> {
        let account = Account::find(user, group).unwrap()?;
        Some((account.uid.map(Uid::as_raw), account.gid.map(Gid::as_raw)))
    }

    #[test]
    fn nobody_named_is_nobody_to_become() {
        assert_eq!(find(None, None), None);
    }

    #[test]
    fn a_name_and_a_number_are_the_same_user() {
        assert_eq!(find(Some("root"), None), Some((Some(0), Some(0))));
        assert_eq!(find(Some("0"), Some("0")), find(Some("root"), Some("root")));
    }

    #[test]
    fn a_number_without_an_entry_is_a_user_without_a_group() {
        assert_eq!(find(Some("4123456789"), None), Some((Some(4_123_456_789), None)));
    }

    #[test]
    fn a_group_alone_keeps_the_user() {
        assert_eq!(find(None, Some("7")), Some((None, Some(7))));
    }

    #[test]
    fn who_does_not_exist_is_refused_by_name() {
        for bad in ["no-such-user", "", "-1", "4294967295", "4294967296", "0x0"] {
            let refused = Account::find(Some(bad), None).unwrap_err();
            assert!(refused.to_string().contains(&format!("{bad:?}")), "{refused}");
            assert!(matches!(Account::find(None, Some(bad)), Err(PrivilegeError::NoSuchGroup(_))));
        }
    }
}
