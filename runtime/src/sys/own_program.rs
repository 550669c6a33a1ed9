//! Separating this process from the file of its program.
//!
//! In an own instance this process becomes the container's, but `/proc/<pid>/exe` would still name the
//! runtime. The kernel lets a process name another file once nothing of the old one is mapped.

use super::memory::PAGE_LEN;
use nix::errno::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

#[derive(Debug, thiserror::Error)]
pub enum OwnProgramError {
    #[error("cannot read {path}")]
    Read {
        path: &'static str,
        source: io::Error,
    },
    #[error("{0} is not as expected")]
    Format(&'static str),
    #[error("cannot replace a mapping of this program")]
    Replace(#[source] Errno),
    #[error("cannot name another program")]
    Name(#[source] Errno),
}

const MAPS: &str = "/proc/self/maps";
const STAT: &str = "/proc/self/stat";

/// One mapping of the program's file.
struct Mapping {
    start: usize,
    len: usize,
    access: libc::c_int,
}

/// Makes `program` the file that `/proc/<pid>/exe` names. Needs CAP_SYS_ADMIN or, since Linux 5.9,
/// CAP_CHECKPOINT_RESTORE in the process' user namespace.
pub fn rename_to(program: &File) -> Result<(), OwnProgramError> {
    let maps =
        fs::read_to_string(MAPS).map_err(|source| OwnProgramError::Read { path: MAPS, source })?;
    let mappings = own_mappings(&maps)?;
    for mapping in &mappings {
        copy_in_place(mapping).map_err(OwnProgramError::Replace)?;
    }
    name(program)
}

/// The mappings of the file from which the code of this function was mapped.
fn own_mappings(maps: &str) -> Result<Vec<Mapping>, OwnProgramError> {
    let here = rename_to as fn(&File) -> Result<(), OwnProgramError> as usize;
    let lines: Vec<Line<'_>> = maps
        .lines()
        .map(|line| Line::parse(line).ok_or(OwnProgramError::Format(MAPS)))
        .collect::<Result<_, _>>()?;
    let own = lines
        .iter()
        .find(|line| line.start <= here && here < line.end)
        .ok_or(OwnProgramError::Format(MAPS))?;
    let same_file = lines.iter().filter(|line| line.file == own.file);
    Ok(same_file
        .map(|line| Mapping {
            start: line.start,
            len: line.end - line.start,
            access: line.access,
        })
        .collect())
}

struct Line<'a> {
    start: usize,
    end: usize,
    access: libc::c_int,
    /// Device and inode.
    file: (&'a str, &'a str),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let letters = fields.next()?;
        let file = (fields.nth(1)?, fields.next()?);
        let has = |letter, access| if letters.contains(letter) { access } else { 0 };
        Some(Line {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            access: has('r', libc::PROT_READ)
                | has('w', libc::PROT_WRITE)
                | has('x', libc::PROT_EXEC),
            file,
        })
    }
}

/// Replaces a mapping by anonymous memory with the same contents. The code that does it may lie in
/// the mapping itself: it is replaced in one step, by equal code. Between copying and replacing nothing
/// but the stack is written to, so a writable mapping does not lose anything.
fn copy_in_place(mapping: &Mapping) -> Result<(), Errno> {
    debug_assert!(mapping.start.is_multiple_of(PAGE_LEN));
    let Mapping { start, len, access } = *mapping;
    // SAFETY: a new mapping at an address of the kernel's choice; then a copy of `len` readable bytes
    // into it; then the same bytes with the same access in the place of the old mapping, so that every
    // pointer into it stays valid. A mapping without read access is not copied (there is none).
    unsafe {
        if access & libc::PROT_READ == 0 {
            return Err(Errno::EACCES);
        }
        let copy = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if copy == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        std::ptr::copy_nonoverlapping(start as *const u8, copy.cast::<u8>(), len);
        let placed = if libc::mprotect(copy, len, access) == 0 {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(copy, len, len, flags, start as *mut libc::c_void)
        } else {
            libc::MAP_FAILED
        };
        if placed == libc::MAP_FAILED {
            let errno = Errno::last();
            libc::munmap(copy, len);
            return Err(errno);
        }
    }
    Ok(())
}

/// `struct prctl_mm_map`.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: *const u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Gives the kernel the values that it has, with another program file.
fn name(program: &File) -> Result<(), OwnProgramError> {
    const PR_SET_MM: libc::c_int = 35;
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    let stat =
        fs::read_to_string(STAT).map_err(|source| OwnProgramError::Read { path: STAT, source })?;
    let fields = stat_fields(&stat).ok_or(OwnProgramError::Format(STAT))?;
    // SAFETY: an increment of 0 only asks for the end of the heap.
    let brk = unsafe { libc::sbrk(0) } as u64;
    // Numbers of fields as in proc(5); the first one here is the third there.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let map = MemoryMap {
        start_code: field(26),
        end_code: field(27),
        start_stack: field(28),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk,
        arg_start: field(48),
        arg_end: field(49),
        env_start: field(50),
        env_end: field(51),
        auxv: std::ptr::null(),
        auxv_size: 0,
        exe_fd: program.as_raw_fd().cast_unsigned(),
    };
    // SAFETY: the kernel reads one structure of the given size.
    let done = unsafe {
        libc::prctl(
            PR_SET_MM,
            PR_SET_MM_MAP,
            &raw const map,
            size_of::<MemoryMap>(),
            0_usize,
        )
    };
    Errno::result(done).map(drop).map_err(OwnProgramError::Name)
}

/// The numbers after the name; the state, a letter, counts as 0.
fn stat_fields(stat: &str) -> Option<Vec<u64>> {
    let (_, after_name) = stat.trim_end().rsplit_once(") ")?;
    Some(
        after_name
            .split(' ')
            .map(|field| field.parse().unwrap_or(0))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mappings_are_found() {
        let maps = fs::read_to_string(MAPS).unwrap();
        let mappings = own_mappings(&maps).unwrap();
        assert!(
            mappings
                .iter()
                .any(|mapping| mapping.access & libc::PROT_EXEC != 0)
        );
        assert!(
            mappings
                .iter()
                .any(|mapping| mapping.access & libc::PROT_EXEC == 0)
        );
    }

    #[test]
    fn lines_are_parsed() {
        let line = Line::parse("7f00-8f00 r-xp 00001000 fe:01 42  /bin/x y").unwrap();
        assert_eq!((line.start, line.end), (0x7f00, 0x8f00));
        assert_eq!(line.access, libc::PROT_READ | libc::PROT_EXEC);
        assert_eq!(line.file, ("fe:01", "42"));
        assert!(Line::parse("garbage").is_none());
        assert_eq!(stat_fields("1 (a) b) S 2 3\n"), Some(vec![0, 2, 3]));
    }
}
