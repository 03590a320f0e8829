//! A runner that leaves nothing of an order.

use subquad::Runner;

/// Runs tasks last to first on three threads.
pub struct LastFirst;

impl Runner for LastFirst {
    fn max_workers(&self) -> usize {
        3
    }

    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let mine = (0..n_tasks).rev().filter(move |index| index % 3 == worker);
                scope.spawn(move || mine.for_each(|index| task(index, worker)));
            }
        });
    }
}
