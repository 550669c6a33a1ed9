//! Letters: bodies of messages that may be long, in a memory file whose descriptor is sent.
//!
//! The receiver copies the file once, up to a bound, and believes nothing about it.

use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Twice what Linux allows for a program's arguments and environment, since JSON may double it.
pub const LETTER_LEN_MAX: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    #[error("cannot create the memory file of a letter")]
    Create(#[source] nix::Error),
    #[error("cannot write a letter")]
    Write(#[source] io::Error),
    #[error("cannot read a letter")]
    Read(#[source] io::Error),
    #[error("a letter is not an ordinary file")]
    NotAFile,
    #[error("a letter is longer than {LETTER_LEN_MAX} bytes")]
    TooLong,
    #[error("a letter does not have the expected contents")]
    Contents(#[source] serde_json::Error),
}

/// Creates an empty letter, to be written later, perhaps by a process that may create none.
pub fn blank() -> Result<File, LetterError> {
    memfd_create(c"pegasus-letter", MemFdCreateFlag::MFD_CLOEXEC)
        .map(File::from)
        .map_err(LetterError::Create)
}

/// Writes a blank letter.
pub fn fill(letter: &File, body: &impl Serialize) -> Result<(), LetterError> {
    let bytes = serde_json::to_vec(body).map_err(LetterError::Contents)?;
    if bytes.len() as u64 > LETTER_LEN_MAX {
        return Err(LetterError::TooLong);
    }
    letter.write_all_at(&bytes, 0).map_err(LetterError::Write)
}

pub fn write(body: &impl Serialize) -> Result<File, LetterError> {
    let letter = blank()?;
    fill(&letter, body)?;
    Ok(letter)
}

pub fn read<T: DeserializeOwned>(letter: OwnedFd) -> Result<T, LetterError> {
    let file = File::from(letter);
    let metadata = file.metadata().map_err(LetterError::Read)?;
    if !metadata.is_file() {
        return Err(LetterError::NotAFile);
    }
    let len = usize::try_from(metadata.len()).map_err(|_| LetterError::TooLong)?;
    if metadata.len() > LETTER_LEN_MAX {
        return Err(LetterError::TooLong);
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)
        .map_err(LetterError::Read)?;
    serde_json::from_slice(&bytes).map_err(LetterError::Contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_arrive() {
        let letter = write(&vec!["a".to_owned(), "b\u{e9}".to_owned()]).unwrap();
        let read: Vec<String> = read(letter.into()).unwrap();
        assert_eq!(read, ["a", "b\u{e9}"]);
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(
            read::<u8>(null.into()),
            Err(LetterError::NotAFile)
        ));
        let long = blank().unwrap();
        long.set_len(LETTER_LEN_MAX + 1).unwrap();
        assert!(matches!(read::<u8>(long.into()), Err(LetterError::TooLong)));
        let zeros = blank().unwrap();
        zeros.set_len(8).unwrap();
        assert!(matches!(
            read::<u8>(zeros.into()),
            Err(LetterError::Contents(_))
        ));
        assert!(matches!(
            fill(&blank().unwrap(), &"x".repeat(LETTER_LEN_MAX as usize)),
            Err(LetterError::TooLong)
        ));
    }
}
