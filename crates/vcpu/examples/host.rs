//! Prints what this host's KVM is, what it is capable of, and which CPU models it can offer.

use strata_vcpu::{CpuModel, CpuidConfig, Error, Host, Topology};

fn main() -> Result<(), Error> {
    let host = Host::open()?;
    println!("{}", host.kind());
    host.check()?;
    println!("{:#?}", host.capabilities());
    let supported = host.supported_cpuid()?;
    for model in [CpuModel::Host, CpuModel::X86_64V2, CpuModel::X86_64V3] {
        let config = CpuidConfig {
            model,
            ..CpuidConfig::new(Topology::cores(2))
        };
        match config.build(&supported) {
            Ok(template) => {
                println!("{model}:");
                for e in template.for_vcpu(1)?.entries() {
                    let (function, index) = (e.function, e.index);
                    print!("  {function:08x}.{index:x}");
                    println!(" {:08x} {:08x} {:08x} {:08x}", e.eax, e.ebx, e.ecx, e.edx);
                }
            }
            Err(e) => println!("{e}"),
        }
    }
    Ok(())
}
