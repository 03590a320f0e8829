//! Results of runs of keys, merged in order (`docs/spec/softmax.md` 1.4).

use super::rows::{KEYS, ROWS, Unit};
use super::tile::{Running, Tile};
use super::{Form, SPLITS};
use crate::kernel::{matmul, online_softmax};

const _: () = assert!(SPLITS <= KEYS, "the maxima of the runs are taken for a tile of scores");

/// Merges the parts of a unit, `part(i)` of `unit.splits`, and writes its outputs.
pub fn run(unit: &Unit<'_>, base: *mut f32, part: impl Fn(usize) -> *mut f32) {
    let (engine, n) = (unit.engine, unit.splits);
    let e16 = engine.e.next_multiple_of(16);
    let stride = ROWS * (e16 + 2);
    let mut tile = Tile::empty(unit, base);
    let running =
        |i: usize, stream: usize| part(i).wrapping_add(stream * stride + ROWS * e16).cast::<Running>();
    for stream in 0..engine.settings.form.streams() {
        let x = tile.buffers.at(engine.at.x[0]);
        let probe = stream == 1 && engine.settings.form == Form::Probe;
        // SAFETY: parts were written by tasks that have returned; a tile of scores has a row for each.
        unsafe {
            for i in (0..n).filter(|_| !probe) {
                x.add(i * ROWS).cast::<[f32; ROWS]>().write((*running(i, stream)).max);
            }
            let own = &mut tile.running[stream];
            if !probe {
                let (mut factor, mut changed) = ([0.0; ROWS], false);
                (engine.kernels.online)(&online_softmax::Args {
                    n,
                    w: unit.rows.width,
                    x,
                    ld: ROWS,
                    max: own.max.as_mut_ptr(),
                    sum: own.sum.as_mut_ptr(),
                    factor: factor.as_mut_ptr(),
                    changed: &mut changed,
                });
            }
            own.sum = [0.0; ROWS];
            tile.buffers.clear_sums(engine.at.acc[stream]);
            for i in 0..n {
                let weights = x.add(i * ROWS);
                for r in 0..unit.rows.n {
                    own.sum[r] += *weights.add(r) * (*running(i, stream)).sum[r];
                    let c = tile.buffers.at(engine.at.acc[stream] + r * e16);
                    let (a, b) = (weights.add(r), part(i).add(stream * stride + r * e16));
                    let product = matmul::Args::product(1, engine.e, 1, c, e16 as isize);
                    let with = matmul::Args { a, b, c0: c, ldc0: e16 as isize, ..product };
                    (engine.kernels.common.matmul)(&with);
                }
            }
        }
    }
    tile.summed();
    // SAFETY: sums and softmaxes are those of all keys.
    unsafe { tile.finish() };
}
