//! CPUs: how many, of which model, behind which interrupt controller.

use strata_tests::Level1;

#[test]
fn several_cpus_come_up_behind_the_in_kernel_controller() {
    cpus_come_up("kernel", &[2, 4]);
}

#[test]
fn several_cpus_come_up_behind_the_split_controller() {
    cpus_come_up("split", &[1, 4]);
}

fn cpus_come_up(irqchip: &str, counts: &[u64]) {
    let level1 = Level1::restore();
    for count in counts {
        let cpus = count.to_string();
        let mut guest = level1
            .boot(&["--cpus", &cpus, "--irqchip", irqchip])
            .login();
        assert_eq!(guest.number("nproc"), *count);
        assert_eq!(guest.number("grep -c ^processor /proc/cpuinfo"), *count);
        assert_eq!(guest.complaints(), "", "{cpus} CPUs, {irqchip}");
        // One thread per vCPU, and the main one.
        assert_eq!(guest.status("Threads"), (count + 1).to_string());
        // What was typed came by the IOAPIC; every CPU has a timer that ticks.
        let interrupts = guest.ask("grep -E 'ttyS0|LOC' /proc/interrupts");
        let serial = interrupts.lines().find(|line| line.ends_with("ttyS0"));
        assert!(
            serial.is_some_and(|line| line.contains("IO-APIC")),
            "{interrupts}"
        );
        let ticks = interrupts.lines().find(|line| line.contains("LOC:"));
        let ticks = ticks.unwrap_or("").split_whitespace();
        let ticking = ticks
            .filter_map(|n| n.parse().ok())
            .filter(|n: &u64| *n > 0);
        assert_eq!(ticking.count() as u64, *count, "{interrupts}");
        guest.power_off();
    }
}

#[test]
fn a_named_model_hides_what_the_host_has_beyond_it() {
    let level1 = Level1::restore();
    let flags = "sed -n 's/^flags.*: //p' /proc/cpuinfo";
    let has = |flags: &str, flag: &str| flags.split_whitespace().any(|f| f == flag);
    let host = level1.sh(flags);
    let beyond = ["avx", "avx2", "fma", "bmi2"];
    assert!(beyond.iter().all(|flag| has(&host, flag)), "{host}");
    for (model, shown) in [("host", true), ("x86-64-v2", false)] {
        let mut guest = level1.boot(&["--cpu", model]).login();
        let flags = guest.ask(flags);
        assert!(
            has(&flags, "sse4_2") && has(&flags, "popcnt"),
            "{model}: {flags}"
        );
        for flag in beyond {
            assert_eq!(has(&flags, flag), shown, "{flag} of {model}: {flags}");
        }
        guest.power_off();
    }
}
