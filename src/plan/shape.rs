//! Shapes of the catalogue: sizes by name, with a little integer arithmetic.

use crate::error::{Error, Result};

/// Sizes that shapes are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    B,
    T,
    S,
    H,
    Hk,
    Hv,
    Hs,
    Ho,
    D,
    E,
    M,
    P,
    F,
    K,
}

const NAMES: [(&str, Size, &str); 14] = [
    ("B", Size::B, "the batch of the call"),
    ("T", Size::T, "the query length of the call"),
    ("S", Size::S, "the key length of the call"),
    ("H", Size::H, "desc.heads_q"),
    ("Hk", Size::Hk, "desc.heads_k"),
    ("Hv", Size::Hv, "desc.heads_v"),
    ("Hs", Size::Hs, "the number of state heads"),
    ("Ho", Size::Ho, "the number of output heads"),
    ("D", Size::D, "desc.dim_qk"),
    ("E", Size::E, "desc.dim_v"),
    ("M", Size::M, "the number of features or slots"),
    ("P", Size::P, "the number of projection rows"),
    ("F", Size::F, "the width of the projection"),
    ("K", Size::K, "the taps of the convolution"),
];

/// Sizes that neither heads nor dimensions give: a description that needs one names it among its parameters.
pub const NAMED: [(&str, Size); 4] = [("M", Size::M), ("P", Size::P), ("F", Size::F), ("K", Size::K)];

/// Values of the sizes; `None` until a tensor of the call binds it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes([Option<i64>; NAMES.len()]);

impl Sizes {
    pub fn get(&self, size: Size) -> Option<i64> {
        self.0[size as usize]
    }

    pub fn set(&mut self, size: Size, value: i64) {
        self.0[size as usize] = Some(value);
    }
}

/// One extent.
#[derive(Clone, Debug, PartialEq)]
pub enum Dim {
    Const(i64),
    Size(Size),
    Sum(Box<Dim>, Box<Dim>),
    Product(Box<Dim>, Box<Dim>),
    /// This, or 1: the same for all.
    OrOne(Box<Dim>),
}

impl Dim {
    /// Reads `1+D`, `Ho*E`, `2*D*nu`, `ranks-1`, `H|1`: sums of products of numbers, sizes and integer parameters.
    pub fn parse(text: &str, integer: &dyn Fn(&str) -> Option<i64>) -> Result<Dim> {
        let text = text.trim();
        if let Some(size) = text.strip_suffix("|1") {
            return Ok(Dim::OrOne(Box::new(Dim::parse(size, integer)?)));
        }
        if let Some((left, right)) = text.split_once('+') {
            return Ok(Dim::Sum(Box::new(Dim::parse(left, integer)?), Box::new(Dim::parse(right, integer)?)));
        }
        if let Some((left, right)) = text.rsplit_once('-') {
            let minus = Dim::Product(Box::new(Dim::Const(-1)), Box::new(Dim::parse(right, integer)?));
            return Ok(Dim::Sum(Box::new(Dim::parse(left, integer)?), Box::new(minus)));
        }
        if let Some((left, right)) = text.split_once('*') {
            let (left, right) = (Dim::parse(left, integer)?, Dim::parse(right, integer)?);
            return Ok(Dim::Product(Box::new(left), Box::new(right)));
        }
        if let Some(number) = text.parse().ok().or_else(|| integer(text)) {
            return Ok(Dim::Const(number));
        }
        let known = NAMES.iter().find(|(name, ..)| *name == text);
        known
            .map(|&(_, size, _)| Dim::Size(size))
            .ok_or(Error::Internal("a shape of the catalogue has an unknown size"))
    }

    /// Puts one size in the place of another.
    pub fn rename(&mut self, from: Size, to: Size) {
        match self {
            Dim::Size(own) if *own == from => *own = to,
            Dim::Sum(a, b) | Dim::Product(a, b) => {
                a.rename(from, to);
                b.rename(from, to);
            }
            Dim::OrOne(dim) => dim.rename(from, to),
            Dim::Const(_) | Dim::Size(_) => {}
        }
    }

    /// Whether it is that size, or that size or 1.
    pub fn is(&self, size: Size) -> bool {
        match self {
            Dim::Size(own) => *own == size,
            Dim::OrOne(dim) => dim.is(size),
            _ => false,
        }
    }

    /// Its value, if every size in it has one.
    pub fn value(&self, sizes: &Sizes) -> Option<i64> {
        match self {
            Dim::Const(number) => Some(*number),
            Dim::Size(size) => sizes.get(*size),
            Dim::Sum(a, b) => a.value(sizes)?.checked_add(b.value(sizes)?),
            Dim::Product(a, b) => a.value(sizes)?.checked_mul(b.value(sizes)?),
            Dim::OrOne(size) => size.value(sizes),
        }
    }

    /// Where its value comes from, for messages.
    pub fn source(&self) -> &'static str {
        match self {
            Dim::Size(size) => NAMES[*size as usize].2,
            Dim::OrOne(size) => size.source(),
            _ => "what the catalogue's shape gives",
        }
    }
}

/// The extents of one alternative.
pub fn parse_shape(text: &str, integer: &dyn Fn(&str) -> Option<i64>) -> Result<Vec<Dim>> {
    text.split(',').map(|axis| Dim::parse(axis, integer)).collect()
}
