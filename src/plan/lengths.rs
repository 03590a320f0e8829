//! Numbers of tokens of a call: lengths, offsets of packed sequences, slots of their states.

use super::check::{Bound, Pass};
use super::shape::{Dim, Size};
use super::{Inner, range_error};
use crate::catalog::{Mode, Role};
use crate::engine::call::Sequences;
use crate::error::{Error, Result};
use crate::tensor::{Index, Tensor};

impl Bound {
    /// Numbers of queries and of keys of the whole call.
    pub fn check_lengths(&self, plan: &Inner, pass: Pass, mode: Mode) -> Result<()> {
        // Without queries there is one length; without keys, too.
        let s = self.sizes().get(Size::S).unwrap_or(self.size(Size::T));
        let t =
            if pass == Pass::Summary { self.sizes().get(Size::T).unwrap_or(s) } else { self.size(Size::T) };
        let packed = self.get(Role::CU_SEQLENS).is_some() && self.get(Role::CU_SEQLENS_K).is_none();
        let right_aligned = plan.settings.right_aligned() && !packed;
        if let Some((_, parts)) = plan.settings.equal_parts()
            && t % parts as i64 != 0
        {
            let expected = (t as u64).next_multiple_of(parts as u64) as i64;
            return Err(self.wrong_length(
                plan,
                Size::T,
                t,
                expected,
                "the next multiple of parameter ranks",
            ));
        }
        if plan.settings.is_windowed() && t > s && !self.counts_keys() {
            return Err(self.wrong_length(plan, Size::T, t, s, "the key length, where there is a window"));
        }
        match mode {
            Mode::Step if t != 1 => Err(self.wrong_length(plan, Size::T, t, 1, "the tokens of a step")),
            Mode::Step if s != 1 && !plan.settings.reads_cache() => {
                Err(self.wrong_length(plan, Size::S, s, 1, "the tokens of a step"))
            }
            Mode::Causal if right_aligned && t <= s => Ok(()),
            Mode::Causal | Mode::Bidirectional if t != s => {
                Err(self.wrong_length(plan, Size::S, s, t, "the query length of the call"))
            }
            _ => Ok(()),
        }
    }

    /// The fault of a length, named after the first tensor that has it.
    fn wrong_length(&self, plan: &Inner, size: Size, given: i64, expected: i64, from: &'static str) -> Error {
        let found = plan.rules.iter().find_map(|rule| {
            let rank = self.get(rule.spec.role)?.layout.rank;
            let shape = rule.shapes.iter().find(|shape| shape.len() == rank)?;
            let axis = shape.iter().position(|dim| *dim == Dim::Size(size))?;
            Some((rule.spec.role, axis))
        });
        match found {
            Some((role, axis)) => Error::WrongExtent { role, axis, given, expected, from },
            None => Error::Internal("a length that no tensor has is wrong"),
        }
    }

    /// No sequence goes beyond the largest position, nor has more keys than the mechanism takes, where there are such
    /// bounds.
    pub fn check_positions(&self, plan: &Inner) -> Result<()> {
        let longest = |offsets: Option<Tensor>, all: Option<i64>| match offsets.map(Index) {
            Some(offsets) => (1..offsets.len()).map(|i| offsets.get(i) - offsets.get(i - 1)).max(),
            None => all,
        };
        let (of_q, of_k) = (self.get(Role::CU_SEQLENS), self.get(Role::CU_SEQLENS_K));
        let queries = longest(of_q, self.sizes().get(Size::T)).unwrap_or(0);
        let keys = longest(of_k.or(of_q), self.sizes().get(Size::S)).unwrap_or(0);
        if let Some(most) = plan.settings.most_keys().filter(|&most| keys > most) {
            let from = "the most keys of a sequence that the mechanism takes";
            return Err(self.wrong_length(plan, Size::S, keys, most, from));
        }
        let Some((first, largest)) = plan.settings.positions() else { return Ok(()) };
        let last = first.saturating_add(queries.max(keys)) - 1;
        if queries.max(keys) > 0 && last as f64 > largest {
            let expected = format!("at least {last}, the last position of the call");
            return Err(range_error("period", largest.to_string(), &expected));
        }
        Ok(())
    }

    /// Values of the index tensors.
    pub fn check_index(&self, plan: &Inner, mode: Mode, n_sequences: Option<i64>) -> Result<()> {
        for (role, total) in [(Role::CU_SEQLENS, Size::T), (Role::CU_SEQLENS_K, Size::S)] {
            let Some(offsets) = self.get(role).map(Index) else { continue };
            let mut last = 0;
            for i in 0..offsets.len() {
                let given = offsets.get(i);
                if given < last || (i == 0 && given != 0) {
                    let why = "offsets start at 0 and never fall";
                    return Err(Error::IndexValue { role, at: i, given, why });
                }
                last = given;
            }
            if last != self.size(total) {
                let (at, why) = (offsets.len() - 1, "the last offset is the number of tokens");
                return Err(Error::IndexValue { role, at, given: last, why });
            }
        }
        self.check_sequences(plan, mode)?;
        let role = Role::STATE_INDEX;
        let Some(index) = self.get(role).map(Index) else { return Ok(()) };
        let expected = n_sequences.unwrap_or(self.size(Size::B));
        if index.len() as i64 != expected {
            let (given, from) = (index.len() as i64, "the number of sequences");
            return Err(Error::WrongExtent { role, axis: 0, given, expected, from });
        }
        let states = plan.rules.iter().filter(|rule| rule.is_state()).map(|rule| rule.spec.role);
        let pools = states.flat_map(|role| [self.get(role), self.get(role.grad())]).flatten();
        let slots = pools.map(|pool| pool.layout.shape[0]).min();
        for i in 0..index.len() {
            let given = index.get(i);
            let why = match given {
                -1 => continue,
                _ if given < 0 || slots.is_some_and(|slots| given >= slots) => "it is no slot of the state",
                _ if (0..i).any(|j| index.get(j) == given) => "the slot is used by an earlier sequence",
                _ => continue,
            };
            return Err(Error::IndexValue { role, at: i, given, why });
        }
        Ok(())
    }

    /// What holds for every sequence by itself: lengths of what counts, and of queries that are the last positions.
    fn check_sequences(&self, plan: &Inner, mode: Mode) -> Result<()> {
        let sequences = Sequences { slots: None, ..self.call(mode).sequences };
        let ahead = sequences.offsets_k.is_some() && plan.settings.right_aligned();
        let no_more_queries = ahead && (mode == Mode::Causal || plan.settings.is_windowed());
        let lengths = [
            (Role::KEY_LEN, "a length is from 0 to the number of keys"),
            (Role::QUERY_LEN, "a length is from 0 to the number of queries"),
        ];
        if !no_more_queries && lengths.iter().all(|&(role, _)| self.get(role).is_none()) {
            return Ok(());
        }
        for (at, s) in (0..sequences.len()).filter_map(|i| Some((i, sequences.get(i)?))) {
            for ((role, why), most) in lengths.into_iter().zip([s.n_k, s.n_q]) {
                let Some(given) = self.get(role).map(|lengths| Index(lengths).get(at)) else { continue };
                if !(0..=most as i64).contains(&given) {
                    return Err(Error::IndexValue { role, at, given, why });
                }
            }
            if no_more_queries && s.n_q > s.n_k {
                let (role, given) = (Role::CU_SEQLENS_K, (s.k0 + s.n_k) as i64);
                let why = "the sequence has fewer keys than queries";
                return Err(Error::IndexValue { role, at: at + 1, given, why });
            }
        }
        Ok(())
    }
}
