//! States with random damage are refused or run, and never take the process down.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use strata_vcpu::test_utils::{Irqchip, Mode, TestVm};
use strata_vcpu::{Vcpu, VcpuState, VcpuThread};

/// Numerical Recipes' generator: the same damage in every run.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % limit
    }
}

/// Flips bits in numbers of the state's written form.
fn damaged(json: &serde_json::Value, random: &mut Random) -> Option<VcpuState> {
    let mut json = json.clone();
    let parts = [
        "regs",
        "sregs",
        "xsave",
        "xcrs",
        "debug_regs",
        "lapic",
        "msrs",
        "events",
        "cpuid",
    ];
    for _ in 0..=random.below(4) {
        let part = parts[random.below(parts.len())];
        flip(&mut json[part], random);
    }
    serde_json::from_value(json).ok()
}

fn flip(value: &mut serde_json::Value, random: &mut Random) {
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            let len = items.len();
            flip(&mut items[random.below(len)], random);
        }
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            let len = fields.len();
            if let Some(field) = fields.values_mut().nth(random.below(len)) {
                flip(field, random);
            }
        }
        serde_json::Value::Number(number) => {
            *value = (number.as_u64().unwrap_or(0) ^ (1 << random.below(8))).into();
        }
        _ => {}
    }
}

#[test]
fn damaged_states_do_no_harm() {
    let vm = TestVm::new(Irqchip::Kernel);
    let vcpu = vm.vcpu_with_code(&Mode::long(), &[0xeb, 0xfe]); // jmp .
    let json = serde_json::to_value(vcpu.state(vm.host()).unwrap()).unwrap();
    let mut random = Random(1);
    let (mut refused, mut ran) = (0, 0);
    for _ in 0..60 {
        let Some(state) = damaged(&json, &mut random) else {
            continue;
        };
        let next = TestVm::new(Irqchip::Kernel);
        next.copy_memory_from(&vm);
        let mut vcpu = Vcpu::new(next.vm(), 0).unwrap();
        if vcpu.set_state(&state, next.host()).is_err() {
            refused += 1;
            continue;
        }
        let thread = VcpuThread::spawn(vcpu, Arc::new(next.recorder())).unwrap();
        thread.resume().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        thread.pause().unwrap();
        ran += 1;
    }
    assert!(refused > 5 && ran > 5, "{refused} refused, {ran} ran");
}
