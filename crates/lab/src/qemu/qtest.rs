//! QEMU's qtest socket: ports and memory of a guest whose CPU never runs (QEMU, docs/devel/testing/qtest).

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A qtest connection.
#[derive(Debug)]
pub struct Qtest {
    socket: BufReader<UnixStream>,
}

impl Qtest {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// If the socket takes no timeout.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { socket: BufReader::new(stream) })
    }

    /// Writes a port; `width` is `b`, `w` or `l`.
    ///
    /// # Errors
    /// If QEMU is gone or refuses.
    pub fn output(&mut self, width: char, port: u16, value: u32) -> Result<()> {
        self.command(&format!("out{width} {port:#x} {value:#x}")).map(drop)
    }

    /// Reads a port.
    ///
    /// # Errors
    /// If QEMU is gone or refuses.
    pub fn input(&mut self, width: char, port: u16) -> Result<u32> {
        let answer = self.command(&format!("in{width} {port:#x}"))?;
        let digits = answer.trim_start_matches("0x");
        Ok(u32::from_str_radix(digits, 16)?)
    }

    /// Writes guest memory.
    ///
    /// # Errors
    /// If QEMU is gone or refuses.
    pub fn write(&mut self, address: u32, bytes: &[u8]) -> Result<()> {
        let length = bytes.len();
        self.command(&format!("write {address:#x} {length:#x} 0x{}", hex(bytes))).map(drop)
    }

    /// Reads guest memory.
    ///
    /// # Errors
    /// If QEMU is gone or refuses.
    pub fn read(&mut self, address: u32, length: usize) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let answer = self.command(&format!("read {address:#x} {length:#x}"))?;
        let bytes = unhex(answer.trim_start_matches("0x")).context("qtest: no hexadecimal digits")?;
        ensure!(bytes.len() == length, "qtest: {} bytes instead of {length}", bytes.len());
        Ok(bytes)
    }

    fn command(&mut self, line: &str) -> Result<String> {
        // At once: QEMU wakes up for every piece.
        self.socket.get_mut().write_all(format!("{line}\n").as_bytes())?;
        loop {
            let mut answer = String::new();
            self.socket.read_line(&mut answer).context("qtest")?;
            match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
                ("OK", value) => return Ok(value.to_owned()),
                ("IRQ", _) => {}
                _ => bail!("qtest: {line:.40}: {answer:?}"),
            }
        }
    }
}

/// Bytes as lower-case digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that digits stand for.
#[must_use]
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A qtest that is answered with these lines, and what it was asked.
    fn answered(
        lines: &'static str,
        ask: impl FnOnce(&mut Qtest) -> Result<Vec<u8>>,
    ) -> (Result<Vec<u8>>, String) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(lines.as_bytes()).unwrap();
        let answer = ask(&mut Qtest::new(ours).unwrap());
        let mut asked = String::new();
        BufReader::new(theirs).read_line(&mut asked).unwrap();
        (answer, asked)
    }

    #[test]
    fn interrupts_between_answers_are_passed_over() {
        let (answer, asked) = answered("IRQ raise 11\nOK 0xa5b6\n", |qtest| qtest.read(0x1000, 2));
        assert_eq!(answer.unwrap(), [0xA5, 0xB6]);
        assert_eq!(asked, "read 0x1000 0x2\n");
    }

    #[test]
    fn a_refusal_and_a_short_answer_are_errors() {
        for lines in ["FAIL Unknown command\n", "ERR\n", "OK 0xa5\n", "OK 0xzz11\n"] {
            assert!(answered(lines, |qtest| qtest.read(0, 2)).0.is_err(), "{lines}");
        }
    }

    #[test]
    fn digits_are_the_bytes() {
        assert_eq!(hex(&[0, 0xAB, 0xFF]), "00abff");
        assert_eq!(unhex("00abff").unwrap(), [0, 0xAB, 0xFF]);
        assert_eq!(unhex("0g"), None);
    }
}
