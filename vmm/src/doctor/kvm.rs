//! KVM: its kind and what it is capable of.

use strata_vcpu::{Host, HostKind};

use super::{Finding, Verdict};

/// Looks at KVM.
pub(super) fn examine() -> Vec<Finding> {
    let host = match Host::open() {
        Ok(host) => host,
        Err(error) => {
            let finding = Finding::new("KVM", Verdict::Missing, "not usable", error.to_string());
            return vec![finding];
        }
    };
    let mut findings = vec![kind(host.kind()), required(&host)];
    findings.extend(optional(&host));
    findings
}

fn kind(kind: HostKind) -> Finding {
    let (verdict, consequence) = if kind.runs_stock_kernels() {
        (Verdict::Ok, "stock Linux kernels boot")
    } else {
        (
            Verdict::Limited,
            "only kernels made for it boot (run --pvm-kernel); others in the nested lab: \
             cargo lab boot",
        )
    };
    Finding::new("KVM", verdict, kind.to_string(), consequence)
}

fn required(host: &Host) -> Finding {
    let name = "KVM capabilities";
    match host.check() {
        Ok(()) => Finding::new(name, Verdict::Ok, "all that a machine needs", ""),
        Err(error) => Finding::new(name, Verdict::Missing, "too few", error.to_string()),
    }
}

fn optional(host: &Host) -> Vec<Finding> {
    let has = host.capabilities();
    let either = |name, there: bool, found: &str, without: &'static str| {
        let verdict = if there { Verdict::Ok } else { Verdict::Limited };
        let found = if there { found } else { "no" };
        Finding::new(name, verdict, found, if there { "" } else { without })
    };
    let vcpus = format!("{}, at most {}", has.recommended_vcpus, has.max_vcpus);
    vec![
        Finding::new("vCPUs per machine", Verdict::Ok, vcpus, ""),
        either(
            "split irqchip",
            has.split_irqchip,
            "yes",
            "--irqchip split is refused",
        ),
        either(
            "TSC deadline timer",
            has.tsc_deadline_timer,
            "yes",
            "guests calibrate the local APIC's timer when they start, and start slower",
        ),
        either(
            "dirty page ring",
            has.dirty_ring_bytes > 0,
            "yes",
            "written pages are found by bitmap only, which costs time in large guests",
        ),
    ]
}
