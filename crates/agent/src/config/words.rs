//! Values of the file that have a form of their own.

use crate::drive::Device;
use scsi::pr::Key;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// `version = 1`, the only one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            1 => Ok(Self),
            newer => Err(format!("this program reads version 1 of this file, not {newer}")),
        }
    }
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It may.
    #[default]
    On,
    /// It may not.
    Off,
}

/// A UUID in QEMU's form, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Uuid(String);

impl Uuid {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Uuid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_digit = |(at, byte): (usize, u8)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        if text.len() == 36 && text.bytes().enumerate().all(is_digit) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err("a UUID is 8-4-4-4-12 hexadecimal digits, as QEMU's -uuid takes it".into())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parsed<T: FromStr<Err: fmt::Display>, E: Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(E::custom)
}

/// A string with a form.
pub(super) fn text<'d, D: Deserializer<'d>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<T, D::Error> {
    parsed(&String::deserialize(from)?)
}

/// The same, where it may be absent.
pub(super) fn optional_text<'d, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'d>,
    T: FromStr<Err: fmt::Display>,
{
    text(from).map(Some)
}

/// Several of them.
pub(super) fn texts<'d, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'d>,
    T: FromStr<Err: fmt::Display>,
{
    Vec::<String>::deserialize(from)?.iter().map(|each| parsed(each)).collect()
}

/// A reservation key; as a string, because TOML's integers end where half of the keys begin.
pub(super) fn key<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Key>, D::Error> {
    let key: Key = text(from)?;
    if key.is_none() { Err(D::Error::custom("0 is no key of anybody")) } else { Ok(Some(key)) }
}

/// An `iscsi://` URL.
pub(super) fn url<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Device>, D::Error> {
    match text(from)? {
        Device::Local(_) => {
            Err(D::Error::custom("a url begins with iscsi://; a device node goes under `node`"))
        }
        device @ Device::Iscsi(_) => Ok(Some(device)),
    }
}

/// A way over which QEMU may wait for a guest.
pub(super) fn way<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::vmm::fits(&text).map_err(D::Error::custom)?;
    Ok(Some(text))
}
