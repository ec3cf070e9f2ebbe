//! A target for trying out initiators: `target ADDRESS:PORT IQN LUN-SPEC...`, served until standard input ends.

use iscsi::target::{Target, TargetConfig};
use logical_unit::{Device, LogicalUnit, LunSpec};
use scsi::IscsiName;
use std::error::Error;
use std::io::Read;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, iqn, luns @ ..] = &arguments[..] else {
        return Err("usage: target ADDRESS:PORT IQN LUN-SPEC...".into());
    };
    let mut units = Vec::new();
    for lun in luns {
        units.push(LogicalUnit::open(&lun.parse::<LunSpec>()?)?);
    }
    let target = Target::bind(TargetConfig::new(listen.parse()?, IscsiName::new(iqn)?, Device::new(units)))?;
    println!("iscsi://{}/{iqn}/0", target.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    target.shutdown();
    Ok(())
}
