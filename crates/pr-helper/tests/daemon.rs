//! The program itself: how it starts, what it says, what it gives up, and how it ends.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use nexus::Nexus;
use rustix::process::Signal;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use support::daemon::*;
use support::*;

const NOTHING: [&str; 0] = [];

/// Both commands on what is no SCSI device get the incumbent's answer: ABORTED COMMAND, I/O PROCESS TERMINATED.
fn is_served(client: &mut Client) {
    for request in [pr_in(8), pr_out(24, &[0; 24])] {
        let reply = client.request(&request, null()).unwrap();
        assert_eq!((reply[3], reply[10], &reply[20..22]), (2, 0xB, &[0, 6][..]));
    }
}

#[test]
fn with_a_socket_and_a_state_directory_alone_it_serves_records_and_audits() {
    let place = Place::new();
    let helper = place.serve(NOTHING);
    is_served(&mut helper.client());
    let audit = fs::read_to_string(place.records().join("audit.jsonl")).unwrap();
    assert_eq!(audit.lines().count(), 1);
    assert!(audit.contains(&format!("\"vm\":\"{}\"", place.path("run/sock").display())), "{audit}");
    assert!(audit.contains(&format!("\"pid\":{}", std::process::id())), "{audit}");
    assert_eq!(fs::metadata(place.path("state")).unwrap().mode() & 0o7777, 0o700);
    assert!(place.records().join("log").exists());
    let said = helper.end();
    assert!(said.contains("warning: REGISTER on a descriptor refused: no SCSI device"), "{said}");
    assert!(!place.path("run/sock").exists(), "the socket is removed");
}

#[test]
fn it_runs_confined() {
    let place = Place::new();
    let helper = place.serve(["-v"]);
    is_served(&mut helper.client());
    assert_eq!((helper.status("NoNewPrivs"), helper.status("Seccomp")), ("1".into(), "2".into()));
    if is_root() {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| helper.status(set));
        let sets = sets.map(|set| u64::from_str_radix(&set, 16).unwrap());
        assert_eq!(sets, [0, 1 << 17, 1 << 17, 0, 0], "CAP_SYS_RAWIO alone");
    }
    let said = helper.end();
    assert!(said.contains("info: seccomp: applied"), "{said}");
}

