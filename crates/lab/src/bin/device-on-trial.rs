//! `device-on-trial`: a vhost-user device with one LUN and without what surrounds it in `tenure device`, for measuring what a part costs. An
//! `iscsi://` LUN has account kept of it where `--account` says in which directory, and none otherwise, which `tenure device` has no way to
//! say. A queue does not poll unless `--poll` says so: then as many instructions go into so many requests as they need.

use anyhow::{Context, Result};
use clap::Parser;
use guard::Guard;
use iscsi::initiator::IscsiUrl;
use ledger::{Ledger, Owner};
use logical_unit::LunSpec;
use scsi::{IscsiName, Isid};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vhost_user_scsi::device::{Aio, Device, Settings};
use vhost_user_scsi::front::{Stop, serve};
use vhost_user_scsi::unit::Unit;
use vhost_user_scsi::unit::emulated::{self, Emulated};
use vhost_user_scsi::unit::iscsi::{IscsiUnit, PATIENCE, Target};
use vhost_user_scsi::unit::keep::Keeper;

#[derive(Parser)]
struct Options {
    /// Where the front end connects
    #[arg(long)]
    socket: PathBuf,
    /// `file=PATH` and so on, or `iscsi://…`
    #[arg(long)]
    lun: String,
    /// The directory of the records of what the guest registers
    #[arg(long)]
    account: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    num_queues: u16,
    /// Microseconds
    #[arg(long, default_value_t = 0)]
    poll: u64,
    /// `io_uring` or `threads`
    #[arg(long, default_value = "io_uring")]
    aio: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let settings = Settings {
        request_queues: options.num_queues,
        poll: Duration::from_micros(options.poll),
        aio: if options.aio == "threads" { Aio::Threads } else { Aio::IoUring },
        ..Settings::default()
    };
    let device = Arc::new(Device::new("trial", settings, None));
    let unit = match options.lun.parse::<IscsiUrl>() {
        Ok(url) => remote(&url, options.account.as_deref())?,
        Err(_) => local(&options.lun.parse()?)?,
    };
    device.attach(0, unit)?;
    let listener = UnixListener::bind(&options.socket)?;
    println!(r#"{{"schema":1,"ready":true,"guests":[{{"initiator":"trial"}}]}}"#);
    Ok(serve(&listener, &device, &Stop::new()?)?)
}

fn local(spec: &LunSpec) -> Result<Arc<dyn Unit>> {
    let port = emulated::initiator_port("trial").context("a guest's name")?;
    Ok(Arc::new(Emulated::attach(&emulated::open(spec)?, port)))
}

fn remote(url: &IscsiUrl, account: Option<&Path>) -> Result<Arc<dyn Unit>> {
    let own = IscsiName::new("iqn.2026-11.example.tenure:trial")?;
    let target = Target::login(url.session(&own, Isid([0x80, 0, 0, 0, 0, 0])), PATIENCE)?;
    let unit = IscsiUnit::open(&target, url.lun)?;
    if let Some(directory) = account {
        let identity = unit.identify().map_err(|ended| anyhow::anyhow!("{ended:?}"))?;
        let records = Ledger::open(directory)?.guest(&Owner("trial".to_owned()))?;
        let guard = Arc::new(Guard::new(Box::new(Arc::new(records))));
        unit.keep(Keeper::new(guard, identity.context("a LUN without a name")?, true));
    }
    Ok(Arc::new(unit))
}
