//! The options: those of `qemu-pr-helper`, and a few more. What the command line does not say the configuration file may.

use super::error::StartError;
use super::name::Name;
use super::trace::{self, Trace};
use super::{absolute, config};
use crate::metrics::Address;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use serde::{Deserialize, Deserializer};
use std::ffi::OsString;
use std::path::PathBuf;
use tracing::level_filters::LevelFilter;

/// Where the state is unless `--state` says.
const STATE: &str = "/var/lib/tenure";

/// Sends PERSISTENT RESERVE commands for virtual machines, remembers what they registered, and guards it.
#[derive(Debug, Parser)]
#[command(name = "tenure-pr-helper", version, disable_version_flag = true, infer_long_args = true)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub struct CommandLine {
    #[command(flatten)]
    settings: Settings,
    /// Run in the background; end with status 0 once clients can connect
    #[arg(short, long, overrides_with = "daemon")]
    daemon: bool,
    /// Options that are not given here: the long names as keys, in TOML [default: /etc/tenure/pr-helper.toml, if there]
    #[arg(long, value_name = "FILE", overrides_with = "config")]
    config: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
    // Not `--detached`: `--d` shall go on to mean `--daemon`.
    #[arg(long = "background-process", hide = true)]
    detached: bool,
}

/// What both the command line and the configuration file can say.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Settings {
    /// Listen here; absolute [default: /run/tenure/pr-helper.sock, or what the service manager passes]
    #[arg(short = 'k', long, value_name = "PATH", overrides_with = "socket")]
    pub(super) socket: Option<PathBuf>,
    /// Write the process number here, and lock it [default with -d: /run/tenure/pr-helper.pid]
    #[arg(short = 'f', long, value_name = "PATH", overrides_with = "pidfile")]
    pub(super) pidfile: Option<PathBuf>,
    /// Become this user after start, by name or number: one of its own, who may change the records, and never QEMU's
    #[arg(short, long, overrides_with = "user")]
    pub(super) user: Option<String>,
    /// Become this group after start, by name or number
    #[arg(short, long, overrides_with = "group")]
    pub(super) group: Option<String>,
    /// Keep records and audit in this directory [default: /var/lib/tenure]
    #[arg(long, value_name = "DIR", overrides_with = "state")]
    pub(super) state: Option<PathBuf>,
    /// Allow only what this file allows, in TOML [default: everything]
    #[arg(long, value_name = "FILE", overrides_with = "policy")]
    pub(super) policy: Option<PathBuf>,
    /// Whose records these are [default: the socket's path, without the number of the domain in libvirt's]
    #[arg(long, value_name = "NAME", overrides_with = "vm")]
    pub(super) vm: Option<String>,
    /// Serve Prometheus metrics on PORT (loopback), IP:PORT or unix:PATH; in a directory: NAME-OF-THE-RECORDS.sock
    #[arg(long, value_name = "ADDR", overrides_with = "metrics")]
    #[serde(deserialize_with = "address")]
    pub(super) metrics: Option<Address>,
    /// Serve the agent, which carries registrations to other hosts, on this socket; in a directory (PATH/ makes it): NAME-OF-THE-RECORDS.sock
    #[arg(long, value_name = "PATH", overrides_with = "agent_socket")]
    pub(super) agent_socket: Option<PathBuf>,
    /// The user that the agent runs as, by name or number; root may always [default: root alone]
    #[arg(long, value_name = "USER", overrides_with = "agent_user")]
    pub(super) agent_user: Option<String>,
    /// Log these traces, by name with * and ?; `help` lists them
    #[arg(short = 'T', long, value_name = "[enable=]PATTERN[,events=FILE][,file=FILE]")]
    pub(super) trace: Vec<String>,
    /// Log more; twice, thrice: still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Log errors only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl Settings {
    /// A key that several helpers cannot share.
    pub(super) fn of_one_helper(&self) -> Option<&'static str> {
        let own = [
            ("vm", self.vm.is_some()),
            ("socket", self.socket.is_some()),
            ("pidfile", self.pidfile.is_some()),
        ];
        own.into_iter().find_map(|(key, given)| given.then_some(key))
    }
}

