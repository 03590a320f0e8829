//! Buffers that notice when a kernel leaves them.

use super::support::Rng;

/// `len` elements with canaries on both sides, in pages of their own between two that can't be touched.
///
/// Random placement: at the very start of the pages, at their very end (an access beyond faults), or in between at some
/// element's alignment. The canaries are NaNs as floats: a value read from there shows. [`Guarded::check`] looks
/// at them.
pub struct Guarded<T> {
    map: *mut u8,
    map_len: usize,
    /// Bytes of `map` before the first element.
    start: usize,
    len: usize,
    element: std::marker::PhantomData<T>,
}

const PAGE: usize = 4096;
const CANARY: u8 = 0xff;

impl<T: Copy> Guarded<T> {
    /// A copy of `values`, somewhere.
    pub fn new(rng: &mut Rng, values: &[T]) -> Guarded<T> {
        let size = size_of::<T>();
        let bytes = size_of_val(values);
        let inner = (bytes + 512).next_multiple_of(PAGE);
        let map_len = inner + 2 * PAGE;
        let start = PAGE
            + match rng.below(4) {
                0 => 0,
                1 => inner - bytes,
                _ => 128 + size * rng.below(128 / size),
            };
        // SAFETY: a new private mapping; its first and last pages are taken away.
        let map = unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED, "mmap");
            map.cast::<u8>().add(PAGE).write_bytes(CANARY, inner);
            assert_eq!(libc::mprotect(map, PAGE, libc::PROT_NONE), 0);
            assert_eq!(libc::mprotect(map.cast::<u8>().add(PAGE + inner).cast(), PAGE, libc::PROT_NONE), 0);
            map.cast::<u8>()
        };
        let mut buffer =
            Guarded { map, map_len, start, len: values.len(), element: std::marker::PhantomData };
        buffer.copy_from_slice(values);
        buffer
    }

    /// A buffer of `len` elements of all ones bits (NaN), for results.
    pub fn unset(rng: &mut Rng, len: usize) -> Guarded<T> {
        // SAFETY: the elements of these tests are floats: any bits are a value.
        let ones = unsafe { std::mem::transmute_copy::<[u8; 8], T>(&[CANARY; 8]) };
        Guarded::new(rng, &vec![ones; len])
    }

    /// Another buffer, elsewhere, with the same elements.
    pub fn copy(&self, rng: &mut Rng) -> Guarded<T> {
        Guarded::new(rng, self)
    }

    /// Panics if anything around the elements has changed.
    #[track_caller]
    pub fn check(&self) {
        let end = self.start + self.len * size_of::<T>();
        let changed = (PAGE..self.start).chain(end..self.map_len - PAGE).find(|&i| {
            // SAFETY: inside the pages that can be read.
            unsafe { *self.map.add(i) != CANARY }
        });
        if let Some(i) = changed {
            let from = if i < self.start { "start" } else { "end" };
            let at = if i < self.start { i as isize - self.start as isize } else { (i - end) as isize };
            panic!("byte {at} from the {from} of a buffer of {} elements was overwritten", self.len);
        }
    }
}

impl<T> std::ops::Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements from `start`, aligned as `start` is a multiple of their size.
        unsafe { std::slice::from_raw_parts(self.map.add(self.start).cast(), self.len) }
    }
}

impl<T> std::ops::DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(self.start).cast(), self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}
