//! Opening and checking what is to be run, before anything is given up for it.

use crate::exec::Strings;
use crate::exec::credentials;
use crate::exec::image::{self, OpenImage};
use crate::limits::INTERPRETERS_MAX;
use alloc::ffi::CString;
use alloc::vec::Vec;
use pegasus_abi::Errno;
use pegasus_abi::fcntl::{
    AT_EACCESS, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, S_IFMT,
    S_IFREG, ST_NOEXEC, X_OK,
};
use pegasus_host::file::{self, OwnedFd};
use pegasus_host::process::Capabilities;
use pegasus_loader::elf::{ElfError, Kind};
use pegasus_loader::script;

/// A program that can be loaded without further failure that its caller should hear of.
pub struct Prepared {
    pub main: OpenImage,
    /// The ELF interpreter (ld.so).
    pub interpreter: Option<OpenImage>,
    pub strings: Strings,
    /// AT_EXECFN: the path as it was given.
    pub exec_name: Vec<u8>,
    /// What `/proc/self/exe` names.
    pub exe_path: Vec<u8>,
    /// Capabilities after the change of program.
    pub capabilities: Capabilities,
}

/// Why a program was not prepared.
#[derive(Debug)]
pub enum Unprepared {
    /// The caller is told this.
    Errno(Errno),
    /// Linux has to run it itself, for this reason.
    NeedsNative(&'static str),
}

impl From<Errno> for Unprepared {
    fn from(errno: Errno) -> Self {
        Unprepared::Errno(errno)
    }
}

/// Follows `#!` lines to an ELF file, opens it and its interpreter, and checks both. `path` is opened relative to `dir`.
pub fn prepare(
    dir: usize,
    path: &[u8],
    no_follow: bool,
    strings: Strings,
) -> core::result::Result<Prepared, Unprepared> {
    let mut strings = strings;
    let mut current = path.to_vec();
    let mut from = dir;
    let mut opened = open_program(from, &current, no_follow)?;
    let mut scripts = 0;
    loop {
        let mut first = [0u8; script::LINE_LEN_MAX];
        let len = file::read_at(opened.number(), &mut first, 0)?;
        let script = match script::parse(&first[..len]) {
            Ok(script) => script,
            Err(script::ScriptError::NotScript) => break,
            Err(error) => return Err(Errno(error.errno()).into()),
        };
        scripts += 1;
        if scripts > INTERPRETERS_MAX {
            return Err(Errno::ELOOP.into());
        }
        if from != AT_FDCWD && !current.starts_with(b"/") {
            // The interpreter would be told a `/dev/fd/N/…` name: Linux knows whether that can work.
            return Err(Unprepared::NeedsNative(
                "a script relative to a directory descriptor",
            ));
        }
        let mut argv: Vec<Vec<u8>> = alloc::vec![script.interpreter.to_vec()];
        argv.extend(script.argument.map(<[u8]>::to_vec));
        argv.push(current);
        argv.extend(strings.argv.into_iter().skip(1));
        strings.argv = argv;
        current = script.interpreter.to_vec();
        from = AT_FDCWD;
        opened = open_program(from, &current, false)?;
    }
    if credentials::changes_on_exec(opened.number())? {
        return Err(Unprepared::NeedsNative(
            "set-user-id, set-group-id or file capabilities",
        ));
    }
    if credentials::regains_on_exec() {
        return Err(Unprepared::NeedsNative(
            "it regains capabilities of the bounding set",
        ));
    }
    if credentials::differ_from_effective() {
        return Err(Unprepared::NeedsNative(
            "its saved or real ids differ from the effective ones",
        ));
    }
    let capabilities = credentials::after_exec()?;
    let main = image::read(opened).map_err(|error| unprepared(error, ElfError::errno))?;
    let interpreter = open_interpreter(&main)?;
    let exe_path = image::path_of(&main.file).unwrap_or_else(|| current.clone());
    Ok(Prepared {
        main,
        interpreter,
        strings,
        exec_name: path.to_vec(),
        exe_path,
        capabilities,
    })
}

/// Opens an executable file. ENOENT, EACCES … as execve(2).
fn open_program(
    dir: usize,
    path: &[u8],
    no_follow: bool,
) -> core::result::Result<OwnedFd, Unprepared> {
    let path = CString::new(path).map_err(|_| Errno::ENOENT)?;
    let (open_flags, access_flags) = if no_follow {
        (O_NOFOLLOW, AT_SYMLINK_NOFOLLOW)
    } else {
        (0, 0)
    };
    // execve(2) opens nothing but regular files: a pipe without a writer must not stop this, nor a terminal be taken.
    let open_flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | open_flags;
    let fd = match file::open_at(dir, &path, open_flags) {
        Err(Errno::EACCES)
            if file::check_access_at(dir, &path, X_OK, AT_EACCESS | access_flags).is_ok() =>
        {
            // O_PATH would do without read permission, but then nothing could be mapped.
            return Err(Unprepared::NeedsNative("a program that may not be read"));
        }
        // Linux needs no number to run a program.
        Err(Errno::EMFILE) => return Err(Unprepared::NeedsNative("no descriptor is free")),
        opened => opened?,
    };
    let stat = file::stat(fd.number())?;
    if stat.mode & S_IFMT != S_IFREG {
        return Err(Errno::EACCES.into());
    }
    file::check_access(fd.number(), X_OK, AT_EACCESS)?;
    if file::stat_file_system(fd.number())?.flags & ST_NOEXEC != 0 {
        return Err(Errno::EACCES.into());
    }
    Ok(fd)
}

fn unprepared(error: image::ReadError, errno: fn(ElfError) -> i32) -> Unprepared {
    match error {
        image::ReadError::Elf(ElfError::NotX86_64(_)) => {
            Unprepared::NeedsNative("not an x86-64 program")
        }
        image::ReadError::Elf(error) => Errno(errno(error)).into(),
        image::ReadError::Io(error) => error.into(),
    }
}

fn open_interpreter(main: &OpenImage) -> core::result::Result<Option<OpenImage>, Unprepared> {
    let Some(path) = main.interpreter_path()? else {
        return Ok(None);
    };
    let file = open_program(AT_FDCWD, &path, false)?;
    let image =
        image::read(file).map_err(|error| unprepared(error, ElfError::errno_as_interpreter))?;
    if image.elf.kind != Kind::Dyn {
        return Err(Unprepared::NeedsNative(
            "an interpreter with fixed addresses",
        ));
    }
    Ok(Some(image))
}
