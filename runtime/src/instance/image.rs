//! The vkernel image that is embedded in this program.
//!
//! `build.rs` links it for fixed addresses; here its segments are checked and mapped there.

use crate::elf;
use crate::sys::vkernel::{self, Protection, Segment, Vkernel};
use goblin::elf::ProgramHeader;
use goblin::elf::program_header::{
    PF_W, PF_X, PT_DYNAMIC, PT_GNU_RELRO, PT_INTERP, PT_LOAD, PT_TLS,
};
use nix::errno::Errno;
use pegasus_contract::layout::{IMAGE_BASE, IMAGE_LEN_MAX};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// Built and named by `build.rs`.
static EMBEDDED: &[u8] = include_bytes!(env!("PEGASUS_IMAGE"));

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the embedded vkernel image is not a valid ELF file")]
    Parse(#[source] goblin::error::Error),
    #[error("the embedded vkernel image needs a dynamic linker or thread-local storage")]
    NotFreestanding,
    #[error("the embedded vkernel image has a segment at {0:#x}, which is not its place")]
    Misplaced(u64),
    #[error("the embedded vkernel image has a segment at {0:#x} that is writable and executable")]
    WritableCode(u64),
    #[error("the embedded vkernel image has its entry point {0:#x} outside its code")]
    Entry(u64),
    #[error("cannot map the vkernel image at its fixed address")]
    Map(#[source] Errno),
}

/// Tells builds of this program apart: both ends of a conversation about a vkernel must be of one.
pub fn version() -> String {
    let mut hasher = DefaultHasher::new();
    EMBEDDED.hash(&mut hasher);
    format!("{}+{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish())
}

/// Maps the image into this process.
pub fn map() -> Result<Vkernel, ImageError> {
    let (header, program_headers) = elf::headers(EMBEDDED).map_err(ImageError::Parse)?;
    let (segments, entry) = plan(header.e_entry, &program_headers, EMBEDDED)?;
    vkernel::load(&segments, entry).map_err(ImageError::Map)
}

fn plan<'a>(
    entry: u64,
    headers: &[ProgramHeader],
    file: &'a [u8],
) -> Result<(Vec<Segment<'a>>, usize), ImageError> {
    if headers
        .iter()
        .any(|header| matches!(header.p_type, PT_INTERP | PT_DYNAMIC | PT_TLS))
    {
        return Err(ImageError::NotFreestanding);
    }
    let constant = headers.iter().find(|header| header.p_type == PT_GNU_RELRO);
    let loads = headers.iter().filter(|header| header.p_type == PT_LOAD);
    let segments = loads
        .map(|header| segment(header, constant, file))
        .collect::<Result<Vec<_>, _>>()?;
    let entry = segments
        .iter()
        .filter(|segment| segment.protection == Protection::Code)
        .find_map(|segment| {
            let entry = usize::try_from(entry).ok()?;
            let offset = entry.checked_sub(segment.address)?;
            (offset < segment.bytes.len()).then_some(entry)
        })
        .ok_or(ImageError::Entry(entry))?;
    Ok((segments, entry))
}

/// `constant` is the part that is not written to once it is loaded.
fn segment<'a>(
    header: &ProgramHeader,
    constant: Option<&ProgramHeader>,
    file: &'a [u8],
) -> Result<Segment<'a>, ImageError> {
    let misplaced = || ImageError::Misplaced(header.p_vaddr);
    let to_index = |value: u64| usize::try_from(value).map_err(|_| misplaced());
    let address = to_index(header.p_vaddr)?;
    let memory_len = to_index(header.p_memsz)?;
    let end = address.checked_add(memory_len).ok_or_else(misplaced)?;
    const ROOM: Range<usize> = IMAGE_BASE..IMAGE_BASE + IMAGE_LEN_MAX;
    if !ROOM.contains(&address) || end > ROOM.end || header.p_filesz > header.p_memsz {
        return Err(misplaced());
    }
    let bytes = file.get(header.file_range()).ok_or_else(misplaced)?;
    let is_constant = constant.is_some_and(|constant| {
        constant.p_vaddr <= header.p_vaddr
            && constant.p_vaddr.saturating_add(constant.p_memsz)
                >= header.p_vaddr.saturating_add(header.p_memsz)
    });
    let protection = match (header.p_flags & PF_W != 0, header.p_flags & PF_X != 0) {
        (true, true) => return Err(ImageError::WritableCode(header.p_vaddr)),
        (true, false) if is_constant => Protection::ReadOnlyData,
        (true, false) => Protection::Data,
        (false, true) => Protection::Code,
        (false, false) => Protection::ReadOnlyData,
    };
    Ok(Segment {
        address,
        memory_len,
        bytes,
        protection,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_image_can_be_loaded() {
        let (header, program_headers) = elf::headers(EMBEDDED).unwrap();
        let (segments, entry) = plan(header.e_entry, &program_headers, EMBEDDED).unwrap();
        assert!(
            segments
                .iter()
                .any(|segment| segment.protection == Protection::Code)
        );
        assert!(entry >= IMAGE_BASE);
    }

    #[test]
    fn segments_outside_the_image_are_refused() {
        let file = [0; 64];
        let header = |address, file_len, memory_len, flags| ProgramHeader {
            p_type: PT_LOAD,
            p_flags: flags,
            p_vaddr: address,
            p_filesz: file_len,
            p_memsz: memory_len,
            ..ProgramHeader::new()
        };
        let base = IMAGE_BASE as u64;
        assert!(segment(&header(base, 64, 4096, 0), None, &file).is_ok());
        for (address, file_len, memory_len, flags) in [
            (0x1000, 16, 16, 0),
            (base, 65, 4096, 0),
            (base, 64, 32, 0),
            (base, 0, IMAGE_LEN_MAX as u64 + 1, 0),
            (base, 0, u64::MAX, 0),
            (base, 16, 16, PF_W | PF_X),
        ] {
            let header = header(address, file_len, memory_len, flags);
            assert!(segment(&header, None, &file).is_err(), "{header:?}");
        }
    }
}
