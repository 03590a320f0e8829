//! A tensor against its reference, as a fraction of what the file tolerates.

/// The comparison of one tensor.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Largest error as a fraction of the tolerance at that element; up to 1 is right.
    pub fraction: f64,
    /// Flat index of that element.
    pub at: usize,
    /// Value there.
    pub given: f64,
    /// Value expected there.
    pub expected: f64,
    /// Number of elements beyond their tolerance.
    pub wrong: usize,
    /// Number of elements.
    pub len: usize,
}

impl Compared {
    /// Compares numbers: `|x − ref| ≤ atol + rtol |ref| + allowance`. Infinities must be the same, and NaN is
    /// wrong on either side.
    pub fn reals(
        name: &str,
        given: &[f32],
        expected: &[f32],
        (rtol, atol): (f64, f64),
        allowance: Option<&[f32]>,
    ) -> Compared {
        let fraction = |i: usize| {
            let (x, reference) = (f64::from(given[i]), f64::from(expected[i]));
            let extra = allowance.and_then(|values| values.get(i)).map_or(0.0, |&more| f64::from(more));
            fraction(x, reference, atol + rtol * reference.abs() + extra)
        };
        let value = |list: &[f32], i: usize| f64::from(list[i]);
        Compared::new(name, expected.len(), fraction, |i| (value(given, i), value(expected, i)))
    }

    /// Compares integers, which must be the same.
    pub fn integers(name: &str, given: &[i32], expected: &[i32]) -> Compared {
        let fraction = |i: usize| if given[i] == expected[i] { 0.0 } else { f64::INFINITY };
        Compared::new(name, expected.len(), fraction, |i| (f64::from(given[i]), f64::from(expected[i])))
    }

    fn new(
        name: &str,
        len: usize,
        fraction: impl Fn(usize) -> f64,
        values: impl Fn(usize) -> (f64, f64),
    ) -> Compared {
        let mut worst = (0.0, 0);
        let mut wrong = 0;
        for i in 0..len {
            let f = fraction(i);
            wrong += usize::from(f > 1.0);
            if f > worst.0 {
                worst = (f, i);
            }
        }
        let (given, expected) = if len > 0 { values(worst.1) } else { (0.0, 0.0) };
        Compared { name: name.to_owned(), fraction: worst.0, at: worst.1, given, expected, wrong, len }
    }

    /// What is wrong, in words.
    pub fn fault(&self) -> String {
        let Compared { name, at, given, expected, wrong, len, .. } = self;
        format!("{name}[{at}] is {given}, expected {expected}; {wrong} of {len} elements are off")
    }
}

fn fraction(x: f64, reference: f64, tolerance: f64) -> f64 {
    if x == reference {
        return 0.0;
    }
    let f = (x - reference).abs() / tolerance;
    // An infinity on one side only, NaN on either, or a zero tolerance.
    if f.is_finite() && reference.is_finite() { f } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(x: f32, reference: f32) -> f64 {
        Compared::reals("x", &[x], &[reference], (0.1, 0.5), None).fraction
    }

    #[test]
    fn tolerance_is_absolute_plus_relative_plus_allowance() {
        assert_eq!(worst(6.0, 5.0), 1.0);
        assert_eq!(worst(5.0, 5.0), 0.0);
        let allowed = Compared::reals("x", &[6.0], &[5.0], (0.1, 0.5), Some(&[1.0]));
        assert_eq!(allowed.fraction, 0.5);
    }

    #[test]
    fn infinities_are_exact_and_nan_is_wrong() {
        let inf = f32::INFINITY;
        assert_eq!(worst(inf, inf), 0.0);
        assert_eq!(worst(-inf, -inf), 0.0);
        for (x, reference) in [(inf, -inf), (1.0, inf), (inf, 1.0), (f32::NAN, 1.0), (f32::NAN, f32::NAN)] {
            assert_eq!(worst(x, reference), f64::INFINITY, "{x} against {reference}");
        }
        assert_eq!(Compared::reals("x", &[1.0], &[0.0], (0.0, 0.0), None).fraction, f64::INFINITY);
    }

    #[test]
    fn integers_are_exact() {
        assert_eq!(Compared::integers("i", &[1, 2], &[1, 2]).fraction, 0.0);
        assert_eq!(Compared::integers("i", &[1, 2], &[1, 3]).wrong, 1);
    }
}
