//! Errors: one enum with the data of the fault, formatted only when read.
//!
//! Building an [`Error`] for a fault found by `execute` allocates nothing.

use crate::catalog::Role;
use crate::tensor::DType;
use std::fmt;

/// Result of every fallible call.
pub type Result<T> = std::result::Result<T, Error>;

/// Status codes, the numbers of the C ABI. Values are append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum Status {
    /// Success.
    Ok = 0,
    /// A required pointer is null.
    NullPointer = -1,
    /// A value of a description or option is out of its range.
    InvalidArgument = -2,
    /// No mechanism of that name in the catalogue.
    UnknownMechanism = -3,
    /// Known, but not available: a mechanism, mode, type or size.
    Unsupported = -4,
    /// The mechanism has no parameter of that name.
    UnknownParameter = -5,
    /// A parameter has the wrong kind or is out of range.
    ParameterRange = -6,
    /// The mechanism has no such role, or it is bound on the wrong side or twice.
    WrongRole = -7,
    /// A required role is not bound.
    MissingRole = -8,
    /// A tensor has the wrong element type.
    WrongDType = -9,
    /// A tensor has the wrong rank or extent.
    WrongShape = -10,
    /// A stride is not allowed, or extents times strides leave the address space.
    WrongStride = -11,
    /// A pointer is not aligned to its element type.
    Misaligned = -12,
    /// An output overlaps an input or another output.
    Overlap = -13,
    /// The workspace is too small.
    Workspace = -14,
    /// An allocation failed.
    OutOfMemory = -15,
    /// A fault of the library itself.
    Internal = -16,
    /// A struct of the C interface has an unknown size or non-zero reserved fields.
    WrongStruct = -17,
}

impl Status {
    /// All statuses, success first.
    pub const ALL: [Status; 18] = [
        Status::Ok,
        Status::NullPointer,
        Status::InvalidArgument,
        Status::UnknownMechanism,
        Status::Unsupported,
        Status::UnknownParameter,
        Status::ParameterRange,
        Status::WrongRole,
        Status::MissingRole,
        Status::WrongDType,
        Status::WrongShape,
        Status::WrongStride,
        Status::Misaligned,
        Status::Overlap,
        Status::Workspace,
        Status::OutOfMemory,
        Status::Internal,
        Status::WrongStruct,
    ];

    /// A short name, such as `wrong shape`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::NullPointer => "null pointer",
            Status::InvalidArgument => "invalid argument",
            Status::UnknownMechanism => "unknown mechanism",
            Status::Unsupported => "unsupported",
            Status::UnknownParameter => "unknown parameter",
            Status::ParameterRange => "parameter out of range",
            Status::WrongRole => "wrong role",
            Status::MissingRole => "missing role",
            Status::WrongDType => "wrong data type",
            Status::WrongShape => "wrong shape",
            Status::WrongStride => "wrong stride",
            Status::Misaligned => "misaligned pointer",
            Status::Overlap => "overlapping output",
            Status::Workspace => "workspace too small",
            Status::OutOfMemory => "out of memory",
            Status::Internal => "internal error",
            Status::WrongStruct => "wrong struct",
        }
    }
}

