//! The constants of roles are those of the catalogue. With `SUBQUAD_BLESS=1` the file is written anew.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::path::Path;
use subquad::Role;
use subquad::catalog::ROLE_MEANINGS;
use subquad_capi::{SUBQUAD_ROLE_GRAD, SUBQUAD_ROLE_SNAPSHOT, subquad_role_id, subquad_role_name};

const FILE: &str = "src/role_ids.rs";
const HEAD: &str = "\
//! Roles of tensors
//!
//! Generated from the catalogue by `SUBQUAD_BLESS=1 cargo test -p subquad-capi --test roles`: do not edit.
";

/// What the interface's own roles mean; the catalogue says it for the others.
const INTERFACE: [(&str, &str); 6] = [
    ("cu_seqlens", "offsets of ragged sequences along the token axis, [n_sequences + 1], i32"),
    ("cu_seqlens_k", "the same for the keys of mode cross"),
    ("state_index", "slot of each sequence in a pool of states, [n_sequences], i32; -1 skips it"),
    ("snapshot_at", "numbers of tokens after which snapshots are taken, [n_sequences, N], i32; -1: none"),
    ("page_table", "pages of each sequence's cache, [B, n], i32: k and v are pools [P, Hk, page, ...]"),
    ("key_start", "row of each sequence's oldest key in a ring of keys and values, [B], i32"),
];

/// Every role without its gradient and snapshots, those of families left out: their names are no identifiers.
fn roles() -> impl Iterator<Item = Role> {
    let plain = |role: &Role| role.base_name().bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    (1..SUBQUAD_ROLE_SNAPSHOT).filter_map(Role::from_id).filter(plain)
}

fn render() -> String {
    let mut text = HEAD.to_owned();
    for role in roles() {
        let name = role.base_name();
        let meaning = INTERFACE.iter().chain(ROLE_MEANINGS).find(|(own, _)| *own == name).unwrap().1;
        let constant = name.to_uppercase();
        // rustfmt breaks a comment of more columns; what is left out is in docs/spec.
        let short = meaning.split("; ").next().unwrap();
        let meaning = if meaning.chars().count() > 100 { short } else { meaning };
        writeln!(text, "\n/// {meaning}\npub const SUBQUAD_ROLE_{constant}: u32 = {};", role.id()).unwrap();
    }
    text
}

#[test]
fn constants_are_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let rendered = render();
    if std::env::var_os("SUBQUAD_BLESS").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let hint = "bless with SUBQUAD_BLESS=1 cargo test -p subquad-capi --test roles";
    assert!(
        std::fs::read_to_string(&path).unwrap() == rendered,
        "{FILE} is not what the catalogue says: {hint}"
    );
}

#[test]
fn names_and_numbers_round_trip() {
    let name = |id| {
        let name = subquad_role_name(id);
        // SAFETY: the texts are static and end in a NUL.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_str().unwrap())
    };
    let mut snapshots = Vec::new();
    for role in (SUBQUAD_ROLE_SNAPSHOT..SUBQUAD_ROLE_GRAD).filter_map(Role::from_id) {
        let text = CString::new(role.to_string()).unwrap();
        assert_eq!(name(role.id()), text.to_str().ok());
        // SAFETY: a string that ends in a NUL.
        assert_eq!(unsafe { subquad_role_id(text.as_ptr()) }, role.id());
        assert_eq!(role.id(), role.base().id() | SUBQUAD_ROLE_SNAPSHOT);
        assert_eq!(name(role.id() | SUBQUAD_ROLE_GRAD), None);
        snapshots.push(role.to_string());
    }
    for known in ["state_snapshots", "z_snapshots", "shift_snapshots", "lse_snapshots", "count_snapshots"] {
        assert!(snapshots.iter().any(|own| own == known), "{known} is no role");
    }
    assert_eq!(name(Role::Q.id() | SUBQUAD_ROLE_SNAPSHOT), None);
    for role in (1..SUBQUAD_ROLE_SNAPSHOT).filter_map(Role::from_id) {
        assert_eq!(name(role.id()), Some(role.base_name()));
        assert_eq!(name(role.grad().id()), Some(format!("d{}", role.base_name()).as_str()));
        let text = CString::new(role.base_name()).unwrap();
        // SAFETY: a string that ends in a NUL.
        assert_eq!(unsafe { subquad_role_id(text.as_ptr()) }, role.id());
    }
    assert_eq!((name(0), name(15), name(0x7fff), name(u32::MAX)), (None, None, None, None));
    // SAFETY: strings that end in a NUL, and null.
    unsafe {
        assert_eq!(subquad_role_id(c"no_such_role".as_ptr()), 0);
        assert_eq!(subquad_role_id(c"".as_ptr()), 0);
        assert_eq!(subquad_role_id(c"\xff".as_ptr()), 0);
        assert_eq!(subquad_role_id(std::ptr::null()), 0);
    }
}
