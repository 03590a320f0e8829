//! What a call can fail with: an error of the library, or a fault that only a C caller can make.
//!
//! Building and printing a fault allocates nothing.

use std::fmt;
use subquad::{Error, Status};

/// Result inside the boundary.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Where in the arguments: `in[3].role`, `desc.flags`, `mode`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub name: &'static str,
    pub index: Option<usize>,
    pub field: &'static str,
}

impl Place {
    /// A whole argument.
    pub const fn argument(name: &'static str) -> Place {
        Place { name, index: None, field: "" }
    }

    /// A field of a struct argument.
    pub const fn field(name: &'static str, field: &'static str) -> Place {
        Place { name, index: None, field }
    }

    /// A field of an element of an array argument.
    pub const fn element(name: &'static str, index: usize, field: &'static str) -> Place {
        Place { name, index: Some(index), field }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        if !self.field.is_empty() {
            write!(f, ".{}", self.field)?;
        }
        Ok(())
    }
}

/// What was wrong.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Found by the library.
    Library(Error),
    /// A pointer is null.
    Null(Place),
    /// A number is not what it may be.
    Value { status: Status, place: Place, given: i128, expected: &'static str },
    /// Words for what no number says.
    Words { status: Status, place: Place, what: &'static str },
    /// `struct_size` is none of any version.
    StructSize { place: Place, given: usize, known: usize, name: &'static str },
}

impl Fault {
    /// A value out of its range.
    pub fn invalid(place: Place, given: impl Into<i128>, expected: &'static str) -> Fault {
        Fault::Value { status: Status::InvalidArgument, place, given: given.into(), expected }
    }

    /// A reserved field that is not zero.
    pub fn reserved(place: Place) -> Fault {
        Fault::Words { status: Status::WrongStruct, place, what: "must be zero in this version" }
    }

    /// The status code.
    pub fn status(&self) -> Status {
        match self {
            Fault::Library(error) => error.status(),
            Fault::Null(_) => Status::NullPointer,
            Fault::Value { status, .. } | Fault::Words { status, .. } => *status,
            Fault::StructSize { .. } => Status::WrongStruct,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Library(error) => write!(f, "{error}"),
            Fault::Null(place) => write!(f, "{place} is null"),
            Fault::Value { place, given, expected, .. } => {
                write!(f, "{place} is {given}, expected {expected}")
            }
            Fault::Words { place, what, .. } => write!(f, "{place} {what}"),
            Fault::StructSize { place, given, known, name } => {
                write!(f, "{place} is {given}, expected sizeof({name}), which is {known} in this version")
            }
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Library(error)
    }
}
