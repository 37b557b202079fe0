//! Runs two commands in one level 1: which kernel it is, and whether it offers KVM.

use std::time::Duration;

use strata_lab::{Config, Lab, Result};

fn main() -> Result<()> {
    let limit = Duration::from_secs(30);
    let machine = Lab::open(|step| eprintln!("{step}"))?.restore(&Config::default())?;
    let kernel = machine.run(&["uname", "-r"], limit)?.checked("uname")?;
    let kvm = machine.run(&["test", "-c", "/dev/kvm"], limit)?;
    println!("Linux {}", kernel.stdout_text().trim());
    println!("KVM: {}", if kvm.code == 0 { "yes" } else { "no" });
    Ok(())
}