#[test]
fn the_user_of_u_can_serve_and_record() {
    if !is_root() {
        return skipped("not root, and so no other user can be become");
    }
    let place = Place::new();
    let helper = place.serve(["-u", "65534"]);
    assert_eq!(helper.status("Uid"), ["65534"; 4].join("\t"));
    assert_eq!(helper.status("CapEff"), format!("{:016x}", 1 << 17));
    is_served(&mut helper.client());
    assert_eq!(fs::metadata(place.records().join("audit.jsonl")).unwrap().uid(), 65534);
    assert_eq!(fs::read_to_string(place.records().join("audit.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn helpers_of_several_users_leave_each_other_their_records() {
    if !is_root() {
        return skipped("not root, and so no other user can be become");
    }
    let place = Place::new();
    let roots = place.serve(["--vm", "roots"]);
    let other = place.path("other");
    let options = ["-k", other.to_str().unwrap(), "--vm", "others", "-u", "65534"];
    let start = || {
        let mut command = place.command();
        command.args(options);
        Helper::start(command, other.clone())
    };
    is_served(&mut start().client());
    is_served(&mut roots.client());
    let owner = |name: &str| fs::metadata(place.path("state").join(name)).unwrap().uid();
    assert_eq!(
        ["", "guests", "guests/roots", "guests/roots/log", "guests/roots/audit.jsonl"].map(owner),
        [0; 5]
    );
    assert_eq!(["guests/others", "guests/others/log", "guests/others/audit.jsonl"].map(owner), [65534; 3]);
    let _ = fs::remove_file(&other);
    let said = place.refused(&options[..4]);
    assert!(said.contains("belongs to user 65534") && said.contains("start with -u 65534"), "{said}");
    is_served(&mut start().client());
}

#[test]
fn each_signal_ends_it_in_good_order_and_idle_clients_do_not_hold_it() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let place = Place::new();
        let mut helper = place.serve(["-f", "run/pid"]);
        let mut idle = helper.client();
        assert_eq!(pid_in(&place.path("run/pid")), helper.pid());
        helper.signal(signal);
        assert!(helper.wait().success());
        assert!(idle.is_closed());
        assert!(!place.path("run/sock").exists() && !place.path("run/pid").exists());
    }
}

#[test]
fn a_request_that_was_sent_before_the_signal_is_answered_or_never_begun() {
    let place = Place::new();
    let mut helper = place.serve(NOTHING);
    let mut clients: Vec<_> = (0..8).map(|_| helper.client()).collect();
    clients.iter_mut().for_each(is_served);
    helper.signal(Signal::TERM);
    let answered =
        clients.iter_mut().filter_map(|client| client.request(&pr_out(24, &[0; 24]), null())).count();
    assert!(helper.wait().success());
    let audit = fs::read_to_string(place.records().join("audit.jsonl")).unwrap();
    assert_eq!(audit.lines().count(), 8 + answered, "as many replies as commands");
}

#[test]
fn in_the_background_the_first_process_ends_when_clients_can_connect() {
    let place = Place::new();
    let (sock, pidfile) = (place.path("run/sock"), place.path("run/pid"));
    let mut command = place.command();
    let output = command.args(["-d", "-f", "run/pid", "-k"]).arg(&sock).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pid = pid_in(&pidfile);
    is_served(&mut Client::connect(&sock));
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    for fd in 0..3 {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "a session of its own");
    assert_eq!(status(pid, "Name"), "tenure-pr-helpe");
    kill(pid, Signal::TERM);
    wait_until("it has ended", || !sock.exists() && !pidfile.exists());
}

#[test]
fn a_start_in_the_background_that_fails_says_so_in_the_foreground() {
    let place = Place::new();
    let said = place.refused(["-d", "-f", "run/pid", "-k", "/no/such/directory/sock"]);
    assert!(said.contains("cannot listen on /no/such/directory/sock"), "{said}");
    assert!(!place.path("run/pid").exists());
}

#[test]
fn what_is_wrong_at_the_start_is_one_line_with_what_to_do() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    fs::write(place.path("bad.toml"), "version = 1\n[[rule]]\nvn = 'x'\n").unwrap();
    fs::write(place.path("locked"), "").unwrap();
    let file = place.path("file");
    let sock = place.path("run/sock");
    let (file, sock) = (file.to_str().unwrap(), sock.to_str().unwrap());
    for (options, expected) in [
        (vec!["-k", "relative"], "socket path must be absolute"),
        (vec!["-k", file], "is there and is no socket; remove it"),
        (vec!["-k", sock, "-u", "no-such-user"], "invalid user \"no-such-user\""),
        (vec!["-k", sock, "-g", "no-such-group"], "invalid group \"no-such-group\""),
        (vec!["-k", sock, "-f", "/no/such/pid"], "cannot create pidfile /no/such/pid"),
        (vec!["-k", sock, "--policy", "bad.toml"], "bad.toml:3:1: unknown key `vn`"),
        (vec!["-k", sock, "--policy", "none.toml"], "none.toml: No such file or directory (os error 2)\n"),
        (vec!["-k", sock, "--config", "bad.toml"], "bad.toml:2:3: unknown key `rule`"),
        (vec!["--bogus"], "'--bogus' found; see tenure-pr-helper --help"),
    ] {
        let said = place.refused(&options);
        assert!(said.starts_with("tenure-pr-helper: ") && said.contains(expected), "{options:?}: {said}");
        assert!(!place.path("run/sock").exists(), "{options:?} left its socket behind");
    }
}

