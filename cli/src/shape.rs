//! Shapes of the catalogue (`B,Hk,S,1+D`): reading sizes out of tensors, and extents out of sizes.

use std::collections::BTreeMap;

/// Sizes and integer parameters by name.
pub type Names = BTreeMap<String, i64>;

/// Integer arithmetic over names, as the catalogue writes extents.
#[derive(Clone, Debug, PartialEq)]
enum Expr {
    Number(i64),
    Name(String),
    Negative(Box<Expr>),
    Binary(char, Box<Expr>, Box<Expr>),
}

/// One axis: alternatives, of which `B|1` has two.
#[derive(Clone, Debug)]
pub struct Axis(Vec<Expr>);

/// Reads one shape; `None` where it goes beyond integer arithmetic.
pub fn parse(shape: &str) -> Option<Vec<Axis>> {
    let axis = |text: &str| text.split('|').map(Parser::expression).collect::<Option<Vec<_>>>().map(Axis);
    shape.split(',').map(axis).collect()
}

impl Axis {
    /// The extent that the names give, from its first alternative.
    pub fn value(&self, names: &Names) -> Option<i64> {
        self.0[0].value(names)
    }

    /// Whether the axis is just this name.
    pub fn is(&self, name: &str) -> bool {
        matches!(&self.0[..], [Expr::Name(own)] if own == name)
    }

    fn fit(&self, names: &mut Names, extent: i64) -> bool {
        self.0.iter().any(|expr| expr.fit(names, extent))
    }
}

/// Binds the names of the first of `shapes` that these extents fit, and returns its index.
pub fn fit(shapes: &[&str], extents: &[i64], names: &mut Names) -> Option<usize> {
    shapes.iter().position(|shape| {
        let Some(axes) = parse(shape) else { return false };
        let mut trial = names.clone();
        let fits = axes.len() == extents.len()
            && axes.iter().zip(extents).all(|(axis, &extent)| axis.fit(&mut trial, extent));
        if fits {
            *names = trial;
        }
        fits
    })
}

impl Expr {
    fn value(&self, names: &Names) -> Option<i64> {
        match self {
            Expr::Number(x) => Some(*x),
            Expr::Name(name) => names.get(name).copied(),
            Expr::Negative(x) => x.value(names)?.checked_neg(),
            Expr::Binary(op, a, b) => {
                let (a, b) = (a.value(names)?, b.value(names)?);
                match op {
                    '+' => a.checked_add(b),
                    '-' => a.checked_sub(b),
                    '*' => a.checked_mul(b),
                    _ => a.checked_div_euclid(b),
                }
            }
        }
    }

    /// Whether the extent agrees; a single unknown name is bound, in `1+D` and `2*H` too. What can't be
    /// solved (two unknown names, a division) agrees with everything.
    fn fit(&self, names: &mut Names, extent: i64) -> bool {
        if let Some(value) = self.value(names) {
            return value == extent;
        }
        let mut unknown = Vec::new();
        let mut divides = false;
        self.scan(names, &mut unknown, &mut divides);
        unknown.dedup();
        let [name] = &unknown[..] else { return true };
        if divides {
            return true;
        }
        // The expression is a + b·name: two points give a and b, and the result is tested.
        let mut trial = names.clone();
        let mut at = |x| {
            trial.insert(name.clone(), x);
            self.value(&trial)
        };
        let (Some(a), Some(one)) = (at(0), at(1)) else { return true };
        if one == a {
            return a == extent;
        }
        let x = (extent - a) / (one - a);
        let fits = x >= 0 && at(x) == Some(extent);
        if fits {
            names.insert(name.clone(), x);
        }
        fits
    }

    fn scan(&self, names: &Names, unknown: &mut Vec<String>, divides: &mut bool) {
        match self {
            Expr::Number(_) => {}
            Expr::Name(name) if names.contains_key(name) => {}
            Expr::Name(name) => unknown.push(name.clone()),
            Expr::Negative(x) => x.scan(names, unknown, divides),
            Expr::Binary(op, a, b) => {
                *divides |= *op == '/';
                a.scan(names, unknown, divides);
                b.scan(names, unknown, divides);
            }
        }
    }
}

/// Recursive descent over `+ - * //`, unary minus and parentheses.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn expression(text: &str) -> Option<Expr> {
        let mut parser = Parser { rest: text };
        let expr = parser.sum()?;
        parser.rest.trim().is_empty().then_some(expr)
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(token);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn sum(&mut self) -> Option<Expr> {
        let mut left = self.product()?;
        loop {
            let op = if self.take("+") {
                '+'
            } else if self.take("-") {
                '-'
            } else {
                return Some(left);
            };
            left = Expr::Binary(op, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Option<Expr> {
        let mut left = self.unary()?;
        loop {
            let op = if self.take("*") {
                '*'
            } else if self.take("//") {
                '/'
            } else {
                return Some(left);
            };
            left = Expr::Binary(op, Box::new(left), Box::new(self.unary()?));
        }
    }

    fn unary(&mut self) -> Option<Expr> {
        if self.take("-") {
            return Some(Expr::Negative(Box::new(self.unary()?)));
        }
        if self.take("(") {
            let inner = self.sum()?;
            return self.take(")").then_some(inner);
        }
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (token, rest) = rest.split_at(end);
        self.rest = rest;
        match token.chars().next()? {
            '0'..='9' => Some(Expr::Number(token.parse().ok()?)),
            _ => Some(Expr::Name(token.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[(&str, i64)]) -> Names {
        list.iter().map(|&(name, x)| (name.to_owned(), x)).collect()
    }

    #[test]
    fn solves_sums_and_multiples() {
        let mut found = Names::new();
        assert_eq!(fit(&["B,2*H,T,D"], &[1, 8, 5, 20], &mut found), Some(0));
        assert_eq!(fit(&["B,Hk,1+D,E"], &[1, 2, 21, 12], &mut found), Some(0));
        assert_eq!(found, names(&[("B", 1), ("H", 4), ("T", 5), ("D", 20), ("Hk", 2), ("E", 12)]));
        assert_eq!(fit(&["B,Hk,1+D,E"], &[1, 2, 20, 12], &mut found), None);
    }

    #[test]
    fn takes_the_alternative_that_fits() {
        let mut found = names(&[("Ho", 4), ("E", 12)]);
        assert_eq!(fit(&["E", "Ho*E"], &[48], &mut found), Some(1));
        assert_eq!(fit(&["B|1,H|1,T,S"], &[1, 1, 5, 6], &mut found), Some(0));
    }

    #[test]
    fn reads_division_and_negation() {
        let size = |text: &str| parse(text).unwrap()[0].value(&names(&[("D", 20), ("S", 17), ("block", 4)]));
        assert_eq!(size("1+D+D*(D+1)//2"), Some(231));
        assert_eq!(size("-(-S//block)"), Some(5));
        assert!(parse("B,(1 if antithetic else replicas)*landmarks").is_none());
    }

    #[test]
    fn every_extent_of_the_catalogue_is_read_or_refused() {
        let mechanisms = subquad::catalog::MECHANISMS.iter().flat_map(|page| page.iter());
        let read = mechanisms.clone().flat_map(|m| m.roles).flat_map(|r| r.shapes).filter_map(|s| parse(s));
        assert!(read.count() > 500);
    }
}
