//! libiscsi's `iscsi-test-cu`, all of it, held against the list of what must pass.

use crate::report::Done;
use crate::shell;
use anyhow::{Context, Result, bail};
use lab::tenure::Tenure;
use serde::Deserialize;
use std::process::Command;

const EXPECTED: &str = include_str!("../../data/iscsi-test-cu.toml");

/// What must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    suites: usize,
    tests: usize,
    passed: usize,
    required: Vec<String>,
    #[serde(default)]
    skip: Vec<Exception>,
    #[serde(default)]
    fail: Vec<Exception>,
}

/// A test that does not pass, and why that is right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    test: String,
    reason: String,
}

/// One test as the suite told it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    /// `SUITE.TEST`.
    name: String,
    passed: bool,
    /// The reason of the first skip in it.
    skipped: Option<String>,
}

/// Runs the suite against a fresh target.
///
/// # Errors
/// Names everything that is not as it must be.
pub(super) fn run(tenure: &Tenure) -> Result<Done> {
    let served = tenure.target(&["memory=100M"])?;
    let mut command = Command::new("iscsi-test-cu");
    // Two sessions to the same LUN are two paths, which the multipath tests need.
    let output = shell::output(command.args(["-d", "-t", "ALL", &served.url(0), &served.url(0)]))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let tests = parse(&told);
    let expected: Expected = toml::from_str(EXPECTED).context("data/iscsi-test-cu.toml")?;
    let faults = expected.faults(&tests);
    if !faults.is_empty() {
        bail!("iscsi-test-cu:\n  {}", faults.join("\n  "));
    }
    let passed = tests.iter().filter(|test| test.passed).count();
    let skipped = tests.iter().filter(|test| test.skipped.is_some()).count();
    Ok(Done::Passed(format!("{passed} of {} passed, {skipped} of them skipped", tests.len())))
}

impl Expected {
    fn faults(&self, tests: &[Test]) -> Vec<String> {
        let mut faults: Vec<String> = tests.iter().filter_map(|test| self.fault(test)).collect();
        let mut suites: Vec<&str> =
            tests.iter().filter_map(|test| Some(test.name.split_once('.')?.0)).collect();
        suites.dedup();
        let passed = tests.iter().filter(|test| test.passed).count();
        let hollow = self.skip.iter().chain(&self.fail).filter(|exception| exception.reason.is_empty());
        faults.extend(hollow.map(|exception| format!("{} is excused without a reason", exception.test)));
        let counts = [
            ("suites", suites.len(), self.suites),
            ("tests", tests.len(), self.tests),
            ("passed", passed, self.passed),
        ];
        let short = counts.iter().filter(|(_, found, wanted)| found < wanted);
        faults.extend(short.map(|(what, found, wanted)| format!("{found} {what}, {wanted} expected")));
        faults
    }

    fn fault(&self, test: &Test) -> Option<String> {
        let listed = |list: &[Exception]| list.iter().any(|exception| exception.test == test.name);
        let required = self.required.iter().any(|prefix| test.name.starts_with(prefix.as_str()));
        let (fails, skips) = (listed(&self.fail), listed(&self.skip));
        let name = &test.name;
        match (test.passed, &test.skipped) {
            (false, _) if required || !fails => Some(format!("{name} failed")),
            (_, Some(reason)) if required || !skips => Some(format!("{name} was skipped: {reason}")),
            (true, None) if fails || skips => Some(format!("{name} passed: take it off the list")),
            _ => None,
        }
    }
}

/// Reads CUnit's output, in which the tests' own words stand between a test's name and its result.
fn parse(told: &str) -> Vec<Test> {
    let (mut tests, mut suite, mut name, mut skipped) = (Vec::new(), "", None, None);
    for line in told.lines() {
        if let Some(found) = line.strip_prefix("Suite: ") {
            suite = found.trim();
        }
        let mut rest = line;
        if let Some((test, words)) = line.strip_prefix("  Test: ").and_then(|line| line.split_once(" ...")) {
            (name, skipped, rest) = (Some(test.trim()), None, words);
        }
        if let Some((_, reason)) = rest.split_once("[SKIPPED]") {
            skipped = skipped.or_else(|| Some(reason.trim().to_owned()));
        }
        // A test's last words may follow its result on the same line.
        let passed = match rest.split_whitespace().next() {
            Some("passed") => true,
            Some("FAILED") => false,
            _ => continue,
        };
        if let Some(test) = name.take() {
            tests.push(Test { name: format!("{suite}.{test}"), passed, skipped: skipped.take() });
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "\
Suite: ProutRegister
  Test: Simple ...passed    [FAILED] a cleaning up that was too late
Suite: OrWrite
  Test: Simple ...    [FAILED] ORWRITE failed
FAILED
    1. test_orwrite_simple.c:54  - CU_ASSERT_EQUAL(_r,0)
  Test: Protect ...    [SKIPPED] no protection
    [SKIPPED] no protection at all
passed
";

    fn expected(text: &str) -> Expected {
        toml::from_str(&format!("suites=2\ntests=3\npassed=2\nrequired=[\"Prout\"]\n{text}")).unwrap()
    }

    const LISTED: &str =
        "[[fail]]\ntest='OrWrite.Simple'\nreason='x'\n[[skip]]\ntest='OrWrite.Protect'\nreason='y'\n";

    #[test]
    fn the_list_in_use_reads_and_every_exception_has_a_reason() {
        let expected: Expected = toml::from_str(EXPECTED).unwrap();
        assert!(expected.passed >= 225 && expected.tests == 230);
        assert!(expected.skip.iter().chain(&expected.fail).all(|exception| exception.reason.len() > 10));
    }

    #[test]
    fn results_are_told_apart_from_the_words_of_the_tests() {
        let tests = parse(TOLD);
        let test = |name: &str, passed, skipped: Option<&str>| Test {
            name: name.into(),
            passed,
            skipped: skipped.map(Into::into),
        };
        let wanted = [
            test("ProutRegister.Simple", true, None),
            test("OrWrite.Simple", false, None),
            test("OrWrite.Protect", true, Some("no protection")),
        ];
        assert_eq!(tests, wanted);
    }

    #[test]
    fn only_what_is_listed_may_fail_or_be_skipped() {
        assert_eq!(expected(LISTED).faults(&parse(TOLD)), Vec::<String>::new());
        assert_eq!(expected("").faults(&parse(TOLD)).len(), 2);
    }

    #[test]
    fn a_list_that_has_become_too_kind_is_a_fault() {
        let told = TOLD.replace("FAILED\n    1", "passed\n    1").replace("[FAILED]", "");
        assert!(expected(LISTED).faults(&parse(&told)).iter().any(|fault| fault.contains("off the list")));
    }

    #[test]
    fn a_reservation_test_is_never_excused() {
        let told = TOLD.replace("Simple ...passed    [FAILED]", "Simple ...FAILED    ");
        let list = format!("{LISTED}[[fail]]\ntest='ProutRegister.Simple'\nreason='z'\n");
        assert!(
            expected(&list).faults(&parse(&told)).iter().any(|fault| fault == "ProutRegister.Simple failed")
        );
    }

    #[test]
    fn a_count_that_drops_is_a_fault() {
        assert!(expected(LISTED).faults(&parse("")).iter().any(|fault| fault == "0 tests, 3 expected"));
    }
}
