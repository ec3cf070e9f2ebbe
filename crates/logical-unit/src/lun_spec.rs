//! The text form of a logical unit: `file=PATH[,size=SIZE][,direct=on|off]`, `block=PATH[,reservations=DIR][,direct=on|off]`
//! or `memory=SIZE`, plus `[,readonly=on|off][,serial=TEXT][,wwn=HEX][,profile=NAME][,delay=DURATION]`. Used by the command line; every error names the part at fault.

use crate::presentation::{Presentation, PresentationError};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Largest logical unit: what a sparse file can hold.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Where the blocks of a logical unit are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A sparse file.
    File {
        /// Its path.
        path: PathBuf,
        /// Size in bytes; the file is created or grown to it. `None`: the file exists and keeps its size.
        size: Option<u64>,
    },
    /// A block device, as large as it is.
    Block {
        /// Its path.
        path: PathBuf,
        /// The directory of the file that remembers its reservations: there is none beside a device. `None`: the caller
        /// must name one before the logical unit is opened.
        reservations: Option<PathBuf>,
    },
    /// Memory, allocated as it is written; gone with the process.
    Memory {
        /// Size in bytes.
        size: u64,
    },
}

/// One logical unit as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunSpec {
    /// Where the blocks are.
    pub medium: Medium,
    /// Name of the behaviour profile; `spc` is the standard's.
    pub profile: String,
    /// Latency added to every command.
    pub delay: Duration,
    /// Whether direct I/O is used where the medium can have it. `None`: nothing was said, and it is not.
    pub direct: Option<bool>,
    /// How it presents itself where that does not follow from the medium.
    pub presentation: Presentation,
}

/// What is wrong with a LUN specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LunSpecError {
    /// None of `file=`, `block=` and `memory=`, or several.
    #[error("a LUN is exactly one of file=PATH, block=PATH and memory=SIZE")]
    Medium,
    /// A part that is not `name=value` with a known name.
    #[error(
        "`{0}` is not one of file=, block=, memory=, size=, reservations=, direct=, readonly=, serial=, wwn=, profile=, delay="
    )]
    Part(String),
    /// The same part twice.
    #[error("`{0}=` is given twice")]
    Twice(String),
    /// `size=` without `file=`.
    #[error("size= goes with file=")]
    SizeWithoutFile,
    /// A size that is not a number with an optional K, M, G or T, or is zero or too large.
    #[error("`{0}` is not a size: a number of bytes with an optional K, M, G or T")]
    Size(String),
    /// A duration that is not a number with us, ms or s.
    #[error("`{0}` is not a duration: a number with us, ms or s")]
    Duration(String),
    /// An empty path.
    #[error("file=, block= and reservations= each name a path")]
    EmptyPath,
    /// `reservations=` without `block=`.
    #[error("reservations= goes with block=; those of a file are kept beside it")]
    ReservationsWithoutBlock,
    /// `direct=` for memory, or neither on nor off.
    #[error("direct=on and direct=off go with file= and block=")]
    Direct,
    /// `readonly=` that is neither on nor off.
    #[error("readonly= is on or off")]
    ReadOnly,
    /// `size=` with `readonly=on`.
    #[error("size= makes a file, or makes it grow, which readonly=on forbids: give one of them")]
    SizeOfReadOnly,
    /// `serial=` or `wwn=` with what cannot be told.
    #[error(transparent)]
    Presentation(#[from] PresentationError),
}

impl LunSpec {
    /// A logical unit of `size` bytes in memory that follows the standard.
    #[must_use]
    pub fn memory(size: u64) -> Self {
        let medium = Medium::Memory { size };
        Self {
            medium,
            profile: "spc".to_owned(),
            delay: Duration::ZERO,
            direct: None,
            presentation: Presentation::default(),
        }
    }

    /// Whether both have the same NAA identifier: whoever reaches both takes them for one logical unit.
    #[must_use]
    pub fn is_named_as(&self, other: &Self) -> bool {
        let own = &self.presentation.wwn;
        own.is_some() && *own == other.presentation.wwn
    }
}

