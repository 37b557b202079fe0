//! Lists this host's bridges, what is connected to them, and which programs have the taps open.
//!
//! `cargo run -p strata-net --example bridges`

use strata_net::bridge;

fn main() -> Result<(), strata_net::Error> {
    for bridge in bridge::list()? {
        println!(
            "{} {} {}",
            bridge.name,
            bridge.mac,
            bridge.addresses.join(" ")
        );
        for port in bridge.ports {
            println!("  {} ({:?}, up: {})", port.name, port.kind, port.up);
            for guest in port.guests {
                println!("    open in {} ({})", guest.program, guest.pid);
            }
        }
    }
    Ok(())
}
