//! ELF executables of x86-64: from header bytes to the mapping steps Linux would perform.
//!
//! Key types: [`Header`] (the first 64 bytes), [`Image`] (the program headers, checked),
//! [`MapStep`] (what to map, in order). The program headers are decoded by `goblin`, field by
//! field, so that they need no alignment. The five header fields are read here: without `std`,
//! goblin only offers to cast the header in place, which panics when it is not aligned. And
//! `goblin::Elf::parse` would read symbols, relocations and notes of the whole file, while an
//! executable is mapped, not read. What the values *mean* is decided here, after Linux's
//! `fs/binfmt_elf.c`.
//!
//! Neighbours: the caller reads three pieces of the file (64 bytes, the program header table, the
//! interpreter path) and carries out the plan.
//!
//! Never looks at section headers, symbols, relocations or notes; never chooses a load address.

use alloc::vec::Vec;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{
    EI_CLASS, EI_DATA, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_386, EM_X86_64, ET_DYN,
    ET_EXEC,
};
use goblin::elf::program_header::{
    PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD, ProgramHeader,
};

use crate::errno::{EINVAL, EIO, ELIBBAD, ENOEXEC, ENOMEM};

/// Bytes of the ELF header that [`Header::parse`] needs.
pub const HEADER_LEN: usize = 64;
/// Size of one program header, the only `e_phentsize` Linux accepts, in bytes.
pub const PHDR_LEN: usize = 56;
/// Bytes of program headers at most: Linux refuses a table larger than one page.
pub const PHDR_TABLE_LEN_MAX: usize = PAGE_LEN as usize;
/// Longest interpreter path with its NUL, in bytes (`PATH_MAX`).
pub const INTERPRETER_LEN_MAX: u64 = 4096;
/// Size of a page of x86-64, in bytes.
pub const PAGE_LEN: u64 = 4096;
/// First address above what a process may map (`TASK_SIZE` with four-level page tables).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// Pages can be read (`mmap(2)`).
pub const PROT_READ: u32 = 1;
/// Pages can be written.
pub const PROT_WRITE: u32 = 2;
/// Pages can be executed.
pub const PROT_EXEC: u32 = 4;

/// Which foreign kind of program a file is. The host kernel may well know how to run it (or have a
/// `binfmt_misc` handler for it), so the caller can hand such a file to a real `execve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A 32-bit x86 program (`EM_386`).
    I386,
    /// An x32 program: `EM_X86_64` in `ELFCLASS32`.
    X32,
    /// A program of another machine; its `e_machine`.
    Machine(u16),
    /// x86-64 by `e_machine`, but its `e_ident` claims another class or byte order. Linux ignores
    /// these two bytes.
    Ident,
}

/// Why a file cannot be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Fewer than [`HEADER_LEN`] bytes.
    TooShort,
    /// No ELF magic.
    NotElf,
    /// An ELF file, but not a 64-bit little-endian x86-64 one.
    NotX86_64(Foreign),
    /// `e_type` (the value) is neither `ET_EXEC` nor `ET_DYN`.
    NotExecutable(u16),
    /// `e_phentsize` is not 56, there are no program headers, or they fill more than a page.
    PhdrTable,
    /// The program header table is not entirely inside the file.
    PhdrsBeyondFile,
    /// `PT_INTERP` is shorter than 2 bytes or longer than [`INTERPRETER_LEN_MAX`].
    InterpreterLen,
    /// The `PT_INTERP` range is not entirely inside the file.
    InterpreterBeyondFile,
    /// The interpreter path does not end in NUL.
    InterpreterUnterminated,
    /// No `PT_LOAD` segment.
    NoSegments,
    /// A segment's `p_filesz` exceeds its `p_memsz`.
    FileLargerThanMemory,
    /// A segment's `p_offset` and `p_vaddr` differ modulo the page size.
    Misaligned,
    /// A segment does not fit into the user address space (with the bias, in [`Image::plan`]).
    AddressRange,
    /// A segment maps pages that begin beyond the end of the file. Linux maps them and lets the
    /// program die of SIGBUS when it touches one; refused here, before anything is mapped.
    SegmentBeyondFile,
    /// A bias that is not a multiple of the page size, or not 0 for a fixed-address program.
    Bias,
    /// The entry point lies outside the user address space.
    Entry,
}

