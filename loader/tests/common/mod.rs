//! A tiny ELF writer for the tests: makes any header and program headers, sensible or absurd.
//!
//! Neighbours: `elf_plan.rs` and `elf_faults.rs`. Never used outside tests.
#![allow(dead_code)] // each test file uses a part

pub const PT_LOAD: u32 = 1;
pub const PT_INTERP: u32 = 3;
pub const PT_PHDR: u32 = 6;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
pub const ET_EXEC: u16 = 2;
pub const ET_DYN: u16 = 3;

#[derive(Clone, Copy, Debug, Default)]
pub struct Phdr {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

impl Phdr {
    pub fn load(flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64) -> Self {
        Self {
            kind: PT_LOAD,
            flags,
            offset,
            vaddr,
            filesz,
            memsz,
            align: 0x1000,
        }
    }
}

/// The first bytes of an ELF file: header, then the program headers at offset 64.
pub fn elf_file(e_type: u16, entry: u64, phdrs: &[Phdr]) -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend(e_type.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [64, 56, phdrs.len() as u16, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    for phdr in phdrs {
        out.extend(phdr.kind.to_le_bytes());
        out.extend(phdr.flags.to_le_bytes());
        let words = [
            phdr.offset,
            phdr.vaddr,
            phdr.vaddr,
            phdr.filesz,
            phdr.memsz,
            phdr.align,
        ];
        for word in words {
            out.extend(word.to_le_bytes());
        }
    }
    out
}

/// Reads a file of the machine, or says that the test skips it.
pub fn read_or_skip(path: &str) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!("SKIPPED: {path}: {error}");
            None
        }
    }
}
