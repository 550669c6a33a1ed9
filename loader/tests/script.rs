//! `#!` lines: a table, random bytes, and the running kernel as the judge.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use pegasus_loader::script::{self, LINE_LEN_MAX, Script, ScriptError};
use proptest::prelude::*;

/// Interpreter and argument, as text.
type Line<'a> = (&'a str, Option<&'a str>);

fn parse(bytes: &[u8]) -> Result<(String, Option<String>), ScriptError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    script::parse(bytes).map(
        |Script {
             interpreter,
             argument,
         }| { (text(interpreter), argument.map(text)) },
    )
}

#[test]
fn lines_as_linux_reads_them() {
    let table: [(&[u8], Result<Line, ScriptError>); 22] = [
        (b"#!/bin/sh\n", Ok(("/bin/sh", None))),
        (b"#! /bin/sh \n", Ok(("/bin/sh", None))),
        (b"#!\t/bin/sh\t-e\t\nexit\n", Ok(("/bin/sh", Some("-e")))),
        (
            b"#!/usr/bin/env  python3 -u \n",
            Ok(("/usr/bin/env", Some("python3 -u"))),
        ),
        (b"#!/bin/sh", Ok(("/bin/sh", None))),
        (b"#!/bin/sh -e", Ok(("/bin/sh", Some("-e")))),
        (b"#!/bin/sh -e  ", Ok(("/bin/sh", Some("-e  ")))),
        (b"#!/bin/sh ", Ok(("/bin/sh", Some("")))),
        (b"#!/bin/sh\0 -e\n", Ok(("/bin/sh", None))),
        (b"#!/bin/sh -e\0x\n", Ok(("/bin/sh", Some("-e")))),
        (b"#!/bin/sh\r\n", Ok(("/bin/sh\r", None))),
        (b"#!sh\n", Ok(("sh", None))),
        (b"#!/a\n#!/b\n", Ok(("/a", None))),
        (b"#!\n", Err(ScriptError::NoInterpreter)),
        (b"#! \t \n/bin/sh", Err(ScriptError::NoInterpreter)),
        (b"#!", Err(ScriptError::InterpreterEmpty)),
        (b"#!  \0/bin/sh\n", Err(ScriptError::InterpreterEmpty)),
        (b"", Err(ScriptError::NotScript)),
        (b"#", Err(ScriptError::NotScript)),
        (b" #!/bin/sh\n", Err(ScriptError::NotScript)),
        (b"\x7fELF", Err(ScriptError::NotScript)),
        (b"#!\0\n", Err(ScriptError::InterpreterEmpty)),
    ];
    for (bytes, expected) in table {
        let expected = expected.map(|(name, arg)| (name.to_owned(), arg.map(str::to_owned)));
        assert_eq!(
            parse(bytes),
            expected,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert_eq!(ScriptError::InterpreterTruncated.errno(), 8);
    assert_eq!(ScriptError::InterpreterEmpty.errno(), 13);
}

/// A first line of `len` bytes in all, `#!` included.
fn line_of(path_len: usize, blanks: usize, rest: &[u8]) -> Vec<u8> {
    let mut line = b"#!".to_vec();
    line.extend(std::iter::repeat_n(b'/', path_len));
    line.extend(std::iter::repeat_n(b' ', blanks));
    line.extend_from_slice(rest);
    line
}

#[test]
fn lines_at_the_end_of_the_buffer() {
    let path = |len: usize| "/".repeat(len);
    // A newline in the last byte of the buffer is seen, one later is not.
    assert_eq!(parse(&line_of(253, 0, b"\n")), Ok((path(253), None)));
    assert_eq!(
        parse(&line_of(254, 0, b"\n")),
        Err(ScriptError::InterpreterTruncated)
    );
    // A file that ends just there.
    assert_eq!(parse(&line_of(253, 0, b"")), Ok((path(253), None)));
    assert_eq!(
        parse(&line_of(254, 0, b"")),
        Err(ScriptError::InterpreterTruncated)
    );
    // A blank or NUL after the path shows that it is whole.
    assert_eq!(parse(&line_of(253, 0, b" x\n")), Ok((path(253), None)));
    assert_eq!(parse(&line_of(253, 0, b"\0x\n")), Ok((path(253), None)));
    // The argument is cut: the last byte of the buffer belongs to the terminator.
    assert_eq!(
        parse(&line_of(250, 1, b"abcdef\n")),
        Ok((path(250), Some("ab".into())))
    );
    assert_eq!(parse(&line_of(250, 3, b"abc\n")), Ok((path(250), None)));
    // Nothing but blanks.
    let blank = line_of(0, 300, b"");
    assert_eq!(parse(&blank), Err(ScriptError::NoInterpreter));
    assert_eq!(
        parse(&blank[..LINE_LEN_MAX - 1]),
        Err(ScriptError::NoInterpreter)
    );
    assert_eq!(
        parse(&blank[..LINE_LEN_MAX - 2]),
        Err(ScriptError::InterpreterEmpty)
    );
    assert_eq!(
        parse(&line_of(0, 253, b"x y\n")),
        Err(ScriptError::NoInterpreter)
    );
    assert_eq!(
        parse(&line_of(0, 253, b"\0y\n")),
        Err(ScriptError::NoInterpreter)
    );
}

/// A directory for this test run, removed at its end.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pegasus-script-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn program(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `execve` does with a script: its error, or the arguments its interpreter gets.
fn kernel_says(script: &std::path::Path) -> Result<String, i32> {
    loop {
        match Command::new(script).arg("last").output() {
            Ok(output) => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            // Another test thread forked while the file was open for writing.
            Err(error) if error.raw_os_error() == Some(26) => std::thread::yield_now(),
            Err(error) => return Err(error.raw_os_error().unwrap()),
        }
    }
}

#[test]
fn the_kernel_agrees() {
    let directory = Directory::new();
    let interpreter = directory.program("i", b"#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\n");
    let name = interpreter.to_str().unwrap();
    let padded = |len: usize| "/".repeat(len.saturating_sub(name.len())) + name;
    let ends: [&str; 16] = [
        "\n",
        "",
        " \n",
        " ",
        "  a b  \n",
        "  a b  ",
        "\ta\tb\t",
        "\0",
        " \0",
        " a\0b\n",
        " a \0 b\n",
        "\0\n",
        " a",
        " \t\n",
        "\t\0\n",
        "a\n",
    ];
    let mut scripts: Vec<Vec<u8>> = ends.iter().map(|e| format!("#!{name}{e}").into()).collect();
    scripts.extend(
        ends.iter()
            .map(|e| format!("#! \t{name}{e}\nmore\n").into()),
    );
    for len in 245..260 {
        let edge = ends.iter().map(|e| format!("#!{}{e}", padded(len)).into());
        scripts.extend(edge);
        let blanks = format!("#!{name}{}x y", " ".repeat(len - name.len() - 2));
        scripts.push(blanks.into());
        scripts.push(format!("#!{}{name}", " ".repeat(len)).into());
    }
    for end in ends.iter().filter(|e| !e.contains('a')) {
        scripts.push(format!("#!{end}").into());
    }
    for (index, text) in scripts.iter().enumerate() {
        let path = directory.program(&format!("s{index}"), text);
        let kernel = kernel_says(&path);
        let ours = script::parse(text);
        let shown = String::from_utf8_lossy(text);
        let expected = match ours {
            // The interpreter may not exist, if the name was one letter longer.
            Ok(script)
                if !std::path::Path::new(&*String::from_utf8_lossy(script.interpreter))
                    .exists() =>
            {
                Err(2)
            }
            Ok(script) => {
                let argument = script
                    .argument
                    .map(|a| format!("<{}>", String::from_utf8_lossy(a)));
                Ok(format!(
                    "{}<{}><last>",
                    argument.unwrap_or_default(),
                    path.display()
                ))
            }
            Err(error) => Err(error.errno()),
        };
        assert_eq!(
            kernel,
            expected,
            "{shown:?} ({} bytes): {ours:?}",
            text.len()
        );
    }
}

#[test]
fn nesting_is_what_the_kernel_allows() {
    let directory = Directory::new();
    let mut previous = "/bin/true".to_owned();
    for depth in 1..=script::NESTING_MAX + 1 {
        let path = directory.program(&format!("n{depth}"), format!("#!{previous}\n").as_bytes());
        let expected = match depth <= script::NESTING_MAX {
            true => Ok(String::new()),
            false => Err(40),
        };
        assert_eq!(kernel_says(&path), expected, "{depth}");
        previous = path.to_str().unwrap().to_owned();
    }
}

proptest! {
    #[test]
    fn random_lines_never_panic_and_stay_inside(
        text in proptest::collection::vec(prop_oneof![
            3 => Just(b' '), 1 => Just(b'\t'), 3 => Just(b'a'), 1 => Just(b'\n'), 1 => Just(0),
        ], 0..300),
    ) {
        let mut bytes = b"#!".to_vec();
        bytes.extend(text);
        if let Ok(script) = script::parse(&bytes) {
            prop_assert!(!script.interpreter.is_empty());
            prop_assert!(script.interpreter.iter().all(|b| *b == b'a'));
            let ends = |b: &u8| matches!(*b, b'\n' | 0);
            prop_assert!(!script.argument.unwrap_or_default().iter().any(ends));
        }
    }
}