impl ElfError {
    /// Linux's error number (positive) for a program with this fault. Linux finds faults from
    /// [`ElfError::NoSegments`] on after the point of no return, and kills the process
    /// instead; a caller that checks first can return this number.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::InterpreterBeyondFile => EIO,
            Self::FileLargerThanMemory | Self::Misaligned | Self::Bias | Self::Entry => EINVAL,
            Self::AddressRange => ENOMEM,
            _ => ENOEXEC,
        }
    }

    /// Linux's error number (positive) when the file with this fault is the ELF *interpreter* of
    /// a program: `ELIBBAD` for a bad file, `EIO` for one shorter than a header.
    #[must_use]
    pub fn errno_as_interpreter(self) -> i32 {
        match self {
            Self::TooShort => EIO,
            Self::NoSegments => EINVAL,
            _ => match self.errno() {
                ENOEXEC => ELIBBAD,
                other => other,
            },
        }
    }
}

/// Whether the addresses in the file are final or relative to a load bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`: loads at its own addresses, the bias is 0.
    Exec,
    /// `ET_DYN`: a PIE, a static PIE or a dynamic linker; loads at any page-aligned bias.
    Dyn,
}

/// A range of bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl FileRange {
    fn is_inside(self, file_len: u64) -> bool {
        self.offset
            .checked_add(self.len)
            .is_some_and(|end| end <= file_len)
    }
}

/// What the ELF header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Fixed or relocatable addresses.
    pub kind: Kind,
    /// `e_entry`, without bias.
    pub entry: u64,
    /// Where the program header table lies in the file: what to read for [`Image::parse`].
    pub phdrs: FileRange,
    /// Number of program headers (`AT_PHNUM`).
    pub phnum: u16,
    /// Size of one program header (`AT_PHENT`), always [`PHDR_LEN`].
    pub phentsize: u16,
}

impl Header {
    /// Decodes the start of a file. `first_bytes` may hold more than the [`HEADER_LEN`] bytes
    /// that are looked at.
    ///
    /// # Errors
    /// [`ElfError::TooShort`], [`ElfError::NotElf`], [`ElfError::NotX86_64`],
    /// [`ElfError::NotExecutable`], [`ElfError::PhdrTable`], [`ElfError::PhdrsBeyondFile`] (the
    /// table's offset cannot exist in any file).
    ///
    /// Source: ELF-64 Object File Format; `load_elf_binary` and `load_elf_phdrs` of Linux.
    pub fn parse(first_bytes: &[u8]) -> Result<Self, ElfError> {
        let bytes: &[u8; HEADER_LEN] = match first_bytes.first_chunk() {
            Some(bytes) => bytes,
            // A file shorter than four bytes is padded with NULs, and so has no magic.
            None if first_bytes.starts_with(ELFMAG) => return Err(ElfError::TooShort),
            None => return Err(ElfError::NotElf),
        };
        if !bytes.starts_with(ELFMAG) {
            return Err(ElfError::NotElf);
        }
        check_machine(bytes)?;
        let kind = match half_at(bytes, E_TYPE) {
            ET_EXEC => Kind::Exec,
            ET_DYN => Kind::Dyn,
            other => return Err(ElfError::NotExecutable(other)),
        };
        let (phentsize, phnum) = (half_at(bytes, E_PHENTSIZE), half_at(bytes, E_PHNUM));
        let table_len = usize::from(phnum) * PHDR_LEN;
        if usize::from(phentsize) != PHDR_LEN || table_len == 0 || table_len > PHDR_TABLE_LEN_MAX {
            return Err(ElfError::PhdrTable);
        }
        let phdrs = FileRange {
            offset: word_at(bytes, E_PHOFF),
            len: table_len as u64,
        };
        // File offsets are signed in Linux.
        if !phdrs.is_inside(i64::MAX as u64) {
            return Err(ElfError::PhdrsBeyondFile);
        }
        Ok(Self {
            kind,
            entry: word_at(bytes, E_ENTRY),
            phdrs,
            phnum,
            phentsize,
        })
    }
}

// Offsets of the fields in `Elf64_Ehdr`.
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const E_ENTRY: usize = 24;
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;

fn half_at(header: &[u8; HEADER_LEN], offset: usize) -> u16 {
    u16::from_le_bytes([header[offset], header[offset + 1]])
}

