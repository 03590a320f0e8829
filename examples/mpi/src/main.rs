//! One sequence split over MPI ranks: each holds a block of tokens, and only states travel, along a ring.
//!
//! ```text
//! mpirun -np 4 target/release/subquad-mpi
//! ```
//!
//! Forward, rank r: summarise the block; receive the state from r − 1; combine; send the result to r + 1; run the
//! block from the state that came in. Backward is the same from the last rank to the first, with gradients of
//! states. Rank 0 then collects the outputs and gradients and compares them with the whole sequence run at
//! once; the exit status says whether they agree.

mod layer;

use layer::{Arrays, Layer};
use mpi::traits::*;
use subquad::Role;

/// Largest difference that is allowed, relative to the largest value of a tensor: rounding in another order.
const TOLERANCE: f32 = 2e-5;

fn main() -> Result<(), subquad::Error> {
    let universe = mpi::initialize().expect("MPI starts");
    let world = universe.world();
    let (rank, ranks) = (world.rank(), world.size());
    let mut worst = 0.0f32;
    for mechanism in ["simple_gla", "kda", "gated_delta_rule"] {
        // Blocks of different lengths, none a multiple of a chunk.
        let starts: Vec<usize> = (0..=ranks as usize).map(|r| r * 83 + r * r * 5).collect();
        let tokens = |r: i32| starts[r as usize]..starts[r as usize + 1];
        let layer = Layer::new(mechanism)?;
        let mine = layer.inputs(tokens(rank));

        // Forward.
        let (local, transition) = layer.summarise(&mine)?;
        let mut state = layer.empty_state();
        if rank > 0 {
            world.process_at_rank(rank - 1).receive_into(&mut state.data[..]);
        }
        if rank + 1 < ranks {
            let out = layer.combine(&state, &local, &transition, false)?;
            world.process_at_rank(rank + 1).send(&out.data[..]);
        }
        let out = layer.forward(&mine, &state)?;

        // Backward.
        let dout = layer.dout(tokens(rank));
        let local = layer.backward(&mine, &state, &dout, None)?.remove(&Role::STATE_IN.grad());
        let mut dstate = layer.empty_state();
        if rank + 1 < ranks {
            world.process_at_rank(rank + 1).receive_into(&mut dstate.data[..]);
        }
        if rank > 0 {
            let local = local.expect("it was asked for");
            let incoming = layer.combine(&dstate, &local, &transition, true)?;
            world.process_at_rank(rank - 1).send(&incoming.data[..]);
        }
        let mut results = layer.backward(&mine, &state, &dout, Some(&dstate))?;
        results.insert(Role::OUT, out);

        if rank > 0 {
            for (_, array) in results.iter().filter(|(role, _)| **role != Role::STATE_IN.grad()) {
                world.process_at_rank(0).send(&array.data[..]);
            }
            continue;
        }
        let all = layer.inputs(0..starts[ranks as usize]);
        let empty = layer.empty_state();
        let mut want = layer.backward(&all, &empty, &layer.dout(0..starts[ranks as usize]), None)?;
        want.insert(Role::OUT, layer.forward(&all, &empty)?);
        for r in 0..ranks {
            let part: Arrays = if r == 0 {
                results.clone()
            } else {
                let mut part = layer.like(&results, tokens(r));
                for array in part.values_mut() {
                    world.process_at_rank(r).receive_into(&mut array.data[..]);
                }
                part
            };
            for (role, array) in part.iter().filter(|(role, _)| **role != Role::STATE_IN.grad()) {
                let error = array.difference(&want[role].tokens(tokens(r)));
                if error > TOLERANCE {
                    println!("{mechanism}: {role} of rank {r} is off by {error:.1e}");
                }
                worst = worst.max(error);
            }
        }
        println!("{mechanism}: {ranks} ranks, {} tokens", starts[ranks as usize]);
    }
    if rank == 0 {
        let verdict = if worst <= TOLERANCE { "equal to one rank" } else { "NOT equal to one rank" };
        println!("outputs and gradients of {ranks} ranks: {verdict}, {worst:.1e} of the largest value at most");
    }
    // All ranks leave with the verdict of rank 0.
    let mut verdict = i32::from(worst > TOLERANCE);
    world.process_at_rank(0).broadcast_into(&mut verdict);
    drop(universe);
    std::process::exit(verdict);
}
