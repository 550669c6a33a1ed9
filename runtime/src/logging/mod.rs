//! The runtime's log, in runc's formats.
//!
//! containerd's shim passes `--log FILE --log-format json` and shows the user the message of the
//! last line whose level is `error`; so a command that fails ends with exactly one such line
//! ([`fatal`]). What the container library logs on the way down is kept apart: it appears only with
//! `--debug`, but its errors are remembered across the library's clones ([`library_errors`]), because
//! the error values it returns often lose their cause.

pub mod library_errors;
mod line;
mod subscriber;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

pub use line::Format;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the log file {path:?} given with --log")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot create the memory file that carries errors between processes")]
    LibraryErrors(#[source] nix::Error),
    #[error("unknown --log-format {0:?}: use \"text\" or \"json\"")]
    Format(String),
}

/// Where and how to log.
#[derive(Debug, Clone)]
pub struct Log {
    pub file: Option<PathBuf>,
    pub format: Format,
    pub debug: bool,
}

impl Log {
    /// Installs the process-wide log. Call once, before the first event.
    pub fn install(&self) -> Result<(), LogError> {
        library_errors::install().map_err(LogError::LibraryErrors)?;
        let file = self.file.as_deref().map(open).transpose()?;
        subscriber::install(file, self.format, self.debug);
        Ok(())
    }

    /// Reports the error that ends the program: in the log file, if there is one, and on stderr.
    pub fn fatal(&self, message: &str) {
        if let Some(path) = &self.file
            && let Ok(mut file) = open(path)
        {
            // Nothing is left to do when even this fails: stderr still gets the message.
            let _ = file.write_all(self.format.line("error", message, &[]).as_bytes());
        }
        eprintln!("pegasus: {message}");
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|source| LogError::Open {
            path: path.to_owned(),
            source,
        })
}