/// The parts of a specification as they were written.
#[derive(Default)]
struct Parts<'a> {
    file: Option<&'a str>,
    block: Option<&'a str>,
    memory: Option<&'a str>,
    size: Option<&'a str>,
    reservations: Option<&'a str>,
    direct: Option<&'a str>,
    readonly: Option<&'a str>,
    serial: Option<&'a str>,
    wwn: Option<&'a str>,
    profile: Option<&'a str>,
    delay: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, LunSpecError> {
        let mut parts = Self::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| LunSpecError::Part(part.to_owned()))?;
            let slot = parts.slot(name).ok_or_else(|| LunSpecError::Part(part.to_owned()))?;
            if slot.replace(value).is_some() {
                return Err(LunSpecError::Twice(name.to_owned()));
            }
        }
        Ok(parts)
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<&'a str>> {
        Some(match name {
            "file" => &mut self.file,
            "block" => &mut self.block,
            "memory" => &mut self.memory,
            "size" => &mut self.size,
            "reservations" => &mut self.reservations,
            "direct" => &mut self.direct,
            "readonly" => &mut self.readonly,
            "serial" => &mut self.serial,
            "wwn" => &mut self.wwn,
            "profile" => &mut self.profile,
            "delay" => &mut self.delay,
            _ => return None,
        })
    }

    fn medium(&self) -> Result<Medium, LunSpecError> {
        if [self.file, self.block, self.reservations].contains(&Some("")) {
            return Err(LunSpecError::EmptyPath);
        }
        let medium = match (self.file, self.block, self.memory) {
            (Some(path), None, None) => {
                Medium::File { path: path.into(), size: self.size.map(parse_size).transpose()? }
            }
            (None, Some(path), None) => {
                Medium::Block { path: path.into(), reservations: self.reservations.map(Into::into) }
            }
            (None, None, Some(memory)) => Medium::Memory { size: parse_size(memory)? },
            _ => return Err(LunSpecError::Medium),
        };
        if self.size.is_some() && self.file.is_none() {
            return Err(LunSpecError::SizeWithoutFile);
        }
        if self.reservations.is_some() && self.block.is_none() {
            return Err(LunSpecError::ReservationsWithoutBlock);
        }
        Ok(medium)
    }

    fn direct(&self) -> Result<Option<bool>, LunSpecError> {
        match (self.direct, self.memory) {
            (None, _) => Ok(None),
            (Some("on"), None) => Ok(Some(true)),
            (Some("off"), None) => Ok(Some(false)),
            _ => Err(LunSpecError::Direct),
        }
    }

    fn presentation(&self) -> Result<Presentation, LunSpecError> {
        let read_only = match self.readonly {
            None | Some("off") => false,
            Some("on") if self.size.is_some() => return Err(LunSpecError::SizeOfReadOnly),
            Some("on") => true,
            Some(_) => return Err(LunSpecError::ReadOnly),
        };
        let serial = self.serial.map(str::parse).transpose()?;
        Ok(Presentation { read_only, serial, wwn: self.wwn.map(str::parse).transpose()? })
    }
}

impl FromStr for LunSpec {
    type Err = LunSpecError;

    fn from_str(text: &str) -> Result<Self, LunSpecError> {
        let parts = Parts::split(text)?;
        Ok(Self {
            medium: parts.medium()?,
            profile: parts.profile.unwrap_or("spc").to_owned(),
            delay: parts.delay.map_or(Ok(Duration::ZERO), parse_duration)?,
            direct: parts.direct()?,
            presentation: parts.presentation()?,
        })
    }
}

fn parse_size(text: &str) -> Result<u64, LunSpecError> {
    let wrong = || LunSpecError::Size(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(wrong)?;
    if size == 0 || size > MAX_SIZE { Err(wrong()) } else { Ok(size) }
}

fn parse_duration(text: &str) -> Result<Duration, LunSpecError> {
    let wrong = || LunSpecError::Duration(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match text.get(digits.len()..).unwrap_or_default() {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read() {
        let spec: LunSpec = "file=/var/lun0,size=1G,profile=lio,delay=250us".parse().unwrap();
        let medium = Medium::File { path: "/var/lun0".into(), size: Some(1 << 30) };
        let delay = Duration::from_micros(250);
        let presentation = Presentation::default();
        assert_eq!(spec, LunSpec { medium, profile: "lio".into(), delay, direct: None, presentation });
        let spec: LunSpec = "direct=off,block=/dev/vdb,reservations=/var/lib/pr".parse().unwrap();
        let medium = Medium::Block { path: "/dev/vdb".into(), reservations: Some("/var/lib/pr".into()) };
        assert_eq!((spec.medium, spec.direct), (medium, Some(false)));
        let spec: LunSpec = "file=/a,serial=S 1,readonly=on,wwn=0x5000c500a1b2c3d4".parse().unwrap();
        let (serial, wwn) = ("S 1".parse().ok(), "5000c500a1b2c3d4".parse().ok());
        assert_eq!(spec.presentation, Presentation { read_only: true, serial, wwn });
        assert_eq!("file=/a,readonly=off".parse::<LunSpec>().unwrap().presentation, Presentation::default());
        assert_eq!("memory=64M".parse(), Ok(LunSpec::memory(64 << 20)));
    }

    #[test]
    fn each_fault_is_named() {
        let cases = [
            ("", LunSpecError::Part(String::new())),
            ("delay=1s", LunSpecError::Medium),
            ("file=a,memory=1M", LunSpecError::Medium),
            ("file=a,block=b", LunSpecError::Medium),
            ("file=", LunSpecError::EmptyPath),
            ("block=a,reservations=", LunSpecError::EmptyPath),
            ("block=a,size=1M", LunSpecError::SizeWithoutFile),
            ("file=a,reservations=b", LunSpecError::ReservationsWithoutBlock),
            ("file=a,direct=yes", LunSpecError::Direct),
            ("memory=1M,direct=on", LunSpecError::Direct),
            ("file=a,readonly=yes", LunSpecError::ReadOnly),
            ("file=a,size=1M,readonly=on", LunSpecError::SizeOfReadOnly),
            ("file=a,serial=", LunSpecError::Presentation(PresentationError::Serial)),
            ("file=a,wwn=12", LunSpecError::Presentation(PresentationError::Wwn)),
            ("file=a,wwn=5000c500a1b2c3d4,wwn=5000c500a1b2c3d4", LunSpecError::Twice("wwn".into())),
            ("memory=0", LunSpecError::Size("0".into())),
            ("memory=12Q", LunSpecError::Size("12Q".into())),
            ("memory=99999999T", LunSpecError::Size("99999999T".into())),
            ("memory=1M,size=1M", LunSpecError::SizeWithoutFile),
            ("memory=1M,memory=2M", LunSpecError::Twice("memory".into())),
            ("memory=1M,colour=red", LunSpecError::Part("colour=red".into())),
            ("memory=1M,delay=5", LunSpecError::Duration("5".into())),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<LunSpec>(), Err(error), "{text}");
        }
    }
}
