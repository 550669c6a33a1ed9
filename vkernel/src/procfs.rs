//! `/proc` as a process of the vkernel must see it.
//!
//! Linux answers for the kernel task: its `exe` is the runtime, its `maps` are the whole address space. For those few names
//! the vkernel answers itself; all others are Linux's.

use crate::mm::Layout;
use crate::task::{Process, header, instance_kind};
use crate::usermem::UserPtr;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use pegasus_abi::fcntl::{AT_FDCWD, MFD_CLOEXEC, O_ACCMODE, O_CLOEXEC, O_PATH, O_RDONLY};
use pegasus_abi::{Errno, Result};
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::layout::{VKERNEL_BASE, VKERNEL_END};
use pegasus_contract::record::{EXE_LEN, ProcessRecord, ProcessState};
use pegasus_host::file;

/// A name under `/proc/<pid>` that the vkernel answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Exe,
    Maps,
    Smaps,
    /// `cmdline`, `environ`, `auxv`: right as they are unless neighbours share the address space.
    Cmdline,
    Environ,
    Auxv,
}

/// What a path under `/proc` names, if it is one of those.
pub struct View {
    name: Name,
    /// `None`: the caller itself.
    pid: Option<i32>,
}

impl View {
    /// Recognises a path. `path` ends with a NUL.
    pub fn of(path: &[u8]) -> Option<View> {
        let rest = path.strip_prefix(b"/proc/")?.strip_suffix(b"\0")?;
        let mut parts = rest
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty());
        let who = parts.next()?;
        let pid = match who {
            b"self" | b"thread-self" => None,
            digits => Some(core::str::from_utf8(digits).ok()?.parse().ok()?),
        };
        let mut name = parts.next()?;
        if name == b"task" {
            parts.next()?;
            name = parts.next()?;
        }
        if parts.next().is_some() {
            return None;
        }
        let name = match name {
            b"exe" => Name::Exe,
            b"maps" => Name::Maps,
            b"smaps" => Name::Smaps,
            b"cmdline" => Name::Cmdline,
            b"environ" => Name::Environ,
            b"auxv" => Name::Auxv,
            _ => return None,
        };
        Some(View { name, pid })
    }

    pub fn is_exe(&self) -> bool {
        self.name == Name::Exe
    }

    fn is_own(&self) -> bool {
        self.pid.is_none_or(|pid| pid == Process::current().pid())
    }

    /// The path of the program that `…/exe` names; `None` for a process that Linux knows better.
    pub fn exe(&self) -> Option<Vec<u8>> {
        let own = Process::current();
        let record = match self.pid {
            None => own.record(),
            Some(pid) => find(own, pid)?,
        };
        let mut path = Vec::with_capacity(EXE_LEN);
        for word in &record.exe {
            path.extend(word.load(Ordering::Relaxed).to_le_bytes());
        }
        let len = path.iter().position(|&byte| byte == 0)?;
        path.truncate(len);
        (!path.is_empty()).then_some(path)
    }

    /// Opens the view; `None` where Linux's own file is right.
    pub fn open(&self, path: &[u8], flags: usize) -> Option<Result> {
        let reads_only = flags & O_ACCMODE == O_RDONLY && flags & O_PATH == 0;
        match self.name {
            Name::Exe => {
                let exe = alloc::ffi::CString::new(self.exe()?).ok()?;
                Some(file::open_at(AT_FDCWD, &exe, flags).and_then(|fd| keep(fd, flags)))
            }
            Name::Maps | Name::Smaps if reads_only && self.is_own() => {
                Some(self.filtered(path).and_then(|fd| keep(fd, flags)))
            }
            Name::Cmdline | Name::Environ | Name::Auxv
                if reads_only && self.is_own() && Process::current().has_neighbours() =>
            {
                Some(self.strings().and_then(|fd| keep(fd, flags)))
            }
            _ => None,
        }
    }

    /// A memory file with what the program was given: Linux's own files show one program per address space.
    fn strings(&self) -> Result<file::OwnedFd> {
        let program = Process::current().program.get();
        let (start, end) = match self.name {
            Name::Cmdline => (program.arg_start, program.arg_end),
            Name::Environ => (program.env_start, program.env_end),
            _ => (program.auxv, program.auxv + u64::from(program.auxv_size)),
        };
        let mut bytes = alloc::vec![0; end.saturating_sub(start) as usize];
        UserPtr(start as usize).read_bytes(&mut bytes)?;
        let view = file::memory_file(c"strings", MFD_CLOEXEC)?;
        file::write_all(view.number(), &bytes)?;
        file::rewind(view.number())?;
        Ok(view)
    }

    /// A memory file with the lines of the caller's `maps` or `smaps` that concern its own memory.
    fn filtered(&self, path: &[u8]) -> Result<file::OwnedFd> {
        let path = core::ffi::CStr::from_bytes_with_nul(path).map_err(|_| Errno::ENOENT)?;
        let text = read_whole(path)?;
        let view = file::memory_file(c"maps", MFD_CLOEXEC)?;
        file::write_all(view.number(), &own_lines(&text))?;
        file::rewind(view.number())?;
        Ok(view)
    }
}

/// Gives a descriptor away with the close-on-exec flag that was asked for.
fn keep(fd: file::OwnedFd, flags: usize) -> Result {
    if flags & O_CLOEXEC == 0 {
        file::duplicate_to(fd.number(), fd.number())?;
    }
    Ok(fd.into_number())
}

fn find(seeker: &Process, pid: i32) -> Option<&'static ProcessRecord> {
    header().processes.iter().find(|record| {
        let state = record.state.load(Ordering::Relaxed);
        (state == ProcessState::Resident as u32 || state == ProcessState::Satellite as u32)
            && record.container.load(Ordering::Relaxed) == seeker.container
            && record.namespace.load(Ordering::Relaxed) == seeker.namespace()
            && record.pid.load(Ordering::Relaxed) == pid
    })
}

