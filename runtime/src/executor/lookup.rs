//! Finds the program of `process.args[0]`, with the results and messages of Go's `exec.LookPath`,
//! because docker derives the exit statuses 126 and 127 from them.
//!
//! Runs inside the container: after `pivot_root`, as the container's user.

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LookupError {
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: {name:?}: stat {name}: {}", errno_text(*.errno))]
    Stat { name: String, errno: Errno },
    #[error("exec: {0:?}: permission denied")]
    NotExecutable(String),
    #[error("exec: {0:?}: cannot run executable found relative to current directory")]
    Relative(String),
}

/// The path to execute for `name`, given the container's `PATH`.
pub fn find_program(name: &str, search_path: &str) -> Result<PathBuf, LookupError> {
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(Errno::EACCES) => Err(LookupError::NotExecutable(name.to_owned())),
            Err(errno) => Err(LookupError::Stat {
                name: name.to_owned(),
                errno,
            }),
        };
    }
    if name.is_empty() {
        return Err(LookupError::NotInPath(String::new()));
    }
    for directory in search_path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        if check(&candidate).is_ok() {
            return if candidate.is_absolute() {
                Ok(candidate)
            } else {
                Err(LookupError::Relative(name.to_owned()))
            };
        }
    }
    Err(LookupError::NotInPath(name.to_owned()))
}

/// A regular, executable file, as far as the container's user can tell.
fn check(path: &Path) -> Result<(), Errno> {
    let status = stat(path)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFDIR || status.st_mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    match faccessat(None, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // The answer of a file system or policy that does not know: execve decides.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        other => other,
    }
}

/// An error as Go, and so runc and docker, spell it.
pub fn errno_text(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => "no such file or directory".to_owned(),
        Errno::EACCES => "permission denied".to_owned(),
        Errno::EPERM => "operation not permitted".to_owned(),
        Errno::ENOTDIR => "not a directory".to_owned(),
        Errno::EISDIR => "is a directory".to_owned(),
        Errno::ENOEXEC => "exec format error".to_owned(),
        Errno::ELOOP => "too many levels of symbolic links".to_owned(),
        Errno::E2BIG => "argument list too long".to_owned(),
        Errno::ETXTBSY => "text file busy".to_owned(),
        Errno::ENOSPC => "no space left on device".to_owned(),
        Errno::EBUSY => "device or resource busy".to_owned(),
        other => other.desc().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_in_order() {
        assert_eq!(
            find_program("sh", "/nowhere:/bin:/usr/bin"),
            Ok(PathBuf::from("/bin/sh"))
        );
        assert_eq!(find_program("/bin/sh", ""), Ok(PathBuf::from("/bin/sh")));
    }

    #[test]
    fn messages_are_those_that_docker_looks_for() {
        let message = |name, path| find_program(name, path).unwrap_err().to_string();
        assert_eq!(
            message("nope", "/bin"),
            "exec: \"nope\": executable file not found in $PATH"
        );
        assert_eq!(
            message("/no/such", "/bin"),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(
            message("/etc/passwd", "/bin"),
            "exec: \"/etc/passwd\": permission denied"
        );
        assert_eq!(message("/etc", "/bin"), "exec: \"/etc\": permission denied");
        assert_eq!(
            message("", "/bin"),
            "exec: \"\": executable file not found in $PATH"
        );
    }

    #[test]
    fn an_empty_path_finds_nothing() {
        assert_eq!(
            find_program("sh", ""),
            Err(LookupError::NotInPath("sh".to_owned()))
        );
    }
}