#[test]
fn under_the_incumbents_name_it_says_so() {
    let place = Place::new();
    let said = |argument: &str| {
        let output = place.command().arg0("/usr/bin/qemu-pr-helper").arg(argument).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(said("-V").starts_with("qemu-pr-helper "));
    assert!(said("--help").contains("Usage: qemu-pr-helper"));
    assert!(said("--bogus").starts_with("qemu-pr-helper: "));
}

#[test]
fn after_kill_9_the_next_start_takes_the_dead_socket_over() {
    let place = Place::new();
    let mut first = place.serve(["-f", "run/pid"]);
    first.signal(Signal::KILL);
    assert!(!first.wait().success());
    assert!(place.path("run/sock").exists() && place.path("run/pid").exists());
    let second = place.serve(["-f", "run/pid"]);
    is_served(&mut second.client());
    assert_eq!(pid_in(&place.path("run/pid")), second.pid());
}

#[test]
fn of_two_on_one_socket_or_pidfile_the_second_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let first = place.serve(["-f", "run/pid"]);
    let sock = place.path("run/sock");
    let said = place.refused(["-k", sock.to_str().unwrap()]);
    assert!(said.contains("is served by a process that is alive"), "{said}");
    let said = place.refused(["-k", place.path("other").to_str().unwrap(), "-f", "run/pid"]);
    assert!(said.contains("cannot lock pidfile"), "{said}");
    is_served(&mut first.client());
    assert_eq!(pid_in(&place.path("run/pid")), first.pid());
}

#[test]
fn many_starts_at_once_on_a_dead_socket_leave_one() {
    let place = Place::new();
    drop(UnixListener::bind(place.path("run/sock")).unwrap());
    let start = || place.command().arg("-k").arg(place.path("run/sock")).spawn().unwrap();
    let mut children: Vec<_> = (0..6).map(|_| start()).collect();
    let mut alive = Vec::new();
    wait_until("all but one have ended", || {
        alive = children
            .iter_mut()
            .filter_map(|child| child.try_wait().unwrap().is_none().then(|| child.id()))
            .collect();
        alive.len() == 1
    });
    is_served(&mut Client::connect(&place.path("run/sock")));
    kill(alive[0], Signal::TERM);
    children.iter_mut().for_each(|child| drop(child.wait()));
}

#[test]
fn what_took_its_place_is_not_removed() {
    let place = Place::new();
    let helper = place.serve(["-f", "run/pid"]);
    for name in ["run/sock", "run/pid"] {
        fs::remove_file(place.path(name)).unwrap();
    }
    let _other = UnixListener::bind(place.path("run/sock")).unwrap();
    fs::write(place.path("run/pid"), "1\n").unwrap();
    helper.end();
    assert!(place.path("run/sock").exists() && place.path("run/pid").exists());
}

/// The program with its arguments as a shell would be given them.
fn words(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn more_clients_are_served_than_a_shell_allows_descriptors() {
    let place = Place::new();
    let mut command = std::process::Command::new("/bin/sh");
    let sock = place.path("run/sock");
    command.args(["-c", &format!("ulimit -S -n 64; exec {} -k {}", words(&place.command()), sock.display())]);
    command.stderr(Stdio::null());
    let helper = Helper::start(command, sock);
    let mut clients: Vec<_> = (0..200).map(|_| helper.client()).collect();
    clients.iter_mut().for_each(is_served);
}

/// The program behind a shell that passes its standard input as descriptor 3, and maybe another as 4.
fn activate(place: &Place, listener: UnixListener, count: usize, options: &str) -> std::process::Command {
    let script = format!(
        "exec 3<&0 4<&0 </dev/null; LISTEN_FDS={count} LISTEN_PID=$$ exec {} {options}",
        words(&place.command())
    );
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &script]).current_dir(place.path("")).stderr(Stdio::piped());
    command.stdin(Stdio::from(rustix::fd::OwnedFd::from(listener)));
    command
}

#[test]
fn a_socket_that_is_passed_is_served_and_left_to_its_maker() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("run/sock")).unwrap();
    let helper = Helper::start(activate(&place, listener, 1, ""), place.path("run/sock"));
    is_served(&mut helper.client());
    let audit = fs::read_to_string(place.records().join("audit.jsonl")).unwrap();
    assert!(audit.contains(&format!("\"vm\":\"{}\"", place.path("run/sock").display())), "{audit}");
    helper.end();
    assert!(place.path("run/sock").exists());
}

