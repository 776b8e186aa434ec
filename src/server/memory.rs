//! What was needed for a moment, given back to the system; and what stays, where it is soon found.

use std::env;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::geoip::SHIPPED;

/// Gives back what only a start or a reload needs, and has what stays found soon.
pub(super) fn tidy_up() {
    trim();
    gather();
    leave_code();
    leave_constant(SHIPPED);
}

/// Has the allocator get large pieces from the system, each by itself, and give each back as soon
/// as it is free: tables that are made anew would else leave holes of their size on the heap. It
/// does so by default up to the first that is freed.
#[cfg(target_env = "gnu")]
pub(super) fn keep_large_apart() {
    // SAFETY: it takes numbers; no other thread is told of it but by the allocator itself
    // (mallopt(3)).
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn keep_large_apart() {}

/// A large piece, in octets.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Gives back what is free on the heap. The allocator keeps the small pieces that reading a
/// configuration was done with, though nobody needs as many of them before the next one.
#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// Moves a table into large pages, as far as it fills any and the system has them: else each
/// look-up in one of many megabytes would wait for where its page is as well as for what is there.
pub(super) fn move_to_large_pages(Range { start, end }: Range<usize>) {
    let range = start.next_multiple_of(LARGE_PAGE)..end / LARGE_PAGE * LARGE_PAGE;
    if !range.is_empty() {
        let pages = std::ptr::without_provenance_mut(range.start);
        // SAFETY: what is in these pages stays as it is, for whoever reads or writes it meanwhile
        // too; only where they are in the machine's memory changes (madvise(2), MADV_COLLAPSE).
        // A kernel before 6.1 does not know it, and one without free large pages does nothing.
        unsafe { libc::madvise(pages, range.len(), libc::MADV_COLLAPSE) };
    }
}

/// A large page of most processors, in octets.
const LARGE_PAGE: usize = 2 << 20;

/// Moves the heap into large pages where it nearly fills them: answers for thousands of services
/// are spread over all of it.
fn gather() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Ok(pages) = File::open("/proc/self/pagemap") else { return };
    for Range { start, end } in maps.lines().filter_map(heap_at) {
        let starts = (start.next_multiple_of(LARGE_PAGE)..end).step_by(LARGE_PAGE);
        let whole = starts.map(|start| start..start + LARGE_PAGE).filter(|of| of.end <= end);
        whole.filter(|of| is_nearly_full(&pages, of.start)).for_each(move_to_large_pages);
    }
}

/// Whether seven in eight of the small pages in this large one were written to.
fn is_nearly_full(pages: &File, start: usize) -> bool {
    let size = rustix::param::page_size();
    let mut told = vec![0; LARGE_PAGE / size * size_of::<u64>()];
    let place = (start / size * size_of::<u64>()) as u64;
    if pages.read_exact_at(&mut told, place).is_err() {
        return false;
    }
    let told = told.as_chunks().0.iter().map(|of| u64::from_ne_bytes(*of));
    told.filter(|of| of & OWN == OWN).count() >= LARGE_PAGE / size / 8 * 7
}

/// A page is in memory, and nobody else has it: not the one of zeros either, which is in the place
/// of all that were only read (Documentation/admin-guide/mm/pagemap.rst of the kernel).
const OWN: u64 = 1 << 63 | 1 << 56;

/// Leaves the program's code to the system's file cache, of which the kernel gave this process
/// more than it ever runs: what does run comes back a page at a time, unread.
fn leave_code() {
    let Ok(program) = env::current_exe() else { return };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let code = maps.lines().filter(|line| program.to_str().is_some_and(|of| line.ends_with(of)));
    for range in code.filter_map(code_at) {
        // SAFETY: whole pages of code, mapped privately from a file; nobody can write to them.
        unsafe { leave(range) };
    }
}

/// Likewise a constant.
fn leave_constant(constant: &'static [u8]) {
    let Range { start, end } = constant.as_ptr_range();
    let range = start.addr().next_multiple_of(PAGES)..end.addr() / PAGES * PAGES;
    // SAFETY: whole pages of a constant, of which the same is true.
    unsafe { leave(range) };
}

