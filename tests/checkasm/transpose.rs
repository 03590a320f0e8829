//! Model: the same bits.

use crate::guarded::Guarded;
use crate::support::cases;
use subquad::kernel::Kernel;
use subquad::kernel::transpose_rows::{Args, TILE, TransposeRows};

#[test]
fn transpose_rows() {
    cases::<TransposeRows>(600, |rng, run| {
        let (n, d) = (if rng.one_in(2) { TILE } else { rng.below(TILE + 1) }, rng.len());
        let ld = d + rng.below(10);
        let len = if n == 0 { 0 } else { (n - 1) * ld + d };
        let values = rng.mixed(len);
        let src = Guarded::new(rng, &values);
        let ld_dst = TILE + if rng.one_in(2) { 0 } else { rng.below(40) };
        let len = if d == 0 { 0 } else { (d - 1) * ld_dst + TILE };
        let mut want = Guarded::<f32>::unset(rng, len);
        let mut got = want.copy(rng);
        let args = Args { n, d, src: src.as_ptr(), ld, dst: want.as_mut_ptr(), ld_dst };
        // SAFETY: n rows of d elements, d columns of 16.
        unsafe {
            TransposeRows::reference(&args);
            run(&Args { dst: got.as_mut_ptr(), ..args });
        }
        got.check();
        src.check();
        for (at, (g, w)) in got.iter().zip(&*want).enumerate() {
            assert_eq!(g.to_bits(), w.to_bits(), "column {} of {d}, row {} of {n}", at / ld_dst, at % ld_dst);
        }
    });
}
