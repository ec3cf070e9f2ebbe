//! `tenure migrate`, and what is asked of the local agent about a guest's handovers.

use super::values;
use agent::ownership::OnDoubt;
use clap::{Args, ValueEnum};
use handover::Method;
use std::path::PathBuf;
use std::time::Duration;

/// The local agent.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The local agent's control socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/tenure/agent.sock")]
    pub control: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure migrate`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MigrateArgs {
    /// The guest, by its name in tenure.toml
    #[arg(value_name = "VM")]
    pub vm: String,
    /// The host to move it to, by its name in tenure.toml
    #[arg(long, value_name = "PEER")]
    pub to: String,
    /// Say whether and how the guest can move; changes nothing
    #[arg(long)]
    pub plan: bool,
    /// Where the destination's QEMU is to listen, in QEMU's form, instead of where that host's tenure.toml says
    #[arg(long, value_name = "URI")]
    pub uri: Option<String>,
    /// Have this host's QEMU send into descriptor N of this command, which leads to where the destination's listens (a tunnel, a
    /// proxy), instead of connecting there itself
    #[arg(long, value_name = "N", conflicts_with_all = ["multifd", "plan"])]
    pub fd: Option<u16>,
    /// A migration parameter of QEMU's, on both hosts; repeat for more
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, serde_json::Value)>,
    /// Send the memory through so many connections
    #[arg(long, value_name = "N")]
    pub multifd: Option<u8>,
    /// How long the guest may stand still for the rest of its memory
    #[arg(long, value_name = "SECONDS", default_value = "0.3", value_parser = values::duration)]
    pub downtime_limit: Duration,
    /// Use this method of handover or refuse
    #[arg(long, value_name = "NAME")]
    pub method: Option<Method>,
    /// Allow a moment in which the guest's key is not listed
    #[arg(long)]
    pub allow_gap: bool,
    /// What to do where the destination's agent is lost before the guest was given to it
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Doubt::Pause)]
    pub on_doubt: Doubt,
    /// Give up if the memory is not through by then
    #[arg(long, value_name = "SECONDS", value_parser = values::duration)]
    pub timeout: Option<Duration>,
    /// The local agent
    #[command(flatten)]
    pub control: ControlArgs,
}

/// See [`OnDoubt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Doubt {
    /// The guest stays paused until the operator decides (exit status 7)
    Pause,
    /// The source takes the registrations back alone; the key is unlisted for one command
    Resume,
}

impl From<Doubt> for OnDoubt {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::Pause => Self::Pause,
            Doubt::Resume => Self::Resume,
        }
    }
}

/// Arguments of `tenure handover status`.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// The guest, by its name in tenure.toml
    #[arg(value_name = "VM")]
    pub vm: String,
    /// The local agent
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Arguments of `tenure handover resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The guest
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The guest certainly did not run at the other host in this handover and will not: decide without that host
    #[arg(long)]
    pub vouch: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `tenure handover freeze`.
#[derive(Debug, Args)]
#[command(after_long_help = ORCHESTRATED)]
pub struct FreezeArgs {
    /// The guest
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The host that may take it, by its name in tenure.toml
    #[arg(long, value_name = "PEER")]
    pub to: String,
    /// The guest is stopped, where its QEMU cannot be asked by this host's agent
    #[arg(long)]
    pub stopped: bool,
}

/// Arguments of `tenure handover take`.
#[derive(Debug, Args)]
#[command(after_long_help = ORCHESTRATED)]
pub struct TakeArgs {
    /// The guest
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The host that it was frozen on, by its name in tenure.toml
    #[arg(long, value_name = "PEER")]
    pub from: String,
}

const ORCHESTRATED: &str = "\
For scripts and orchestrators that move the guest themselves, and let it run themselves. In this order:
  the guest is stopped              (QMP stop while the migration is active; virsh migrate --suspend)
  at the source:       tenure handover freeze VM --to DESTINATION
  at the destination:  tenure handover take VM --from SOURCE
  exit status 0:       let the guest run at the destination (QMP cont; virsh resume), and only there
  at the source:       tenure handover release VM
4 and 5 of take: the guest is the source's, and no longer frozen; 6: it is the destination's, and fenced;
1: the verdict of --json says whose it is; 7: let it run nowhere.
A freeze that nobody takes is ended by tenure handover abort VM. To come back, freeze and take the other
way round.";

/// Arguments of `tenure handover abort`.
#[derive(Debug, Args)]
#[command(after_long_help = ABORT)]
pub struct AbortArgs {
    /// The guest
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Give up what is left registered on this host as well: a nonce of the handover, and the guest's key where the guest is not
    /// this host's
    #[arg(long)]
    pub release: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

const ABORT: &str = "\
At the source: what came to the destination is taken back, together with its agent or, if that does not
answer, without it (the key is unlisted for one command); then the guest runs on here. A migration that
is under way is cancelled. A guest that was given away is not taken back (exit status 4).
At the destination: this host promises never to run the guest by this handover; the source's agent takes
back what came here when it is there (exit status 7 until then).
Nothing of it restores a registration that another node removed.

--release only ever removes registrations of this host's own nexuses. Use it where the other host will
never be back, or where a nonce was left of a guest that was fenced in the handover.";

/// A number or a truth value where it looks like one, as QEMU wants it; else a string.
fn parameter(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("a parameter is KEY=VALUE")?;
    if name.is_empty() {
        return Err("a parameter is KEY=VALUE".into());
    }
    let value = match value.parse::<u64>() {
        Ok(number) => number.into(),
        Err(_) if value == "true" || value == "false" => (value == "true").into(),
        Err(_) => value.into(),
    };
    Ok((name.to_owned(), value))
}

const EXAMPLES: &str = "\
The guest moves to the peer with its registrations and reservations, on all its logical units or on
none. The destination's QEMU waits for it, started with -incoming defer -S and the same disks. Until
the guest is given away every failure ends with it running here with all that it had; where that
cannot be proved it stays paused, and the message says what to do. Ctrl-C asks for a cancel; pressed
again it also ends the waiting for a host that does not answer.

Examples:
  tenure migrate db1 --to host-b.example.org --plan
  tenure migrate db1 --to host-b.example.org
  tenure migrate db1 --to host-b.example.org --multifd 4 --parameter max-bandwidth=1250000000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_the_type_that_qemu_wants() {
        assert_eq!(parameter("max-bandwidth=12"), Ok(("max-bandwidth".into(), 12.into())));
        assert_eq!(parameter("x=true"), Ok(("x".into(), true.into())));
        assert_eq!(parameter("tls-creds=a=b"), Ok(("tls-creds".into(), "a=b".into())));
        assert!(parameter("nothing").is_err() && parameter("=1").is_err());
    }
}
