//! The same bits for any runner.

use super::*;
use crate::common::runner::LastFirst;

fn with_runner(runner: Arc<dyn Runner>) -> Context {
    Context::new(ContextOptions::new().runner(runner)).unwrap()
}

fn runners() -> Vec<(String, Context)> {
    let pools =
        [1, 2, 3, 8].map(|n| (format!("{n} workers"), with_runner(Arc::new(ThreadPool::new(n).unwrap()))));
    let mut all = Vec::from(pools);
    all.push(("backwards".into(), with_runner(Arc::new(LastFirst))));
    all
}

#[test]
fn any_runner() {
    let runners = runners();
    each_mode(|_, p| {
        let serial = p.run(&context());
        for (name, context) in &runners {
            assert_same_bits(&p.run(context), &serial, || format!("{name}: {}", text(&p)));
        }
    });
}

/// Few heads and a wide state: workers share a head by its panels.
#[test]
fn any_runner_one_head() {
    let runners = runners();
    for mechanism in problem::mechanisms() {
        let mut rng = Rng::new(seed());
        for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
            let t = if mode == Mode::Step { 1 } else { 70 };
            let mut p = Problem::new(mechanism, vec![]).sized([1, 1, 1], (100, 777), 1, t);
            p.mode = mode;
            let p = p.fill(&mut rng, true);
            let plan = p.plan(&context());
            assert!(plan.info().panel * 3 < 777, "the state has too few panels");
            let serial = p.run_plan(&plan);
            assert_lively(&serial, || text(&p));
            for (name, context) in &runners {
                assert_same_bits(&p.run(context), &serial, || format!("{name}: {}", text(&p)));
            }
        }
    }
}