fn word_at(header: &[u8; HEADER_LEN], offset: usize) -> u64 {
    (0..8).fold(0, |word, index| {
        word | u64::from(header[offset + index]) << (8 * index)
    })
}

/// Tells x86-64 programs from all others, by `e_machine` first, as Linux does.
fn check_machine(header: &[u8; HEADER_LEN]) -> Result<(), ElfError> {
    let foreign = match (
        half_at(header, E_MACHINE),
        header[EI_CLASS],
        header[EI_DATA],
    ) {
        (EM_X86_64, ELFCLASS64, ELFDATA2LSB) => return Ok(()),
        (EM_X86_64, ELFCLASS32, ELFDATA2LSB) => Foreign::X32,
        (EM_386, ..) => Foreign::I386,
        (EM_X86_64, ..) => Foreign::Ident,
        (other, ..) => Foreign::Machine(other),
    };
    Err(ElfError::NotX86_64(foreign))
}

/// One `PT_LOAD` segment, with addresses before the bias is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address; need not be page-aligned.
    pub vaddr: u64,
    /// Bytes in memory, at least `filesz`.
    pub memsz: u64,
    /// Bytes that come from the file; the others are zero.
    pub filesz: u64,
    /// Where in the file, congruent to `vaddr` modulo the page size if `filesz` is not 0.
    pub offset: u64,
    /// `PROT_*` bits.
    pub prot: u32,
}

impl Segment {
    /// First address after the segment, unaligned. Cannot overflow: checked when it was made.
    fn end(&self) -> u64 {
        self.vaddr + self.memsz
    }
}

/// Addresses an image occupies before the bias is added: whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address, page-aligned.
    pub start: u64,
    /// Bytes, a multiple of the page size.
    pub len: u64,
}

/// One step of mapping an image. Steps are to be carried out in order, each replacing whatever an
/// earlier one mapped there (`MAP_FIXED`), inside a range that the caller has reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapStep {
    /// `mmap(addr, len, prot, MAP_PRIVATE|MAP_FIXED, file, offset)`; all but `prot` page-aligned.
    File {
        /// Address to map at.
        addr: u64,
        /// Bytes, whole pages; the last page may reach beyond the end of the file.
        len: u64,
        /// Offset in the file.
        offset: u64,
        /// `PROT_*` bits.
        prot: u32,
    },
    /// Write zeros; the end of the last page of the (writable) [`MapStep::File`] just mapped.
    Zero {
        /// First byte to clear.
        addr: u64,
        /// Bytes to clear, less than a page.
        len: u64,
    },
    /// `mmap(addr, len, prot, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED)`; always readable and writable,
    /// because Linux makes these pages with `vm_brk_flags`, executable if the segment is.
    Anonymous {
        /// Address to map at.
        addr: u64,
        /// Bytes, whole pages.
        len: u64,
        /// `PROT_*` bits.
        prot: u32,
    },
}

/// An executable's program headers, checked and ready to be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Fixed or relocatable addresses.
    pub kind: Kind,
    /// `e_entry`, without bias (`AT_ENTRY` is this plus the bias).
    pub entry: u64,
    /// The `PT_LOAD` segments in file order, at least one.
    pub segments: Vec<Segment>,
    /// Where the interpreter's path is in the file, with its NUL; see [`interpreter_path`].
    pub interpreter: Option<FileRange>,
    /// Address of the program headers in memory, without bias (`AT_PHDR` is this plus the bias):
    /// in the last segment that covers `e_phoff`, or 0 if there is none, both as Linux has it.
    pub phdr_vaddr: u64,
    /// Number of program headers (`AT_PHNUM`).
    pub phnum: u16,
    /// Whether `PT_GNU_STACK` asks for an executable stack; x86-64's default is no.
    pub stack_executable: bool,
    /// Alignment the load address of a [`Kind::Dyn`] image should have: the largest `p_align` of
    /// its segments that is a power of two, at least a page. In bytes.
    pub align_max: u64,
}