/// What was wrong: the argument, what was given and what was expected.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are named in each variant's text")]
pub enum Error {
    /// A pointer that must not be null is null; the argument's name.
    NullPointer(&'static str),
    /// A tensor with elements has no memory.
    NullData(Role),
    /// A value outside its range: argument, value given, what is expected.
    InvalidArgument { what: &'static str, given: i64, expected: &'static str },
    /// An argument that is wrong in a way only words describe.
    InvalidText { what: &'static str, given: String, expected: String },
    /// The catalogue has no mechanism of this name.
    UnknownMechanism(String),
    /// Known but not available: what, and why.
    Unsupported { what: String, why: String },
    /// The mechanism has no parameter of this name.
    UnknownParameter { mechanism: &'static str, name: String },
    /// The parameter's value has the wrong kind or lies outside its range.
    ParameterRange { name: String, given: String, expected: String },
    /// The role cannot be bound here: why.
    WrongRole { role: Role, why: &'static str },
    /// More tensors were bound than a call can take.
    TooManyTensors { given: usize, max: usize },
    /// A required role is not bound.
    MissingRole { role: Role, why: &'static str },
    /// Element type of a tensor.
    WrongDType { role: Role, given: DType, expected: &'static str },
    /// Rank of a tensor.
    WrongRank { role: Role, given: usize, expected: usize },
    /// One extent of a tensor; `from` says where the expected value comes from.
    WrongExtent { role: Role, axis: usize, given: i64, expected: i64, from: &'static str },
    /// One stride of a tensor.
    WrongStride { role: Role, axis: usize, given: i64, why: &'static str },
    /// One value of an index tensor.
    IndexValue { role: Role, at: usize, given: i64, why: &'static str },
    /// A view that does not fit the slice it is made from.
    OutOfBounds { what: &'static str, needed: usize, given: usize },
    /// Address not a multiple of the element's alignment.
    Misaligned { role: Role, align: usize },
    /// Two tensors share memory where they must not.
    Overlap { role: Role, other: Role },
    /// The workspace has too few bytes.
    Workspace { given: usize, needed: usize },
    /// An allocation of this many bytes failed.
    OutOfMemory { bytes: usize },
    /// A fault of the library itself.
    Internal(&'static str),
    /// A struct of the C interface; its name and what is wrong with it.
    WrongStruct { what: &'static str, why: &'static str },
}

impl Error {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Error::NullPointer(_) | Error::NullData(_) => Status::NullPointer,
            Error::InvalidArgument { .. }
            | Error::InvalidText { .. }
            | Error::IndexValue { .. }
            | Error::TooManyTensors { .. } => Status::InvalidArgument,
            Error::UnknownMechanism(_) => Status::UnknownMechanism,
            Error::Unsupported { .. } => Status::Unsupported,
            Error::UnknownParameter { .. } => Status::UnknownParameter,
            Error::ParameterRange { .. } => Status::ParameterRange,
            Error::WrongRole { .. } => Status::WrongRole,
            Error::MissingRole { .. } => Status::MissingRole,
            Error::WrongDType { .. } => Status::WrongDType,
            Error::WrongRank { .. } | Error::WrongExtent { .. } | Error::OutOfBounds { .. } => {
                Status::WrongShape
            }
            Error::WrongStride { .. } => Status::WrongStride,
            Error::Misaligned { .. } => Status::Misaligned,
            Error::Overlap { .. } => Status::Overlap,
            Error::Workspace { .. } => Status::Workspace,
            Error::OutOfMemory { .. } => Status::OutOfMemory,
            Error::Internal(_) => Status::Internal,
            Error::WrongStruct { .. } => Status::WrongStruct,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NullPointer(what) => write!(f, "{what} is null"),
            Error::InvalidArgument { what, given, expected } => {
                write!(f, "{what} is {given}, expected {expected}")
            }
            Error::InvalidText { what, given, expected } => {
                write!(f, "{what} is {given}, expected {expected}")
            }
            Error::UnknownMechanism(name) => write!(f, "no mechanism is called `{name}`"),
            Error::Unsupported { what, why } => write!(f, "{what} is not supported: {why}"),
            Error::UnknownParameter { mechanism, name } => {
                write!(f, "{mechanism} has no parameter `{name}`")
            }
            Error::ParameterRange { name, given, expected } => {
                write!(f, "parameter {name} is {given}, expected {expected}")
            }
            Error::WrongRole { role, why } => write!(f, "role {role}: {why}"),
            Error::TooManyTensors { given, max } => {
                write!(f, "{given} tensors are bound, at most {max} can be")
            }
            Error::MissingRole { role, why } => write!(f, "role {role} is missing: {why}"),
            Error::WrongDType { role, given, expected } => {
                write!(f, "{role} has type {given}, expected {expected}")
            }
            Error::WrongRank { role, given, expected } => {
                write!(f, "{role} has rank {given}, expected {expected}")
            }
            Error::WrongExtent { role, axis, given, expected, from } => {
                write!(f, "{role}.shape[{axis}] is {given}, {from} is {expected}")
            }
            Error::WrongStride { role, axis, given, why } => {
                write!(f, "{role}.stride[{axis}] is {given}: {why}")
            }
            Error::NullData(role) => write!(f, "{role}.data is null"),
            Error::IndexValue { role, at, given, why } => write!(f, "{role}[{at}] is {given}: {why}"),
            Error::OutOfBounds { what, needed, given } => {
                write!(f, "{what} has {given} elements, the shape and strides need {needed}")
            }
            Error::Misaligned { role, align } => {
                write!(f, "{role}.data is not aligned to {align} bytes")
            }
            Error::Overlap { role, other } => write!(f, "output {role} overlaps {other}"),
            Error::Workspace { given, needed } => {
                write!(f, "workspace has {given} bytes, this call needs {needed}")
            }
            Error::OutOfMemory { bytes } => write!(f, "could not allocate {bytes} bytes"),
            Error::Internal(what) => write!(f, "internal error: {what}"),
            Error::WrongStruct { what, why } => write!(f, "{what}: {why}"),
        }
    }
}

impl std::error::Error for Error {}
