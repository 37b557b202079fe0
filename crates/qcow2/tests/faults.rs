//! Every single I/O of every operation fails, once or from then on: the handle can be used on or
//! says that it can not, nothing acknowledged is lost, the image has at most leaks, and a retry
//! after the disk is well again succeeds.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;
mod scenario;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::Random;
use scenario::judge::{Contents, Window, at_most_leaks, disks, judge};
use scenario::{Disks, Model, Scenario, Step, World, open, writable};
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults, History, PowerDisk};
use strata_qcow2::{Error, Extent, Result, Storage};

/// How the I/O fails.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    fault: Fault,
    count: u64,
    forever: bool,
}

/// A scenario on disks that fail and can lose power.
struct Run<'a> {
    scenario: &'a Scenario,
    power: BTreeMap<usize, Arc<PowerDisk>>,
    history: Arc<History>,
    storages: Disks,
    faults: Arc<Faults>,
    /// The model before each step, and after the last one that was done.
    states: Vec<Model>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, made: &(Contents, Model)) -> Self {
        let history = Arc::new(History::default());
        let faults = Arc::new(Faults::new(&history));
        let power: BTreeMap<_, _> = made
            .0
            .iter()
            .map(|(&id, bytes)| (id, Arc::new(PowerDisk::new(&history, id, bytes.clone()))))
            .collect();
        let storages = power
            .iter()
            .map(|(&id, disk)| {
                let disk: Arc<dyn Storage> = Arc::clone(disk) as _;
                (
                    id,
                    Arc::new(FaultDisk::new(disk, &faults)) as Arc<dyn Storage>,
                )
            })
            .collect();
        let states = vec![made.1.clone()];
        Self {
            scenario,
            power,
            history,
            storages,
            faults,
            states,
        }
    }

    fn open(&self) -> Result<World> {
        open(&self.storages, writable(), self.scenario.writes_base())
    }

    fn contents(&self, keep: &mut dyn FnMut(usize, u64) -> bool) -> Contents {
        let now = self.history.now();
        self.power
            .iter()
            .map(|(&id, disk)| (id, disk.after_power_loss(now, keep)))
            .collect()
    }

    fn done(&mut self, step: &Step) {
        let mut model = self.states.last().unwrap().clone();
        model.apply(step, self.scenario.options.cluster_size);
        self.states.push(model);
    }

    /// Judges what is on the disks, as it is and without what was not flushed, while `step`, if
    /// any, may have been done or not.
    fn judge(&self, step: Option<&Step>, seed: u64) -> Result<(), String> {
        let before = &self.scenario.steps[..self.states.len() - 1];
        let durable = before
            .iter()
            .rposition(Step::is_durable)
            .map_or(0, |step| step + 1);
        let mut after = self.states.last().unwrap().clone();
        if let Some(step) = step {
            after.apply(step, self.scenario.options.cluster_size);
        }
        let mut states: Vec<&Model> = self.states[durable..].iter().collect();
        states.push(&after);
        let window = Window {
            states,
            atomic: false,
        };
        let mut random = Random(seed);
        let chance = [100, 0, 50][(seed % 3) as usize];
        judge(
            &self.contents(&mut |_, _| random.below(100) < chance),
            &window,
        )
    }
}

/// Whether an error may come out of a disk in trouble.
fn is_told(error: &Error) -> bool {
    match error {
        Error::Io { .. } | Error::Broken => true,
        Error::InFile { source, .. } => is_told(source),
        _ => false,
    }
}

/// Runs the scenario with the trouble; how often I/O failed.
fn run(scenario: &Scenario, made: &(Contents, Model), trouble: Trouble) -> Result<u64, String> {
    let mut run = Run::new(scenario, made);
    run.faults
        .arm(trouble.fault, trouble.count, trouble.forever);
    let mut failures = 0;
    let mut world = match run.open() {
        Ok(world) => world,
        Err(error) if is_told(&error) => {
            failures += run.faults.heal();
            run.judge(None, trouble.count)
                .map_err(|e| format!("opening failed: {e}"))?;
            run.open().map_err(|e| format!("retry of opening: {e}"))?
        }
        Err(error) => return Err(format!("opening: {error}")),
    };
    for (number, step) in scenario.steps.iter().enumerate() {
        let at = |why: String| format!("step {number} {step:?}: {why}");
        let snapshots = world.image().snapshots().map(|list| list.len());
        if let Err(error) = world.apply(step) {
            let dead = trouble.forever && trouble.fault == Fault::Io;
            if dead && world.image().flush().is_ok() {
                return Err(at("flush succeeded on a dead disk".into()));
            }
            failures += run.faults.heal();
            if !is_told(&error) {
                return Err(at(format!("{error}")));
            }
            run.judge(Some(step), trouble.count)
                .map_err(|e| at(format!("{error}: {e}")))?;
            let again = match world.image().write_at(&[], 0) {
                Err(Error::Broken) => Err(Error::Broken),
                _ => retry(&mut world, step, snapshots),
            };
            match again {
                Ok(()) => {}
                Err(Error::Broken) => {
                    world.abandon();
                    drop(world);
                    return reopened(&run, step).map_err(at).map(|()| failures);
                }
                Err(again) => return Err(at(format!("{error}; retry: {again}"))),
            }
        }
        run.done(step);
    }
    failures += run.faults.heal();
    world.image().flush().map_err(|e| e.to_string())?;
    let window = Window {
        states: vec![run.states.last().unwrap()],
        atomic: true,
    };
    judge(&run.contents(&mut |_, _| false), &window).map_err(|e| format!("at the end: {e}"))?;
    Ok(failures)
}

