//! Program files that cannot be run: Linux's errno, whether the runtime or a process starts them.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("broken_files::truncated", truncated).limit(120),
        Case::each("broken_files::edited_headers", edited).limit(120),
        Case::each("broken_files::as_first_process", as_first_process).limit(120),
    ]
}

/// Tries to run each file of a directory, says the errno or how the child ended.
const TRY_ALL: &str = "import os, sys, errno\n\
    for name in sorted(os.listdir('/f')):\n\
    \x20   r, w = os.pipe()\n\
    \x20   pid = os.fork()\n\
    \x20   if pid == 0:\n\
    \x20       os.set_inheritable(w, False); os.dup2(os.open('/dev/null', os.O_RDWR), 1); os.dup2(1, 2)\n\
    \x20       import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n\
    \x20       try: os.execv('/f/' + name, [name])\n\
    \x20       except OSError as e: os.write(w, errno.errorcode[e.errno].encode())\n\
    \x20       os._exit(0)\n\
    \x20   os.close(w); error = os.read(r, 99).decode(); os.close(r)\n\
    \x20   status = os.waitpid(pid, 0)[1]\n\
    \x20   print(name, error or ('status', status & 0xff7f))\n";

fn try_all(context: &Context, directory: &Path) -> Result<()> {
    let mount = format!("{}:/f:ro", directory.display());
    let done = context.compare(|spec| {
        spec.options(["-v", &mount])
            .command(["python3", "-c", TRY_ALL])
    })?;
    ensure!(done.status == 0, "{}", done.describe());
    Ok(())
}

fn place(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, bytes)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// A test program's bytes, taken out of the image.
fn program(context: &Context, name: &str) -> Result<Vec<u8>> {
    let file = context.scratch()?.join("program");
    let source = format!("{}/{name}", crate::harness::site::PROGRAMS_DIR);
    let container = context.reference().command(["true"]).run_and_keep()?.0;
    context
        .docker([
            "cp",
            &format!("{}:{source}", container.name),
            &file.display().to_string(),
        ])?
        .expect(0)?;
    fs::read(file).context("reading the program")
}

fn truncated(context: &Context) -> Result<()> {
    let directory = context.scratch()?;
    for name in ["hello", "hello.static-pie", "hello.static"] {
        let whole = program(context, name)?;
        for len in [
            0, 1, 3, 4, 15, 16, 31, 32, 63, 64, 65, 100, 119, 120, 400, 1000, 4096, 4097, 8192,
            12288,
        ] {
            place(
                &directory,
                &format!("{name}-{len:06}"),
                &whole[..len.min(whole.len())],
            )?;
        }
    }
    try_all(context, &directory)
}

/// Field offsets of the ELF header.
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const E_ENTRY: usize = 24;
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const PH_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;

