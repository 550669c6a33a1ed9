//! The `#!` line of a script, read as Linux's `binfmt_script` reads it.
//!
//! Key type: [`Script`]. The new argument vector is: interpreter, argument (if any), path of the
//! script, then the old argv without its first element (`execve(2)`, "Interpreter scripts").
//!
//! Neighbours: the process loader, which opens the interpreter, counts the nesting against
//! [`NESTING_MAX`] and reports `ELOOP`; `elf`, which gets whatever is no script.
//!
//! Never looks beyond the first [`LINE_LEN_MAX`] bytes, never opens anything.

use crate::errno::{EACCES, ENOEXEC};

/// Bytes of the file that are looked at (`BINPRM_BUF_SIZE`).
pub const LINE_LEN_MAX: usize = 256;

/// How many times in one `execve` a script may name an interpreter that is itself a script, the
/// first script included: up to this many `#!` lines are followed, one more is `ELOOP`.
/// Source: `exec_binprm` of Linux.
pub const NESTING_MAX: usize = 5;

/// A parsed `#!` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Path of the interpreter, not empty, without spaces, tabs or NUL.
    pub interpreter: &'a [u8],
    /// The rest of the line as one argument, inner spaces and tabs kept, outer ones removed. Cut
    /// off, as by Linux, if the line is longer than [`LINE_LEN_MAX`].
    pub argument: Option<&'a [u8]>,
}

/// Why a file is not a script that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptError {
    /// It does not begin with `#!`.
    NotScript,
    /// The line holds nothing but spaces and tabs.
    NoInterpreter,
    /// The path fills the buffer to its end, so it is perhaps not all there.
    InterpreterTruncated,
    /// The path is the empty string, because a NUL follows. Linux then opens the current
    /// directory, which is not a regular file.
    InterpreterEmpty,
}

impl ScriptError {
    /// Linux's error number, positive.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::InterpreterEmpty => EACCES,
            _ => ENOEXEC,
        }
    }
}

/// Parses the first line. `first_bytes` are the first [`LINE_LEN_MAX`] bytes of the file, or the
/// whole file if it is shorter; bytes beyond are ignored.
///
/// # Errors
/// See [`ScriptError`].
///
/// Source: `load_script` of Linux's `fs/binfmt_script.c`, with its corner cases: a file without a
/// newline is padded with NULs, a NUL ends the line, and blanks before *that* end are not removed,
/// so that `#!/bin/sh ` without a newline passes an empty argument.
pub fn parse(first_bytes: &[u8]) -> Result<Script<'_>, ScriptError> {
    let whole = first_bytes.get(..LINE_LEN_MAX).unwrap_or(first_bytes);
    if !whole.starts_with(b"#!") {
        return Err(ScriptError::NotScript);
    }
    let (line, end) = first_line(whole);
    let Some(name_at) = line.iter().position(|b| !is_blank(*b)) else {
        return Err(match end {
            End::Nul => ScriptError::InterpreterEmpty,
            End::Newline | End::Buffer { .. } => ScriptError::NoInterpreter,
        });
    };
    let rest = &line[name_at..];
    let name_len = rest.iter().position(|b| is_blank(*b)).unwrap_or(rest.len());
    if end == (End::Buffer { terminated: false }) && name_len == rest.len() {
        return Err(ScriptError::InterpreterTruncated);
    }
    let (interpreter, tail) = rest.split_at(name_len);
    let argument = match end {
        End::Nul if tail.is_empty() => None,
        End::Nul => Some(trim_start(tail)),
        End::Newline | End::Buffer { .. } => {
            Some(trim_end(trim_start(tail))).filter(|a| !a.is_empty())
        }
    };
    Ok(Script {
        interpreter,
        argument,
    })
}

/// What ends the first line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Newline,
    /// A NUL, or the end of the file.
    Nul,
    /// The last byte of the buffer, which Linux overwrites with a NUL. `terminated`: that byte is
    /// a blank or NUL, so the line before it is not cut in the middle of a word.
    Buffer {
        terminated: bool,
    },
}

/// The text between `#!` and the end of the line.
fn first_line(whole: &[u8]) -> (&[u8], End) {
    const LAST: usize = LINE_LEN_MAX - 1;
    let end = whole
        .iter()
        .position(|b| matches!(b, b'\n' | 0))
        .unwrap_or(whole.len());
    match whole.get(end) {
        Some(b'\n') => (&whole[2..end], End::Newline),
        _ if end < LAST => (&whole[2..end], End::Nul),
        _ => {
            let terminated = whole.get(LAST).is_none_or(|b| *b == 0 || is_blank(*b));
            (&whole[2..LAST], End::Buffer { terminated })
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|b| is_blank(**b)).count();
    &text[blanks..]
}

fn trim_end(text: &[u8]) -> &[u8] {
    let blanks = text.iter().rev().take_while(|b| is_blank(**b)).count();
    &text[..text.len() - blanks]
}