fn address<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Address>, D::Error> {
    let text = String::deserialize(text)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

const LONG: &str = "\
Sends PERSISTENT RESERVE commands for virtual machines, remembers what they registered, and guards it.

Takes the place of qemu-pr-helper for QEMU's pr-manager-helper and for libvirt, with the same protocol and the same options.
Each virtual machine should have a helper of its own: its records are kept under --vm, else under the socket's path
(of libvirt's `domain-NUMBER-NAME` as `domain-NAME`, if NAME has fewer than 20 characters and so was not cut).

SIGTERM, SIGINT and SIGHUP let the commands under way end and be recorded, at most a minute, and end the helper. Policy
and configuration are read at the start; start it again to change them. QEMU connects again by itself, and records last.";

const EXAMPLES: &str = "\
Examples:
  tenure-pr-helper -k /run/tenure/pr-helper.sock
  tenure-pr-helper -k /run/vm1/pr.sock --vm vm1 --policy /etc/tenure/policy.toml --metrics unix:/run/vm1/metrics
  tenure-pr-helper -d -k /run/vm1/pr.sock -f /run/vm1/pr.pid -u nobody

The exit status is 0 after an orderly end, else 1 with one line on standard error.";

/// What to do.
pub(super) enum Asked {
    /// Print this and end.
    Print(String),
    /// Serve.
    Serve(Box<Options>),
}

/// Everything that was asked for; paths are absolute.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) name: Name,
    pub(super) daemon: bool,
    pub(super) detached: bool,
    pub(super) socket: Option<PathBuf>,
    pub(super) pidfile: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) state: PathBuf,
    pub(super) policy: Option<PathBuf>,
    pub(super) vm: Option<String>,
    pub(super) metrics: Option<Address>,
    pub(super) agent_socket: Option<PathBuf>,
    pub(super) agent_user: Option<String>,
    pub(super) level: LevelFilter,
    pub(super) trace: Trace,
}

/// Reads the command line and the configuration file.
pub(super) fn parse(name: Name, arguments: &[OsString]) -> Result<Asked, StartError> {
    let matches = CommandLine::command().bin_name(name.text()).try_get_matches_from(arguments);
    let line = match matches.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(line) => line,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Asked::Print(error.to_string())),
        Err(error) => return Err(StartError::Usage(one_line(name, &error))),
    };
    if line.version {
        return Ok(Asked::Print(version(name)));
    }
    let file = config::load(line.config.as_deref())?;
    let patterns = if line.settings.trace.is_empty() { &file.trace } else { &line.settings.trace };
    if patterns.iter().any(|pattern| pattern == "help" || pattern == "?") {
        return Ok(Asked::Print(trace::list()));
    }
    let trace = Trace::parse(patterns)?;
    if [&line.settings.vm, &file.vm].into_iter().flatten().any(String::is_empty) {
        return Err(StartError::Usage(format!("--vm takes a name; see {name} --help")));
    }
    Ok(Asked::Serve(Box::new(Options::of(name, line, file, trace))))
}

fn version(name: Name) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match name {
        Name::Tenure => format!("{name} {version}\n"),
        Name::Qemu => format!("{name} {version} ({})\n", Name::Tenure),
    }
}

/// What clap says on several lines.
fn one_line(name: Name, error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\nUsage").next().unwrap_or_default().trim_start_matches("error: ");
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("{}; see {name} --help", said.join(" "))
}