/// Leaves pages to the file cache.
///
/// # Safety
/// They are whole, mapped privately from a file, and nobody can have written to them: the next
/// access finds what is there now (madvise(2), MADV_DONTNEED).
unsafe fn leave(Range { start, end }: Range<usize>) {
    let pages = std::ptr::without_provenance_mut(start);
    // SAFETY: the caller's.
    unsafe { libc::madvise(pages, end.saturating_sub(start), libc::MADV_DONTNEED) };
}

/// As large as pages are anywhere, in octets.
const PAGES: usize = 1 << 16;

/// Where this line of a process's maps says that there is code which cannot be written to.
fn code_at(line: &str) -> Option<Range<usize>> {
    let (range, rest) = line.split_once(' ')?;
    rest.starts_with("r-xp ").then(|| range_of(range)).flatten()
}

/// Where this line of a process's maps says that there is memory which it wrote and nobody shares.
fn heap_at(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, kind) = (words.next()?, words.next()?);
    // Its place in a file, the device, the file.
    let is_of_file = words.nth(2)? != "0";
    let is_heap = words.next().is_none_or(|name| name == "[heap]");
    (kind == "rw-p" && is_heap && !is_of_file).then(|| range_of(range)).flatten()
}

/// What `55d0a000-55d0b000` says.
fn range_of(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).ok());
    Some(start?..end?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_and_nothing_else() {
        let line = "55d0a000-55d0b000 r-xp 0012e000 fe:00 42   /usr/bin/meridian";
        assert_eq!(code_at(line), Some(0x55d0_a000..0x55d0_b000));
        for other in ["r--p", "rw-p", "rwxp", "r-xs", "---p"] {
            assert_eq!(code_at(&line.replace("r-xp", other)), None, "{other}");
        }
        assert_eq!(code_at(""), None);
    }

    #[test]
    fn the_heap_is_found_and_nothing_else() {
        let line = "55d0a000-55d0b000 rw-p 00000000 00:00 0          [heap]";
        let range = Some(0x55d0_a000..0x55d0_b000);
        assert_eq!(heap_at(line), range);
        assert_eq!(heap_at(line.trim_end_matches("[heap]")), range);
        for (from, to) in [("rw-p", "r--p"), ("rw-p", "rw-s"), (" 0 ", " 7 "), ("heap", "stack")] {
            assert_eq!(heap_at(&line.replacen(from, to, 1)), None, "{to}");
        }
        assert_eq!(heap_at(""), None);
    }

    #[test]
    fn what_is_nearly_full_is_known() {
        let (all, own) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: it makes new pages, wherever there is room; they stay to the end.
        let table = unsafe {
            let first = libc::mmap(std::ptr::null_mut(), 3 * LARGE_PAGE, all, own, -1, 0);
            assert_ne!(first, libc::MAP_FAILED);
            std::slice::from_raw_parts_mut(first.cast::<u8>(), 3 * LARGE_PAGE)
        };
        let large = table.as_ptr().addr().next_multiple_of(LARGE_PAGE);
        let is_full = || is_nearly_full(&File::open("/proc/self/pagemap").unwrap(), large);
        assert!(!is_full(), "nothing is there");
        assert_eq!(table.iter().step_by(512).map(|octet| usize::from(*octet)).sum::<usize>(), 0);
        assert!(!is_full(), "nothing was written");
        table.iter_mut().step_by(512).for_each(|octet| *octet = 7);
        assert!(is_full());
        gather();
        assert!(table.iter().step_by(512).all(|octet| *octet == 7));
    }

    #[test]
    fn what_moves_to_large_pages_stays_what_it_is() {
        let table: Vec<usize> = (0..1 << 20).collect();
        let octets = table.as_ptr_range();
        move_to_large_pages(octets.start.addr()..octets.end.addr());
        assert!(table.iter().enumerate().all(|(row, value)| row == *value));
        move_to_large_pages(4096..8192);
    }

    #[test]
    fn what_is_given_back_is_there_when_it_is_needed() {
        let resident = || {
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = maps.lines().skip_while(|line| code_at(line).is_none());
            let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = resident();
        let sum = || SHIPPED.iter().map(|octet| u64::from(*octet)).sum::<u64>();
        let sum_before = sum();
        tidy_up();
        let after = resident();
        assert!(after < before, "{before} KiB of code, and then {after}");
        assert_eq!(sum(), sum_before);
    }
}
