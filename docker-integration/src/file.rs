//! Reading and replacing `daemon.json` on disk.
//!
//! A reader of the file sees the old text or the new one, never a part: the new text goes to a
//! temporary file beside it, with the old one's mode and owner, and is renamed into place.

use crate::InstallError;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

const MODE_DEFAULT: u32 = 0o644;

/// The file behind `path`. A configuration kept elsewhere and linked into place stays a link.
pub fn resolve(path: &Path) -> Result<PathBuf, InstallError> {
    let read = |source| InstallError::Read {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        Err(fault) => Err(read(fault)),
        Ok(metadata) if metadata.is_symlink() => match fs::canonicalize(path) {
            Err(fault) if fault.kind() == ErrorKind::NotFound => Err(InstallError::DanglingLink {
                path: path.to_owned(),
            }),
            other => other.map_err(read),
        },
        Ok(_) => Ok(path.to_owned()),
    }
}

/// The text of the file, or `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<String>, InstallError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InstallError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Copies the owner's file aside the first time; later calls keep that first copy.
pub fn back_up(path: &Path) -> Result<Option<PathBuf>, InstallError> {
    let backup = beside(path, ".pegasus-backup");
    if !path.exists() || backup.exists() {
        return Ok(None);
    }
    fs::copy(path, &backup).map_err(|source| InstallError::Write {
        path: backup.clone(),
        source,
    })?;
    Ok(Some(backup))
}

/// Replaces the file's contents.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), InstallError> {
    let temporary = beside(path, &format!(".pegasus-{}", std::process::id()));
    replace(path, &temporary, contents).map_err(|source| {
        // What is left of a failed attempt is of no use to anybody.
        let _ = fs::remove_file(&temporary);
        InstallError::Write {
            path: path.to_owned(),
            source,
        }
    })
}

fn replace(path: &Path, temporary: &Path, contents: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    match fs::metadata(path) {
        Ok(metadata) => {
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
            file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
        Err(_) => file.set_permissions(Permissions::from_mode(MODE_DEFAULT))?,
    }
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(parent)?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