/// Name, offset of the field, its new bytes.
type Edit = (&'static str, usize, Vec<u8>);

fn edited(context: &Context) -> Result<()> {
    let directory = context.scratch()?;
    for name in ["hello", "hello.static-pie"] {
        let whole = program(context, name)?;
        for (what, offset, bytes) in edits(&whole)? {
            let mut copy = whole.clone();
            copy[offset..offset + bytes.len()].copy_from_slice(&bytes);
            place(&directory, &format!("{name}-{what}"), &copy)?;
        }
    }
    try_all(context, &directory)
}

fn edits(file: &[u8]) -> Result<Vec<Edit>> {
    let header = |kind: u32| {
        (0..usize::from(file[E_PHNUM]))
            .map(|i| 64 + i * PH_LEN)
            .find(|at| file[*at..at + 4] == kind.to_le_bytes())
    };
    let load = header(PT_LOAD).context("no PT_LOAD")?;
    let word = |value: u64| value.to_le_bytes().to_vec();
    let mut edits: Vec<Edit> = vec![
        ("magic", 0, b"\x7fELG".to_vec()),
        ("class-32", 4, vec![1]),
        ("big-endian", 5, vec![2]),
        ("machine-arm", E_MACHINE, vec![183, 0]),
        ("machine-386", E_MACHINE, vec![3, 0]),
        ("type-relocatable", E_TYPE, vec![1, 0]),
        ("type-core", E_TYPE, vec![4, 0]),
        ("type-none", E_TYPE, vec![0, 0]),
        ("phnum-0", E_PHNUM, vec![0, 0]),
        ("phnum-huge", E_PHNUM, vec![0xff, 0xff]),
        ("phentsize-0", E_PHENTSIZE, vec![0, 0]),
        ("phentsize-32", E_PHENTSIZE, vec![32, 0]),
        ("phoff-beyond", E_PHOFF, word(1 << 40)),
        ("phoff-negative", E_PHOFF, word(u64::MAX - 7)),
        ("entry-0", E_ENTRY, word(0)),
        ("load-filesz-above-memsz", load + 32, word(1 << 30)),
        ("load-memsz-huge", load + 40, word(1 << 62)),
        ("load-memsz-negative", load + 40, word(u64::MAX)),
        ("load-offset-unaligned", load + 8, word(1)),
        ("load-vaddr-kernel", load + 16, word(0xffff_8000_0000_0000)),
        ("load-vaddr-high", load + 16, word(0x7fff_ffff_f000)),
        ("load-align-odd", load + 48, word(4097)),
        ("load-align-huge", load + 48, word(1 << 60)),
    ];
    if let Some(interpreter) = header(PT_INTERP) {
        let path = usize::try_from(u64::from_le_bytes(
            file[interpreter + 8..interpreter + 16].try_into()?,
        ))?;
        edits.push(("interpreter-missing", path, b"/lib65/".to_vec()));
        edits.push(("interpreter-not-elf", path, b"/etc/passwd\0".to_vec()));
        edits.push(("interpreter-directory", path, b"/etc\0".to_vec()));
        edits.push(("interpreter-filesz-0", interpreter + 32, word(0)));
        edits.push(("interpreter-filesz-1", interpreter + 32, word(1)));
        edits.push(("interpreter-filesz-huge", interpreter + 32, word(1 << 20)));
        edits.push(("interpreter-unterminated", interpreter + 32, word(10)));
        edits.push(("interpreter-beyond", interpreter + 8, word(1 << 40)));
    }
    Ok(edits)
}

/// The runtime is asked to run them: the engine reports 126 or 127 as it does with runc, or the
/// program dies as it does there, and the next container runs.
fn as_first_process(context: &Context) -> Result<()> {
    let directory = context.scratch()?;
    let whole = program(context, "hello")?;
    place(&directory, "empty", b"")?;
    place(&directory, "short", &whole[..40])?;
    place(&directory, "headers-only", &whole[..1000])?;
    for wanted in [
        "machine-arm",
        "type-core",
        "phnum-0",
        "load-memsz-huge",
        "interpreter-missing",
        "interpreter-not-elf",
    ] {
        let (name, offset, bytes) = edits(&whole)?
            .into_iter()
            .find(|edit| edit.0 == wanted)
            .context("no such edit")?;
        let mut copy = whole.clone();
        copy[offset..offset + bytes.len()].copy_from_slice(&bytes);
        place(&directory, name, &copy)?;
    }
    let mount = format!("{}:/f:ro", directory.display());
    let mut names: Vec<_> = fs::read_dir(&directory)?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_>>()?;
    names.sort();
    for name in names {
        let command = format!("/f/{name}");
        let run = |runtime: &str| {
            context
                .on(runtime)
                .options(["-v", &mount])
                .command([&command])
                .run()
        };
        let (expected, found) = (run("runc")?, run(context.runtime())?);
        // runc hands a file without ELF magic or that the kernel refuses to `execve` only when the
        // container is already running, so both report through the exit status.
        ensure!(
            found.status == expected.status,
            "{name}: runc ended with {}, this with {}\n{}\n{}",
            expected.status,
            found.status,
            expected.describe(),
            found.describe()
        );
        ensure!(
            found.stdout == expected.stdout,
            "{name}: {}",
            found.describe()
        );
    }
    let done = context
        .container()
        .program("hello", ["afterwards"])
        .run()?
        .expect(0)?;
    ensure!(done.stdout.contains("afterwards"), "{}", done.describe());
    Ok(())
}