impl Image {
    /// Decodes and checks the program headers: `phdr_bytes` are the bytes of
    /// [`Header::phdrs`], `file_len` is the length of the file in bytes.
    ///
    /// # Errors
    /// Any [`ElfError`] from [`ElfError::PhdrsBeyondFile`] to [`ElfError::SegmentBeyondFile`].
    ///
    /// Source: `load_elf_binary` of Linux. Overlapping segments and segments out of order are
    /// accepted, as Linux accepts them: the later one replaces the earlier one.
    pub fn parse(header: &Header, phdr_bytes: &[u8], file_len: u64) -> Result<Self, ElfError> {
        if (phdr_bytes.len() as u64) < header.phdrs.len || !header.phdrs.is_inside(file_len) {
            return Err(ElfError::PhdrsBeyondFile);
        }
        let ctx = Ctx::new(Container::Big, Endian::Little);
        let phdrs = ProgramHeader::parse(phdr_bytes, 0, usize::from(header.phnum), ctx)
            .map_err(|_| ElfError::PhdrsBeyondFile)?;
        let mut image = Self {
            kind: header.kind,
            entry: header.entry,
            segments: Vec::new(),
            interpreter: None,
            phdr_vaddr: 0,
            phnum: header.phnum,
            stack_executable: false,
            align_max: PAGE_LEN,
        };
        for phdr in &phdrs {
            match phdr.p_type {
                PT_INTERP if image.interpreter.is_none() => {
                    image.interpreter = Some(interpreter_range(phdr, file_len)?);
                }
                PT_GNU_STACK => image.stack_executable = phdr.p_flags & PF_X != 0,
                PT_LOAD => image.add_segment(header, phdr, file_len)?,
                _ => {}
            }
        }
        if image.segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        Ok(image)
    }