impl Options {
    fn of(name: Name, line: CommandLine, file: Settings, trace: Trace) -> Self {
        let CommandLine { settings: given, daemon, detached, .. } = line;
        let voice = if given.quiet || given.verbose > 0 { &given } else { &file };
        let level = level(voice.quiet, voice.verbose);
        let pidfile = given.pidfile.or(file.pidfile);
        let pidfile = pidfile.or_else(|| daemon.then(|| name.pidfile().into()));
        Self {
            name,
            daemon,
            detached,
            level,
            trace,
            socket: given.socket.or(file.socket),
            pidfile: pidfile.map(|path| absolute(&path)),
            user: given.user.or(file.user),
            group: given.group.or(file.group),
            state: absolute(&given.state.or(file.state).unwrap_or_else(|| STATE.into())),
            policy: given.policy.or(file.policy).map(|path| absolute(&path)),
            vm: given.vm.or(file.vm),
            metrics: given.metrics.or(file.metrics),
            agent_socket: given.agent_socket.or(file.agent_socket).map(|path| absolute(&path)),
            agent_user: given.agent_user.or(file.agent_user),
        }
    }
}

const fn level(quiet: bool, verbose: u8) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(arguments: &[&str]) -> Result<Asked, StartError> {
        let nothing = ["tenure-pr-helper", "--config", "/dev/null"];
        let all: Vec<OsString> = nothing.iter().chain(arguments).map(OsString::from).collect();
        parse(Name::Tenure, &all)
    }

    fn options(arguments: &[&str]) -> Box<Options> {
        match ask(arguments) {
            Ok(Asked::Serve(options)) => options,
            Ok(Asked::Print(text)) => panic!("{text}"),
            Err(error) => panic!("{error}"),
        }
    }

    fn refused(arguments: &[&str]) -> String {
        ask(arguments).err().unwrap().to_string()
    }

    #[test]
    fn the_options_are_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_last_of_several_counts_and_long_names_may_be_cut_as_getopt_has_it() {
        let asked = options(&["-k", "/a", "--sock=/b", "-d", "--d", "-u1", "-u", "2"]);
        assert_eq!(asked.socket, Some("/b".into()));
        assert_eq!(asked.user.as_deref(), Some("2"));
        assert!(asked.daemon);
    }

    #[test]
    fn a_daemon_has_a_pidfile_and_others_have_none() {
        assert_eq!(options(&["-d"]).pidfile, Some("/run/tenure/pr-helper.pid".into()));
        assert_eq!(options(&[]).pidfile, None);
    }

    #[test]
    fn each_v_says_more_and_q_says_least() {
        let levels = [[].as_slice(), &["-v"], &["-vv"], &["-vvv"], &["-v", "-v", "-v", "-v"], &["-q"]];
        let found = levels.map(|arguments| options(arguments).level);
        let (warn, info) = (LevelFilter::WARN, LevelFilter::INFO);
        let (debug, all) = (LevelFilter::DEBUG, LevelFilter::TRACE);
        assert_eq!(found, [warn, info, debug, all, all, LevelFilter::ERROR]);
    }

    #[test]
    fn what_is_wrong_is_said_on_one_line_with_where_to_look() {
        for bad in
            [&["--bogus"][..], &["-k"], &["extra"], &["--vm", ""], &["--metrics", "nowhere"], &["--s=/x"]]
        {
            let said = refused(bad);
            assert!(said.ends_with("see tenure-pr-helper --help") && !said.contains('\n'), "{said:?}");
        }
        assert!(refused(&["--bogus"]).contains("'--bogus'"));
    }

    #[test]
    fn started_as_the_incumbent_it_has_its_name_and_its_paths() {
        let ask = |argument: &str| parse(Name::Qemu, &["qemu-pr-helper".into(), argument.into()]);
        let Ok(Asked::Print(version)) = ask("-V") else { panic!("no version") };
        assert!(version.starts_with("qemu-pr-helper 0."), "{version}");
        let Ok(Asked::Serve(options)) = ask("-d") else { panic!("no options") };
        assert_eq!(options.pidfile, Some("/var/run/qemu-pr-helper.pid".into()));
        assert!(ask("--bogus").err().unwrap().to_string().ends_with("see qemu-pr-helper --help"));
    }
}
