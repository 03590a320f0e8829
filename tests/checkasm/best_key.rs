//! Best keys: comparisons, so the bits have to agree.

use crate::guarded::Guarded;
use crate::support::cases;
use subquad::kernel::Kernel;
use subquad::kernel::best_key::{Args, BestKey};

#[test]
fn best_key() {
    cases::<BestKey>(600, |rng, run| {
        let (n, w) = (rng.below(70), 16 * (1 + rng.below(3)));
        let ld = w + rng.below(9);
        let mut x = rng.mixed(n * ld);
        // Ties, and keys that are not seen.
        for _ in 0..n * w / 2 {
            let (from, to) = (rng.below(n) * ld + rng.below(w), rng.below(n) * ld + rng.below(w));
            x[to] = if rng.one_in(3) { f32::NEG_INFINITY } else { x[from] };
        }
        let mut start = vec![f32::NEG_INFINITY; w];
        start.iter_mut().for_each(|max| {
            if rng.one_in(3) {
                *max = if rng.one_in(5) { f32::NAN } else { rng.signed() };
            }
        });
        let scores = Guarded::new(rng, &x);
        let [mut want, mut got] = [(); 2].map(|()| (Guarded::new(rng, &start), Guarded::new(rng, &start)));
        for (out, run) in [(&mut want, BestKey::reference as unsafe fn(&Args)), (&mut got, run)] {
            let (max, key) = (out.0.as_mut_ptr(), out.1.as_mut_ptr());
            // SAFETY: n rows of w ≤ ld elements, vectors of w.
            unsafe { run(&Args { n, w, x: scores.as_ptr(), ld, max, key }) };
        }
        got.0.check();
        got.1.check();
        for r in 0..w {
            let same = |a: f32, b: f32| a == b || a.is_nan() && b.is_nan();
            assert!(same(got.0[r], want.0[r]) && got.1[r] == want.1[r], "query {r} of {w}, {n} keys");
        }
    });
}
