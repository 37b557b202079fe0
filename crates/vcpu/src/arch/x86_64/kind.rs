use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What stands behind the KVM device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// Intel VT-x.
    VtX,
    /// AMD-V.
    AmdV,
    /// The pagetable virtual machine: KVM without help of the processor.
    Pvm,
}

impl HostKind {
    /// Reads the kind from `proc`'s `cpuinfo` and the KVM modules in `sys`'s `module`.
    pub(crate) fn detect(proc: &Path, sys: &Path) -> Self {
        let cpuinfo = read_start(&proc.join("cpuinfo")).unwrap_or_default();
        let loaded = |module: &str| sys.join("module").join(module).exists();
        Self::classify(
            first_flags(&cpuinfo),
            loaded("kvm_pvm") && !loaded("kvm_intel") && !loaded("kvm_amd"),
        )
    }

    /// Only one vendor module can serve KVM. Without vmx or svm that can not be a hardware one,
    /// whatever the modules are called.
    fn classify(cpu_flags: &str, only_pvm_loaded: bool) -> Self {
        let has = |flag| cpu_flags.split_ascii_whitespace().any(|f| f == flag);
        match (has("vmx"), has("svm")) {
            _ if only_pvm_loaded => Self::Pvm,
            (true, _) => Self::VtX,
            (_, true) => Self::AmdV,
            _ => Self::Pvm,
        }
    }

    /// Whether kernels that were not made for this kind of host run on it.
    pub fn runs_stock_kernels(self) -> bool {
        self != Self::Pvm
    }
}

/// Enough of cpuinfo for the first processor: all of it takes long on a large host.
fn read_start(cpuinfo: &Path) -> io::Result<String> {
    let mut start = Vec::new();
    File::open(cpuinfo)?.take(8192).read_to_end(&mut start)?;
    Ok(String::from_utf8_lossy(&start).into_owned())
}

/// The first processor's flags.
fn first_flags(cpuinfo: &str) -> &str {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim_end() == "flags")
        .map_or("", |(_, flags)| flags)
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VtX => "hardware KVM (Intel VT-x)",
            Self::AmdV => "hardware KVM (AMD-V)",
            Self::Pvm => "PVM (KVM without processor support: only kernels made for it run)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: fpu svm lm\n\nprocessor\t: 1\nflags\t\t: fpu vmx\n";

    #[test]
    fn flags_of_the_first_processor_are_taken() {
        assert_eq!(first_flags(CPUINFO).trim(), "fpu svm lm");
        assert_eq!(first_flags(""), "");
    }

    #[test]
    fn hardware_needs_its_flag_and_pvm_needs_none() {
        assert_eq!(HostKind::classify(" fpu vmx lm", false), HostKind::VtX);
        assert_eq!(HostKind::classify(" fpu svm lm", false), HostKind::AmdV);
        assert_eq!(HostKind::classify(" fpu lm svm_lock", false), HostKind::Pvm);
        assert_eq!(HostKind::classify(" fpu vmx lm", true), HostKind::Pvm);
        assert!(!HostKind::Pvm.runs_stock_kernels());
    }
}
