//! Headers of ELF files, of which only the part that is loaded need be there.

use goblin::container::Ctx;
use goblin::elf::{Elf, Header, ProgramHeader};
use goblin::error::Error;

/// The file's header and its program headers.
pub fn headers(bytes: &[u8]) -> Result<(Header, Vec<ProgramHeader>), Error> {
    let header = Elf::parse_header(bytes)?;
    let context = Ctx::new(header.container()?, header.endianness()?);
    let table = usize::try_from(header.e_phoff)
        .map_err(|_| Error::Malformed("the program headers are too far away".to_owned()))?;
    let segments = ProgramHeader::parse(bytes, table, usize::from(header.e_phnum), context)?;
    Ok((header, segments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(headers(b"").is_err());
        assert!(headers(&[0; 4096]).is_err());
        let mut far = std::fs::read("/proc/self/exe").unwrap();
        far.truncate(4096);
        assert!(headers(&far).is_ok());
        far[0x20..0x28].fill(0xff);
        assert!(headers(&far).is_err());
    }
}