/// Tries a failed step again. What it had done already does not count as a failure.
fn retry(world: &mut World, step: &Step, snapshots: Result<usize>) -> Result<()> {
    if let (Step::Create(_), Ok(before)) = (step, snapshots)
        && world.image().snapshots()?.len() > before
    {
        return Ok(());
    }
    match world.apply(step) {
        Err(Error::Exists { .. } | Error::NotFound { .. }) => Ok(()),
        result => result,
    }
}

/// What a broken handle left is opened anew, and the step can be done.
fn reopened(run: &Run<'_>, step: &Step) -> Result<(), String> {
    let disks = disks(&run.contents(&mut |_, _| true));
    let text = |error: Error| format!("reopened: {error}");
    let mut world = open(&disks, writable(), run.scenario.writes_base()).map_err(text)?;
    match world.apply(step) {
        Ok(()) | Err(Error::Exists { .. } | Error::NotFound { .. }) => {}
        Err(error) => return Err(text(error)),
    }
    world.image().flush().map_err(text)?;
    at_most_leaks(world.image()).map(drop)
}

/// Lets I/O after I/O fail until a run meets no more failure.
fn fail_everywhere(scenario: &Scenario) -> u32 {
    let made = scenario.make();
    let long = std::env::var_os("STRATA_TEST_LONG").is_some();
    let (mut runs, mut failed) = (0, 0);
    for (fault, forever, stride) in [
        (Fault::Io, false, 1),
        (Fault::NoSpace, true, 1),
        (Fault::Io, true, 3),
        (Fault::NoSpace, false, 3),
    ] {
        let mut count = 0;
        loop {
            let trouble = Trouble {
                fault,
                count,
                forever,
            };
            runs += 1;
            match run(scenario, &made, trouble) {
                Ok(0) => break,
                Ok(_) => {}
                Err(why) => {
                    eprintln!("FAILED {}: {trouble:?}: {why}", scenario.name);
                    failed += 1;
                    if failed > 8 {
                        return failed;
                    }
                }
            }
            count += if long { 1 } else { stride };
        }
    }
    println!("{}: {runs} runs", scenario.name);
    failed
}

fn every_one(scenarios: &[Scenario]) {
    let failed: u32 = scenarios.iter().map(fail_everywhere).sum();
    assert_eq!(failed, 0, "runs failed");
}

test_each_group!(every_one);

/// After a flush that failed, the kernel may take what it could not write for written. So the
/// tables go to the disk again before the next flush is answered.
#[test]
fn tables_are_written_again_after_a_failed_flush() {
    for scenario in scenario::list::group("plain") {
        let made = scenario.make();
        for count in 0..100 {
            let mut run = Run::new(&scenario, &made);
            let mut world = run.open().unwrap();
            run.faults.arm(Fault::LostFlush, count, false);
            for step in &scenario.steps {
                if world.apply(step).is_err() {
                    world.apply(step).unwrap();
                }
                run.done(step);
            }
            if run.faults.heal() == 0 {
                break;
            }
            world.image().flush().unwrap();
            let disks = disks(&run.contents(&mut |_, _| false));
            let left = open(&disks, writable(), false).unwrap();
            at_most_leaks(left.image())
                .unwrap_or_else(|why| panic!("{}, flush {count}: {why}", scenario.name));
            let (live, left) = (extents(&world), extents(&left));
            assert!(
                live == left,
                "{}, flush {count}: tables were lost",
                scenario.name
            );
        }
    }
}

fn extents(world: &World) -> Vec<Extent> {
    let image = world.image();
    let starts = (0..image.size()).step_by(512);
    starts.map(|at| image.extent(at, 1).unwrap().0).collect()
}
