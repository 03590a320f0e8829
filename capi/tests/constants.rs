//! The numbers of the interface are those of the library's enums, and so are their names.

use std::ffi::{CStr, c_char};
use subquad::{DType, Flags, Isa, MAX_RANK, MAX_TENSORS, Mode, Status};
use subquad_capi::*;

fn text(pointer: *const c_char) -> &'static str {
    // SAFETY: the library's texts are static and end in a NUL.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap()
}

#[test]
fn statuses() {
    let constants = [
        SUBQUAD_OK,
        SUBQUAD_ERROR_NULL_POINTER,
        SUBQUAD_ERROR_INVALID_ARGUMENT,
        SUBQUAD_ERROR_UNKNOWN_MECHANISM,
        SUBQUAD_ERROR_UNSUPPORTED,
        SUBQUAD_ERROR_UNKNOWN_PARAMETER,
        SUBQUAD_ERROR_PARAMETER_RANGE,
        SUBQUAD_ERROR_WRONG_ROLE,
        SUBQUAD_ERROR_MISSING_ROLE,
        SUBQUAD_ERROR_WRONG_DTYPE,
        SUBQUAD_ERROR_WRONG_SHAPE,
        SUBQUAD_ERROR_WRONG_STRIDE,
        SUBQUAD_ERROR_MISALIGNED,
        SUBQUAD_ERROR_OVERLAP,
        SUBQUAD_ERROR_WORKSPACE,
        SUBQUAD_ERROR_OUT_OF_MEMORY,
        SUBQUAD_ERROR_INTERNAL,
        SUBQUAD_ERROR_WRONG_STRUCT,
    ];
    assert_eq!(constants, Status::ALL.map(|status| status as i32));
    for status in Status::ALL {
        assert_eq!(text(subquad_status_string(status as i32)), status.name());
    }
    for unknown in [1, -18, i32::MIN, i32::MAX] {
        assert_eq!(text(subquad_status_string(unknown)), "unknown status");
    }
}

#[test]
fn instruction_sets() {
    let constants = [SUBQUAD_ISA_SCALAR, SUBQUAD_ISA_NEON, SUBQUAD_ISA_AVX2, SUBQUAD_ISA_AVX512];
    assert_eq!(constants, Isa::ALL.map(|isa| isa as u32));
    for isa in Isa::ALL {
        assert_eq!(text(subquad_isa_name(isa as u32)), isa.name());
    }
    assert_eq!(text(subquad_isa_name(0)), "unknown");
    assert_eq!(subquad_cpu_isa(), Isa::best() as u32);
}

#[test]
fn modes_types_and_limits() {
    let modes = [
        SUBQUAD_MODE_CAUSAL,
        SUBQUAD_MODE_BIDIRECTIONAL,
        SUBQUAD_MODE_CROSS,
        SUBQUAD_MODE_STEP,
        SUBQUAD_MODE_DRAW,
        SUBQUAD_MODE_TRANSFORM,
    ];
    assert_eq!(modes, Mode::ALL.map(|mode| mode as u32));
    let types = [SUBQUAD_DTYPE_F32, SUBQUAD_DTYPE_BF16, SUBQUAD_DTYPE_F16, SUBQUAD_DTYPE_I32];
    assert_eq!(types, DType::ALL.map(|dtype| dtype as u32));
    assert_eq!(SUBQUAD_FLAG_BF16_DOT, Flags::BF16_DOT.bits());
    assert_eq!((SUBQUAD_MAX_RANK as usize, SUBQUAD_MAX_TENSORS as usize), (MAX_RANK, MAX_TENSORS));
}

#[test]
fn versions() {
    assert_eq!(text(subquad_version_string()), env!("CARGO_PKG_VERSION"));
    let parts: Vec<u32> = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap()).collect();
    assert_eq!(subquad_version(), parts[0] * 10000 + parts[1] * 100 + parts[2]);
}

/// Every mechanism, parameter and role can be read, and agrees with the catalogue.
#[test]
fn catalogue() {
    let rows: Vec<_> = subquad::catalog::MECHANISMS.iter().copied().flatten().collect();
    assert_eq!(subquad_mechanism_count(), rows.len());
    let available: Vec<&str> = subquad::mechanisms().collect();
    // SAFETY: structs of plain numbers and pointers, for which zero is a value; writable for their sizes.
    unsafe {
        for (index, row) in rows.iter().enumerate() {
            let mut info: subquad_mechanism_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info);
            assert_eq!(subquad_mechanism_get_info(index, &mut info, std::ptr::null_mut()), SUBQUAD_OK);
            assert_eq!((text(info.name), text(info.title)), (row.name, row.title));
            assert_eq!((text(info.page), text(info.section)), (row.page, row.section));
            assert_eq!(info.available == 1, available.contains(&row.name), "{}", row.name);
            assert_eq!((info.n_params as usize, info.n_roles as usize), (row.params.len(), row.roles.len()));
            for mode in Mode::ALL {
                assert_eq!(info.modes & mode as u32 != 0, row.modes.contains(&mode), "{}", row.name);
            }
            for (i, spec) in row.params.iter().enumerate() {
                let mut param: subquad_param_info = std::mem::zeroed();
                param.struct_size = size_of_val(&param);
                let status = subquad_mechanism_param(index, i as u32, &mut param, std::ptr::null_mut());
                assert_eq!((status, text(param.name)), (SUBQUAD_OK, spec.name));
                assert!((1..=6).contains(&param.kind) && !param.meaning.is_null());
                assert!(param.required == 0 || param.default_value.is_null());
                if let subquad::catalog::Range::Words(words) = spec.range {
                    assert_eq!(text(param.range).split(", ").collect::<Vec<_>>(), words);
                }
            }
            for (i, spec) in row.roles.iter().enumerate() {
                let mut role: subquad_role_info = std::mem::zeroed();
                role.struct_size = size_of_val(&role);
                let status = subquad_mechanism_role(index, i as u32, &mut role, std::ptr::null_mut());
                assert_eq!((status, role.role), (SUBQUAD_OK, spec.role.id()));
                assert_eq!(text(role.shape).split(" or ").collect::<Vec<_>>(), spec.shapes);
                assert_eq!((role.required == 1, text(role.note)), (spec.required, spec.note));
            }
        }
    }
}