fn read_whole(path: &core::ffi::CStr) -> Result<Vec<u8>> {
    let source = file::open(path, O_RDONLY)?;
    let mut text = Vec::new();
    let mut chunk = alloc::vec![0; 16 << 10];
    loop {
        let got = file::read(source.number(), &mut chunk)?;
        if got == 0 {
            return Ok(text);
        }
        text.extend_from_slice(&chunk[..got]);
    }
}

/// The addresses of the vdso and its data, from a real `/proc`.
pub fn vdso_range() -> Option<Range<usize>> {
    let text = read_whole(c"/proc/self/maps").ok()?;
    let mut found: Option<Range<usize>> = None;
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii_end();
        let is_vdso = [&b"[vvar]"[..], b"[vvar_vclock]", b"[vdso]"]
            .iter()
            .any(|name| line.ends_with(name));
        if let (true, Some(range)) = (is_vdso, range_of(line)) {
            let whole = found.unwrap_or(range.clone());
            found = Some(whole.start.min(range.start)..whole.end.max(range.end));
        }
    }
    found
}

/// The lines about mappings of the caller's own. A line that does not begin with a range (the details of
/// smaps) goes with the one before.
fn own_lines(text: &[u8]) -> Vec<u8> {
    let (brk, stack_at) = {
        let space = Process::current().space.lock();
        (
            space.brk_start..space.brk,
            Process::current().program.get().start_stack as usize,
        )
    };
    let mut kept = Vec::with_capacity(text.len());
    let mut keeping = false;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let range = range_of(line);
        if let Some(range) = &range {
            keeping = is_own(range) || is_kernels(line);
        }
        if keeping {
            let label = range.filter(|_| is_unnamed(line)).and_then(|range| {
                let heap = range.start < brk.end && brk.start < range.end;
                if heap {
                    Some("[heap]")
                } else {
                    range.contains(&stack_at).then_some("[stack]")
                }
            });
            push_line(&mut kept, line, label);
        }
    }
    kept
}

/// Length of a line of `maps` up to where a name begins.
const NAME_COLUMN: usize = 73;

fn is_unnamed(line: &[u8]) -> bool {
    !line.iter().any(|&byte| byte == b'/' || byte == b'[')
}

fn push_line(kept: &mut Vec<u8>, line: &[u8], label: Option<&str>) {
    let Some(label) = label else {
        return kept.extend_from_slice(line);
    };
    let start = kept.len();
    kept.extend_from_slice(line.trim_ascii_end());
    kept.resize(start + NAME_COLUMN.max(kept.len() - start + 1), b' ');
    kept.extend_from_slice(label.as_bytes());
    kept.push(b'\n');
}

fn is_own(range: &Range<usize>) -> bool {
    if range.start < VKERNEL_END && range.end > VKERNEL_BASE {
        return false;
    }
    match instance_kind() {
        InstanceKind::Own => true,
        InstanceKind::Shared => {
            let space = Process::current().space.lock();
            space.layout() == Layout::Whole || space.allows(range)
        }
    }
}

/// The kernel's own mappings, which every process has: `[vdso]`, `[vvar]`, `[vsyscall]`.
fn is_kernels(line: &[u8]) -> bool {
    line.trim_ascii_end().ends_with(b"]")
        && line
            .split(|&byte| byte == b'[')
            .next_back()
            .is_some_and(|name| name.starts_with(b"v"))
}

/// The address range at the start of a line of `maps`.
fn range_of(line: &[u8]) -> Option<Range<usize>> {
    let text = core::str::from_utf8(line.split(|&byte| byte == b' ').next()?).ok()?;
    let (start, end) = text.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// `number` in decimal.
pub fn decimal(number: usize) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = number;
    loop {
        digits.insert(0, b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            return digits;
        }
    }
}

/// Magic number of procfs in statfs(2).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// All open descriptors of the caller.
pub fn open_descriptors() -> Vec<usize> {
    from_proc().unwrap_or_else(|_| by_asking())
}

fn from_proc() -> Result<Vec<usize>> {
    let directory = file::open(c"/proc/self/fd", O_RDONLY)?;
    if file::stat_file_system(directory.number())?.kind != PROC_SUPER_MAGIC {
        return Err(Errno::ENOENT);
    }
    let mut found = Vec::new();
    let mut buffer = alloc::vec![0; 4096];
    loop {
        let got = file::read_directory(directory.number(), &mut buffer)?;
        if got == 0 {
            found.retain(|&fd| fd != directory.number());
            return Ok(found);
        }
        let mut rest = &buffer[..got];
        // struct linux_dirent64: inode 8, offset 8, length 2, type 1, name.
        while let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            low,
            high,
            _,
            name @ ..,
        ] = rest
        {
            let digits = name.split(|&byte| byte == 0).next().unwrap_or(b"");
            if let Some(fd) = core::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok())
            {
                found.push(fd);
            }
            rest = rest
                .get(usize::from(u16::from_le_bytes([*low, *high]))..)
                .unwrap_or(&[]);
        }
    }
}

/// Without `/proc`: each number up to the limit.
fn by_asking() -> Vec<usize> {
    const RLIMIT_NOFILE: usize = 7;
    let limit = pegasus_host::process::limit(0, RLIMIT_NOFILE).map_or(1024, |limit| limit.hard);
    let limit = (limit as usize).min(1 << 20);
    (0..limit)
        .filter(|&fd| file::descriptor_flags(fd).is_ok())
        .collect()
}