#[test]
fn a_passed_socket_is_served_in_the_background_too() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("run/sock")).unwrap();
    fs::create_dir(place.path("own")).unwrap();
    let output = activate(&place, listener, 1, "-d -f own/pid").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    is_served(&mut Client::connect(&place.path("run/sock")));
    kill(pid_in(&place.path("own/pid")), Signal::TERM);
    wait_until("it has ended", || !place.path("own/pid").exists());
}

#[test]
fn sockets_that_are_passed_exclude_k_and_each_other() {
    let place = Place::new();
    for (count, options, expected) in [
        (1, "-k /run/x", "-k cannot be used with socket activation"),
        (2, "", "passes 2 sockets; exactly one"),
    ] {
        let _ = fs::remove_file(place.path("run/sock"));
        let listener = UnixListener::bind(place.path("run/sock")).unwrap();
        let output = activate(&place, listener, count, options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
}

#[test]
fn the_service_manager_is_told() {
    let place = Place::new();
    let manager = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = place.command();
    command.arg("-k").arg(place.path("run/sock")).env("NOTIFY_SOCKET", place.path("notify"));
    let helper = Helper::start(command, place.path("run/sock"));
    let told = || {
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(told(), "READY=1");
    helper.end();
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn a_service_manager_that_is_not_there_keeps_nobody_from_serving() {
    for socket in ["/no/such/socket", "@no such socket", "relative"] {
        let place = Place::new();
        let mut command = place.command();
        command.arg("-k").arg(place.path("run/sock")).env("NOTIFY_SOCKET", socket);
        let helper = Helper::start(command, place.path("run/sock"));
        is_served(&mut helper.client());
        assert!(helper.end().contains("NOTIFY_SOCKET"));
    }
}

#[test]
fn a_state_directory_that_cannot_be_used_leaves_reading_and_says_what_to_do() {
    let place = Place::new();
    fs::write(place.path("state"), "not a directory").unwrap();
    let helper = place.serve(NOTHING);
    is_served(&mut helper.client());
    let said = helper.end();
    assert!(said.contains("reservations can be read and not changed"), "{said}");
    assert!(said.contains(place.path("state").to_str().unwrap()), "{said}");
}

#[test]
fn neither_an_audit_nor_a_log_that_cannot_be_written_takes_a_reply_away() {
    let place = Place::new();
    let mut command = place.command();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    command.arg("-k").arg(place.path("run/sock")).stderr(Stdio::from(full));
    let helper = Helper::start(command, place.path("run/sock"));
    let audit = place.records().join("audit.jsonl");
    fs::remove_file(&audit).unwrap();
    fs::create_dir(&audit).unwrap();
    let mut client = helper.client();
    (0..3).for_each(|_| is_served(&mut client));
}

#[test]
fn a_ledger_that_is_damaged_or_from_the_future_is_left_alone_and_said() {
    for (log, expected) in [
        ("garbage\nmore\n", "is damaged (line 1"),
        ("tenure-ledger 99 \"db\"\n", "was written by a newer version"),
    ] {
        let place = Place::new();
        let path = place.path("state/guests/db/log");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, log).unwrap();
        let helper = place.serve(["--vm", "db"]);
        is_served(&mut helper.client());
        let said = helper.end();
        assert!(said.contains(expected) && said.contains("read and not changed"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), log);
    }
}

#[test]
fn the_configuration_says_what_the_command_line_does_not() {
    let place = Place::new();
    let config = format!("vm = 'from file'\nverbose = 1\nstate = '{}'\n", place.path("elsewhere").display());
    fs::write(place.path("config.toml"), config).unwrap();
    let helper = place.serve(["--config", "config.toml"]);
    is_served(&mut helper.client());
    let said = helper.end();
    assert!(said.contains("info: serving"), "{said}");
    assert!(!place.path("elsewhere").exists(), "--state was on the command line, which wins");
    assert!(place.path("state/guests/from%20file").exists());
}

#[test]
fn agents_are_served_on_a_socket_of_their_own_until_the_end() {
    let place = Place::new();
    let socket = place.path("run/agents");
    let user = if is_root() { 65534 } else { rustix::process::geteuid().as_raw() };
    let options = ["--agent-socket", socket.to_str().unwrap(), "--agent-user", &user.to_string()];
    let helper = place.serve(options);
    let found = fs::metadata(&socket).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (user, 0o600));
    let read = scsi::pr::request::read(scsi::pr::InAction::READ_KEYS, 8);
    let mut agent = pr_helper::Client::new(&socket, null(), ledger::HandoverId(1));
    for _ in 0..2 {
        let refused = agent.execute(&read).unwrap_err();
        let told = format!("{refused:?}");
        assert!(
            matches!(refused, nexus::TransportError::NotSent(_)) && told.contains("no SCSI device"),
            "{told}"
        );
    }
    is_served(&mut helper.client());
    helper.end();
    assert!(!socket.exists());
    assert!(agent.execute(&read).is_err(), "nobody serves it any more");
}

#[test]
fn guests_are_served_where_metrics_and_agents_cannot_be() {
    let place = Place::new();
    let long = format!("unix:{}/{}", place.path("").display(), "x".repeat(120));
    let cases = [
        (["--metrics", "unix:/no/such/metrics"], "no metrics are served: cannot listen on /no/such/metrics"),
        (["--metrics", &long], "no metrics are served"),
        (["--agent-socket", "/no/such/agents/"], "no agent is served"),
        (["--agent-socket", "/no/such/agent"], "no agent is served: cannot listen on /no/such/agent"),
    ];
    for (options, expected) in cases {
        let helper = place.serve(options);
        is_served(&mut helper.client());
        let said = helper.end();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn helpers_share_one_line_of_configuration() {
    let place = Place::new();
    let agents =
        format!("agent-socket = '{0}/agents/'\nmetrics = 'unix:{0}/metrics/'\n", place.path("").display());
    fs::write(place.path("shared.toml"), agents).unwrap();
    let start = |name: &str| {
        let mut command = place.command();
        command.args(["--config", "shared.toml", "--vm", name, "-k"]).arg(place.path(name));
        Helper::start(command, place.path(name))
    };
    let helpers = [start("a"), start("b")];
    for made in ["agents/a.sock", "agents/b.sock", "metrics/a.sock", "metrics/b.sock"] {
        assert!(UnixStream::connect(place.path(made)).is_ok(), "{made}");
    }
    helpers.into_iter().for_each(|helper| drop(helper.end()));
}

#[test]
fn a_directory_that_others_use_is_out_of_reach_and_one_of_its_own_is_left_clean() {
    let place = Place::new();
    fs::create_dir(place.path("shared")).unwrap();
    fs::write(place.path("shared/another's"), "").unwrap();
    let pidfile = place.path("shared/pid");
    for _ in 0..2 {
        let helper = place.serve(["-f", pidfile.to_str().unwrap()]);
        is_served(&mut helper.client());
        helper.end();
        assert!(!place.path("run/sock").exists() && place.path("shared/another's").exists());
    }
    // Where the kernel has landlock the pidfile had to stay; the second start wrote and locked it again.
    assert!(!pr_helper::privilege::has_landlock() || pidfile.exists());
}

#[test]
fn a_list_that_is_cut_is_refused_and_audited() {
    let place = Place::new();
    let helper = place.serve(NOTHING);
    let mut client = helper.client();
    let reply = client.request(&pr_out(0x0001_0018, &[0; 24]), null()).unwrap();
    assert_eq!((reply[3], reply[10], &reply[20..22]), (2, 5, &[0x1A, 0][..]));
    is_served(&mut client);
    let audit = fs::read_to_string(place.records().join("audit.jsonl")).unwrap();
    assert!(audit.lines().next().unwrap().contains("of 64 KiB or more only a part arrives"), "{audit}");
}

#[test]
fn metrics_are_served_and_count() {
    let place = Place::new();
    let metrics = place.path("run/metrics");
    let helper = place.serve(["--metrics", &format!("unix:{}", metrics.display())]);
    let mut client = helper.client();
    is_served(&mut client);
    assert!(client.request(&[&[0xFF][..], &[0; 15]].concat(), null()).is_some());
    let mut stream = UnixStream::connect(&metrics).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    for command in ["REGISTER", "READ KEYS", "cleanup"] {
        let line = format!("requests_total{{command=\"{command}\",outcome=\"refused\"}} 1\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    helper.end();
    assert!(!metrics.exists(), "its socket is removed");
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_guest() {
    let place = Place::new();
    let (_unread, write) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    let mut command = place.command();
    command.arg("-k").arg(place.path("run/sock")).stderr(Stdio::from(write));
    let helper = Helper::start(command, place.path("run/sock"));
    let mut client = helper.client();
    (0..100).for_each(|_| is_served(&mut client));
}

#[test]
fn priorities_are_for_the_journal_alone() {
    let place = Place::new();
    let stderr = fs::File::create(place.path("stderr")).unwrap();
    let file = stderr.metadata().unwrap();
    let logged = |stream: String| {
        let mut command = place.command();
        command.arg("-k").arg(place.path("run/sock")).env("JOURNAL_STREAM", stream);
        let helper = Helper::start(
            {
                command.stderr(stderr.try_clone().unwrap());
                command
            },
            place.path("run/sock"),
        );
        is_served(&mut helper.client());
        helper.end();
        fs::read_to_string(place.path("stderr")).unwrap()
    };
    assert!(logged("1:1".into()).starts_with("tenure-pr-helper: warning: REGISTER"));
    let both = logged(format!("{}:{}", file.dev(), file.ino()));
    assert!(both.lines().last().unwrap().starts_with("<4>tenure-pr-helper: REGISTER"), "{both}");
}

#[test]
fn traces_are_logged_by_name() {
    let place = Place::new();
    let helper = place.serve(["-q", "-T", "pr_helper_execute"]);
    is_served(&mut helper.client());
    let (pid, said) = (std::process::id(), helper.end());
    let expected = |cmd| format!("tenure-pr-helper: pr_helper_execute pid={pid} cmd=0x{cmd} sa=0x00");
    assert_eq!(said.lines().collect::<Vec<_>>(), [expected("5e"), expected("5f")]);
}

#[test]
fn a_trace_that_does_not_exist_is_told_and_no_more() {
    let place = Place::new();
    let helper = place.serve(["-T", "pr_helper_dnoe"]);
    is_served(&mut helper.client());
    let said = helper.end();
    assert!(
        said.starts_with("tenure-pr-helper: warning: trace event \"pr_helper_dnoe\" does not exist"),
        "{said}"
    );
}

#[test]
fn traces_can_go_to_a_file() {
    let place = Place::new();
    let helper = place.serve(["-T", "*,-pr_helper_done,file=traces"]);
    is_served(&mut helper.client());
    helper.end();
    let traces = fs::read_to_string(place.path("traces")).unwrap();
    let names: Vec<_> = traces.lines().filter_map(|line| line.split(' ').next()).collect();
    // The first client only waits for the greeting.
    let greeted = ["pr_helper_connect", "pr_helper_disconnect"];
    assert!(greeted.iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "pr_helper_execute").count(), 2);
    assert!(!names.contains(&"pr_helper_done"));
}

#[test]
fn help_that_nobody_reads_to_its_end_is_no_failure() {
    let place = Place::new();
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let status = place.command().arg("--help").stdout(Stdio::from(write)).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_guest_cannot_fill_the_log() {
    let place = Place::new();
    let helper = place.serve(NOTHING);
    let mut client = helper.client();
    for _ in 0..2000 {
        client.request(&pr_out(24, &[0; 24]), null()).unwrap();
    }
    let lines = helper.end().lines().count();
    assert!((100..400).contains(&lines), "{lines}");
}