    fn add_segment(
        &mut self,
        header: &Header,
        phdr: &ProgramHeader,
        file_len: u64,
    ) -> Result<(), ElfError> {
        let segment = Segment {
            vaddr: phdr.p_vaddr,
            memsz: phdr.p_memsz,
            filesz: phdr.p_filesz,
            offset: phdr.p_offset,
            prot: prot_of(phdr.p_flags),
        };
        check_segment(&segment, file_len)?;
        let into_segment = header.phdrs.offset.checked_sub(segment.offset);
        if let Some(distance) = into_segment.filter(|d| *d < segment.filesz) {
            self.phdr_vaddr = segment.vaddr + distance;
        }
        if phdr.p_align.is_power_of_two() && phdr.p_align <= USER_END {
            self.align_max = self.align_max.max(phdr.p_align);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// The pages from the lowest to the highest segment, without bias.
    #[must_use]
    pub fn span(&self) -> Span {
        let start = self
            .segments
            .iter()
            .map(|s| page_floor(s.vaddr))
            .min()
            .unwrap_or(0);
        let end = self
            .segments
            .iter()
            .map(|s| page_ceil(s.end()))
            .max()
            .unwrap_or(start);
        Span {
            start,
            len: end - start,
        }
    }

    /// The bias that makes the image's first page load at `base` (page-aligned). Wraps for an
    /// image that is linked above `base`; all arithmetic on biases wraps.
    #[must_use]
    pub fn bias_for(&self, base: u64) -> u64 {
        base.wrapping_sub(self.span().start)
    }

    /// What to map where when `bias` is added to every address of the file. The addresses all lie
    /// in [`Image::span`] plus `bias`.
    ///
    /// # Errors
    /// [`ElfError::Bias`], [`ElfError::AddressRange`], [`ElfError::Entry`] (only without an
    /// interpreter: with one, Linux never looks at the program's own entry point).
    ///
    /// Source: `elf_load` and `elf_map` of Linux.
    pub fn plan(&self, bias: u64) -> Result<Vec<MapStep>, ElfError> {
        if page_offset(bias) != 0 || (self.kind == Kind::Exec && bias != 0) {
            return Err(ElfError::Bias);
        }
        let span = self.span();
        let start = span.start.wrapping_add(bias);
        let end = start.checked_add(span.len);
        if end.is_none_or(|end| end > USER_END) {
            return Err(ElfError::AddressRange);
        }
        if self.interpreter.is_none() && self.entry.wrapping_add(bias) >= USER_END {
            return Err(ElfError::Entry);
        }
        let mut steps = Vec::with_capacity(self.segments.len() + 2);
        for segment in &self.segments {
            plan_segment(segment, bias, &mut steps);
        }
        Ok(steps)
    }

    /// Where the heap begins if it is to follow the image: the page-aligned end of the highest
    /// segment, plus `bias`. (Linux adds a random distance to it.)
    #[must_use]
    pub fn brk_start(&self, bias: u64) -> u64 {
        let span = self.span();
        span.start.wrapping_add(span.len).wrapping_add(bias)
    }
}

/// The interpreter's path, without its NUL, from the bytes of [`Image::interpreter`].
///
/// The path ends at the first NUL, as it does for Linux, which hands it to `open_exec` as a C
/// string. It may be empty; opening it is then the caller's error to report.
///
/// # Errors
/// [`ElfError::InterpreterLen`], [`ElfError::InterpreterUnterminated`].
pub fn interpreter_path(bytes: &[u8]) -> Result<&[u8], ElfError> {
    if !(2..=INTERPRETER_LEN_MAX).contains(&(bytes.len() as u64)) {
        return Err(ElfError::InterpreterLen);
    }
    if bytes.last() != Some(&0) {
        return Err(ElfError::InterpreterUnterminated);
    }
    Ok(bytes.split(|b| *b == 0).next().unwrap_or_default())
}

fn interpreter_range(phdr: &ProgramHeader, file_len: u64) -> Result<FileRange, ElfError> {
    let range = FileRange {
        offset: phdr.p_offset,
        len: phdr.p_filesz,
    };
    if !(2..=INTERPRETER_LEN_MAX).contains(&range.len) {
        return Err(ElfError::InterpreterLen);
    }
    if !range.is_inside(file_len) {
        return Err(ElfError::InterpreterBeyondFile);
    }
    Ok(range)
}

fn check_segment(segment: &Segment, file_len: u64) -> Result<(), ElfError> {
    if segment.filesz > segment.memsz {
        return Err(ElfError::FileLargerThanMemory);
    }
    if segment.memsz > USER_END || segment.vaddr > USER_END - segment.memsz {
        return Err(ElfError::AddressRange);
    }
    if segment.filesz == 0 {
        return Ok(());
    }
    if page_offset(segment.offset) != page_offset(segment.vaddr) {
        return Err(ElfError::Misaligned);
    }
    // The last page may be a partial one: the kernel fills it with zeros.
    let last = segment.offset.checked_add(segment.filesz - 1);
    if last.is_some_and(|last| page_floor(last) < file_len) {
        Ok(())
    } else {
        Err(ElfError::SegmentBeyondFile)
    }
}

fn plan_segment(segment: &Segment, bias: u64, steps: &mut Vec<MapStep>) {
    let vaddr = segment.vaddr.wrapping_add(bias);
    let start = page_floor(vaddr);
    let file_end = vaddr + segment.filesz;
    let mut anonymous_from = start;
    if segment.filesz > 0 {
        anonymous_from = page_ceil(file_end);
        steps.push(MapStep::File {
            addr: start,
            len: anonymous_from - start,
            offset: page_floor(segment.offset),
            prot: segment.prot,
        });
        let tail = anonymous_from - file_end;
        let zero_tail = segment.memsz > segment.filesz && segment.prot & PROT_WRITE != 0;
        if zero_tail && tail > 0 {
            steps.push(MapStep::Zero {
                addr: file_end,
                len: tail,
            });
        }
    }
    let end = page_ceil(vaddr + segment.memsz);
    if segment.memsz > segment.filesz && end > anonymous_from {
        steps.push(MapStep::Anonymous {
            addr: anonymous_from,
            len: end - anonymous_from,
            prot: PROT_READ | PROT_WRITE | (segment.prot & PROT_EXEC),
        });
    }
}

fn prot_of(p_flags: u32) -> u32 {
    let bit = |flag, prot| if p_flags & flag != 0 { prot } else { 0 };
    bit(PF_R, PROT_READ) | bit(PF_W, PROT_WRITE) | bit(PF_X, PROT_EXEC)
}

fn page_offset(addr: u64) -> u64 {
    addr & (PAGE_LEN - 1)
}

fn page_floor(addr: u64) -> u64 {
    addr & !(PAGE_LEN - 1)
}

/// Rounds up; only for addresses that are known to be at most [`USER_END`].
fn page_ceil(addr: u64) -> u64 {
    page_floor(addr + (PAGE_LEN - 1))
}
