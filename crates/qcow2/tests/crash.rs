//! Power is lost after every change to the disks, and of what was not flushed any part is lost:
//! the image opens, holds what was flushed, and has at most leaks.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;
mod scenario;

use std::sync::Arc;

use common::Random;
use scenario::judge::{Contents, Window, judge, qemu_judges};
use scenario::{Disks, Model, Scenario, Step, open, writable};
use strata_qcow2::test_utils::{History, PowerDisk};
use strata_qcow2::{Repair, Storage};

/// One run of a scenario, with all that may be left of it.
struct Recording {
    history: Arc<History>,
    disks: Vec<(usize, Arc<PowerDisk>)>,
    /// The moment at which each step began, and the model before it; then the end.
    states: Vec<(usize, Model)>,
}

fn record(scenario: &Scenario) -> Recording {
    let (contents, mut model) = scenario.make();
    let history = Arc::new(History::default());
    let disks: Vec<_> = contents
        .into_iter()
        .map(|(id, bytes)| (id, Arc::new(PowerDisk::new(&history, id, bytes))))
        .collect();
    let storages: Disks = disks
        .iter()
        .map(|(id, disk)| (*id, Arc::clone(disk) as Arc<dyn Storage>))
        .collect();
    let mut world = open(&storages, writable(), scenario.writes_base()).unwrap();
    let mut states = Vec::new();
    for step in &scenario.steps {
        states.push((history.now(), model.clone()));
        world
            .apply(step)
            .unwrap_or_else(|error| panic!("{}: {step:?}: {error}", scenario.name));
        model.apply(step, scenario.options.cluster_size);
    }
    states.push((history.now(), model.clone()));
    world.abandon();
    Recording {
        history,
        disks,
        states,
    }
}

impl Recording {
    /// The states that the disks may show after power was lost at `moment`.
    fn window(&self, scenario: &Scenario, moment: usize) -> Window<'_> {
        let begun = self
            .states
            .iter()
            .rposition(|(at, _)| *at <= moment)
            .unwrap();
        let durable = scenario.steps[..begun]
            .iter()
            .rposition(Step::is_durable)
            .map_or(0, |step| step + 1);
        let end = (begun + 1).min(self.states.len() - 1);
        Window {
            states: self.states[durable..=end]
                .iter()
                .map(|(_, model)| model)
                .collect(),
            atomic: durable == begun && scenario.steps.get(begun).is_some_and(Step::is_atomic),
        }
    }

    fn contents(&self, moment: usize, keep: &mut dyn FnMut(usize, u64) -> bool) -> Contents {
        self.disks
            .iter()
            .map(|(id, disk)| (*id, disk.after_power_loss(moment, keep)))
            .collect()
    }
}

fn long() -> bool {
    std::env::var_os("STRATA_TEST_LONG").is_some()
}

/// Ways in which power loss treats what was not flushed.
fn fates(seed: u64) -> Vec<Box<dyn FnMut(usize, u64) -> bool>> {
    let mut list: Vec<Box<dyn FnMut(usize, u64) -> bool>> =
        vec![Box::new(|_, _| true), Box::new(|_, _| false)];
    list.push(Box::new(|_, sector| sector % 2 == 0));
    list.push(Box::new(|_, sector| sector % 2 == 1));
    for number in 0..if long() { 40 } else { 3 } {
        let mut random = Random(seed * 100 + number);
        let chance = [50, 85, 15][number as usize % 3];
        list.push(Box::new(move |_, _| random.below(100) < chance));
    }
    // Whole changes are kept or lost.
    for number in 0..if long() { 10 } else { 1 } {
        let base = seed * 1000 + number;
        list.push(Box::new(move |change, _| {
            Random(base ^ (change as u64) << 20).below(2) == 0
        }));
    }
    list
}

fn lose_power_everywhere(scenario: &Scenario) {
    let recording = record(scenario);
    let end = recording.history.now();
    let dir = tempfile::tempdir().unwrap();
    let mut judged = 0;
    for moment in 0..=end {
        let window = recording.window(scenario, moment);
        for (number, mut keep) in fates(moment as u64 + 1).into_iter().enumerate() {
            let contents = recording.contents(moment, &mut *keep);
            if let Err(why) = judge(&contents, &window) {
                let step = recording
                    .states
                    .iter()
                    .rposition(|(at, _)| *at <= moment)
                    .unwrap();
                panic!(
                    "{}: power lost after change {moment} of {end}, fate {number}, in step {step} \
                     {:?}: {why}",
                    scenario.name,
                    scenario.steps.get(step)
                );
            }
            judged += 1;
            if judged % 199 == 0 {
                qemu_judges(&contents, dir.path());
            }
            if judged % if long() { 3 } else { 101 } == 0
                && let Err(why) = lose_power_again(contents, &window)
            {
                panic!(
                    "{}: power lost after change {moment} of {end}, fate {number}, and again {why}",
                    scenario.name
                );
            }
        }
    }
    qemu_judges(&recording.contents(end, &mut |_, _| true), dir.path());
    println!("{}: {end} changes, {judged} images", scenario.name);
}

/// Opens, repairs and closes what power loss left, and loses power everywhere in that.
fn lose_power_again(contents: Contents, window: &Window<'_>) -> Result<(), String> {
    let history = Arc::new(History::default());
    let disks: Vec<_> = contents
        .into_iter()
        .map(|(id, bytes)| (id, Arc::new(PowerDisk::new(&history, id, bytes))))
        .collect();
    let storages: Disks = disks
        .iter()
        .map(|(id, disk)| (*id, Arc::clone(disk) as Arc<dyn Storage>))
        .collect();
    let image = open(&storages, writable(), false).unwrap();
    image.image().check(Repair::All, &mut |_| {}).unwrap();
    image.image().close().unwrap();
    let end = history.now();
    for moment in 0..=end {
        for (number, mut keep) in fates(moment as u64 + 1).into_iter().enumerate() {
            let contents = disks
                .iter()
                .map(|(id, disk)| (*id, disk.after_power_loss(moment, &mut *keep)))
                .collect();
            judge(&contents, window)
                .map_err(|why| format!("after {moment} of {end}, fate {number}: {why}"))?;
        }
    }
    Ok(())
}

fn every_one(scenarios: &[Scenario]) {
    let mut failed = 0;
    for scenario in scenarios {
        let run = std::panic::AssertUnwindSafe(|| lose_power_everywhere(scenario));
        failed += u32::from(std::panic::catch_unwind(run).is_err());
    }
    assert_eq!(failed, 0, "scenarios failed");
}

test_each_group!(every_one);
