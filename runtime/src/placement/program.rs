//! Looks at a program, inside the container, for what only the kernel can run.

use crate::sys;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const HEADER_LEN: usize = 256;
const SCRIPT_DEPTH_MAX: usize = 5;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_CLASS: usize = 4;
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE: usize = 18;
const ELF_MACHINE_X86_64: [u8; 2] = [62, 0];

/// Opens the program that `path` leads to, through scripts to their interpreter; or says why it has to
/// run as a plain kernel process.
pub fn open_loadable(path: &Path) -> Result<File, String> {
    let mut path = path.to_owned();
    for _ in 0..SCRIPT_DEPTH_MAX {
        let mut file = File::open(&path)
            .map_err(|_| format!("{} cannot be read by the container's user", path.display()))?;
        if let Some(reason) = file
            .metadata()
            .ok()
            .and_then(|status| privilege(&file, &status))
        {
            return Err(format!("{} {reason}", path.display()));
        }
        let mut header = Vec::with_capacity(HEADER_LEN);
        file.by_ref()
            .take(HEADER_LEN as u64)
            .read_to_end(&mut header)
            .map_err(|_| format!("{} cannot be read", path.display()))?;
        match (interpreter(&header), machine(&header)) {
            (Some(next), _) => path = next,
            (None, Some(reason)) => return Err(format!("{} {reason}", path.display())),
            (None, None) => return Ok(file),
        }
    }
    // The kernel gives the error for scripts that are nested too deep.
    Err("its scripts are nested too deep".to_owned())
}

fn privilege(file: &File, status: &Metadata) -> Option<&'static str> {
    const SET_USER_ID: u32 = 0o4000;
    const SET_GROUP_ID: u32 = 0o2010;
    let mode = status.permissions().mode();
    if mode & SET_USER_ID != 0 || mode & SET_GROUP_ID == SET_GROUP_ID {
        Some("changes its user or group when it runs")
    } else if sys::file::has_capabilities(file) {
        Some("has file capabilities")
    } else {
        None
    }
}

fn machine(header: &[u8]) -> Option<&'static str> {
    if !header.starts_with(ELF_MAGIC) {
        return Some("is not an ELF program");
    }
    let is_ours = header.get(ELF_CLASS) == Some(&ELF_CLASS_64)
        && header.get(ELF_MACHINE..ELF_MACHINE + 2) == Some(&ELF_MACHINE_X86_64);
    (!is_ours).then_some("is not an x86-64 program")
}

/// The interpreter that a script's first line names.
fn interpreter(header: &[u8]) -> Option<PathBuf> {
    let line = header
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = String::from_utf8_lossy(line);
    line.split_whitespace().next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_programs_may_be_tried() {
        assert!(open_loadable(Path::new("/bin/sh")).is_ok());
        assert_eq!(
            interpreter(b"#! /bin/sh -e\nexit"),
            Some(PathBuf::from("/bin/sh"))
        );
        assert_eq!(interpreter(b"#!\n"), None);
    }

    #[test]
    fn what_only_the_kernel_runs_is_named() {
        assert!(
            open_loadable(Path::new("/no/such"))
                .unwrap_err()
                .contains("cannot be read")
        );
        assert_eq!(machine(b"\x7fELF\x01"), Some("is not an x86-64 program"));
        assert_eq!(machine(b"MZ"), Some("is not an ELF program"));
        let mut header = [0; 20];
        header[..5].copy_from_slice(b"\x7fELF\x02");
        header[18] = 62;
        assert_eq!(machine(&header), None);
    }
}
