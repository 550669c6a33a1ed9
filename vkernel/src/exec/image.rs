//! An ELF file, opened and parsed; and mapped.
#![allow(unsafe_code)]

use crate::mm::SpaceInner;
use crate::usermem::UserPtr;
use alloc::vec::Vec;
use core::ops::Range;
use pegasus_abi::fcntl::AT_FDCWD;
use pegasus_abi::mman::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_WRITE};
use pegasus_abi::{Errno, Result};
use pegasus_host::file::{self, OwnedFd};
use pegasus_host::memory;
use pegasus_loader::elf::{self, ElfError, Header, Image, MapStep};

pub struct OpenImage {
    pub file: OwnedFd,
    pub elf: Image,
}

#[derive(Debug)]
pub enum ReadError {
    Elf(ElfError),
    Io(Errno),
}

impl From<ElfError> for ReadError {
    fn from(error: ElfError) -> Self {
        ReadError::Elf(error)
    }
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> Self {
        ReadError::Io(error)
    }
}

/// Parses the headers of an open file.
pub fn read(file: OwnedFd) -> core::result::Result<OpenImage, ReadError> {
    let mut first = [0u8; elf::HEADER_LEN];
    let got = file::read_at(file.number(), &mut first, 0)?;
    let header = Header::parse(&first[..got])?;
    let mut phdrs = alloc::vec![0; header.phdrs.len as usize];
    let got = file::read_at(file.number(), &mut phdrs, header.phdrs.offset)?;
    let file_len = file::stat(file.number())?.size as u64;
    let elf = Image::parse(&header, &phdrs[..got], file_len)?;
    Ok(OpenImage { file, elf })
}

/// The absolute path of an open file, as `/proc` tells it.
pub fn path_of(file: &OwnedFd) -> Option<Vec<u8>> {
    let mut link = Vec::from(*b"/proc/self/fd/");
    link.extend(crate::procfs::decimal(file.number()));
    let link = alloc::ffi::CString::new(link).ok()?;
    let mut path = alloc::vec![0; pegasus_abi::fcntl::PATH_MAX];
    let len = file::read_link_at(AT_FDCWD, &link, &mut path).ok()?;
    path.truncate(len);
    path.starts_with(b"/").then_some(path)
}

impl OpenImage {
    /// PT_INTERP's path.
    pub fn interpreter_path(&self) -> Result<Option<Vec<u8>>> {
        let Some(range) = self.elf.interpreter else {
            return Ok(None);
        };
        let mut bytes = alloc::vec![0; range.len as usize];
        let got = file::read_at(self.file.number(), &mut bytes, range.offset)?;
        if got < bytes.len() {
            return Err(Errno::EIO);
        }
        let path = elf::interpreter_path(&bytes).map_err(|error| Errno(error.errno()))?;
        Ok(Some(path.to_vec()))
    }

    /// Addresses that the image takes with `bias`.
    pub fn range(&self, bias: u64) -> Range<usize> {
        let span = self.elf.span();
        let start = span.start.wrapping_add(bias) as usize;
        start..start + span.len as usize
    }

    /// Maps all segments.
    pub fn map(&self, space: &mut SpaceInner, bias: u64) -> Result<()> {
        let plan = self.elf.plan(bias).map_err(|error| Errno(error.errno()))?;
        for step in plan {
            self.map_step(space, &step)?;
        }
        Ok(())
    }

    fn map_step(&self, space: &mut SpaceInner, step: &MapStep) -> Result<()> {
        match *step {
            MapStep::File {
                addr,
                len,
                offset,
                prot,
            } => {
                let range = addr as usize..(addr + len) as usize;
                let flags = MAP_PRIVATE | MAP_FIXED;
                let fd = self.file.number();
                // SAFETY: the range has been found free, or belongs to this image.
                unsafe {
                    memory::mmap(
                        range.start,
                        range.len(),
                        prot as usize,
                        flags,
                        fd,
                        offset as usize,
                    )?;
                }
                let is_text = prot as usize & (PROT_EXEC | PROT_WRITE) == PROT_EXEC;
                space.note_mapped(range, is_text);
            }
            MapStep::Zero { addr, len } => {
                // Less than a page, writable, just mapped; a file that shrank meanwhile is EFAULT.
                let zeros = [0u8; pegasus_abi::mman::PAGE_LEN];
                UserPtr(addr as usize).write_bytes(&zeros[..len as usize])?;
            }
            MapStep::Anonymous { addr, len, prot } => {
                let range = addr as usize..(addr + len) as usize;
                let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
                // SAFETY: as for `File`.
                unsafe {
                    memory::mmap(
                        range.start,
                        range.len(),
                        prot as usize,
                        flags,
                        usize::MAX,
                        0,
                    )?;
                }
                space.note_mapped(range, false);
            }
        }
        Ok(())
    }
}
