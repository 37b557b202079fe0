//! Writes a seed disk: `cargo run -p strata-cloud-init --example seed -- USER-DATA OUTPUT [HOSTNAME]`.

use std::error::Error;
use std::fs::{self, File};

use strata_cloud_init::{MetaData, Seed};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let (input, output, hostname) = match &args[..] {
        [input, output] => (input, output, None),
        [input, output, hostname] => (input, output, Some(hostname)),
        _ => return Err("usage: seed USER-DATA OUTPUT [HOSTNAME]".into()),
    };
    let user_data = fs::read(input)?;
    let mut seed = Seed::new(&user_data);
    if let Some(name) = hostname {
        seed.meta_data = MetaData::Hostname(name);
    }
    for warning in seed.warnings() {
        eprintln!("{input}: {warning}");
    }
    seed.write_to(&mut File::create(output)?)?;
    Ok(())
}
