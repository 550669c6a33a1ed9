//! Ways out of a container that lead through the runtime: its program file, descriptors, libraries.

use crate::harness::case::Case;
use crate::harness::context::Context;
use crate::harness::host;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("escapes::program_file_of_the_runtime", program_file),
        Case::each("escapes::program_file_during_exec", during_exec).limit(120),
        Case::each("escapes::descriptors_of_the_runtime", descriptors),
        Case::each("escapes::poisoned_libraries", poisoned),
        Case::each("escapes::environment_of_the_runtime", environment),
        Case::each("escapes::paths_of_the_host", host_paths),
    ]
}

/// Size, time and contents of the runtime's program, where there is one to look at.
fn runtime_state(context: &Context) -> Result<Option<(u64, i64, Vec<u8>)>> {
    let Some(path) = &context.site().pegasus else {
        return Ok(None);
    };
    let metadata = fs::metadata(path)?;
    Ok(Some((metadata.size(), metadata.mtime(), fs::read(path)?)))
}

/// A container may write to its own program, where Linux lets it; never to the runtime's.
fn program_file(context: &Context) -> Result<()> {
    let before = runtime_state(context)?;
    let strong: &[&str] = if context.grants_privileged()? {
        &["--privileged"]
    } else {
        &["--cap-add", "SYS_ADMIN"]
    };
    for options in [&[][..], strong] {
        let done = context
            .container()
            .options(options)
            .program("overwrite_runtime", [""; 0])
            .run()?;
        // The heap of an own instance is its container's own memory; that CAP_SYS_ADMIN finds another
        // way to it is no escape. The runtime's program and files of the host are.
        let foreign = done
            .stdout
            .lines()
            .find(|line| line.starts_with("wrote") && !line.contains("memfd:pegasus-heap"));
        ensure!(done.status == 0 && foreign.is_none(), "{}", done.describe());
    }
    ensure!(
        runtime_state(context)? == before,
        "the runtime's program has changed"
    );
    Ok(())
}

/// As the original attack: the container waits for the runtime to come in by `docker exec` of a
/// program whose interpreter is `/proc/self/exe`.
fn during_exec(context: &Context) -> Result<()> {
    let before = runtime_state(context)?;
    let watch = "import os, time\n\
        end = time.time() + 20; wrote = set()\n\
        print('watching', flush=True)\n\
        while time.time() < end and not os.path.exists('/tmp/stop'):\n\
        \x20   for pid in [p for p in os.listdir('/proc') if p.isdigit() and p != '1']:\n\
        \x20       try:\n\
        \x20           fd = os.open(f'/proc/{pid}/exe', os.O_RDONLY); target = os.readlink(f'/proc/self/fd/{fd}')\n\
        \x20           try:\n\
        \x20               again = os.open(f'/proc/self/fd/{fd}', os.O_WRONLY)\n\
        \x20               if 'pegasus' in target or 'runc' in target: os.write(again, b'#'); wrote.add(target)\n\
        \x20           finally: os.close(fd)\n\
        \x20       except OSError: pass\n\
        print('wrote to', sorted(wrote), flush=True)\n";
    let container = context
        .container()
        .command(["python3", "-c", watch])
        .start()?;
    container.wait_for_log("watching")?;
    container.ask([
        "sh",
        "-c",
        "printf '#!/proc/self/exe\\n' > /tmp/trap; chmod +x /tmp/trap",
    ])?;
    for _ in 0..5 {
        container.exec(["/tmp/trap"])?;
        container.exec(["/proc/self/exe", "--version"])?;
    }
    container.ask(["touch", "/tmp/stop"])?;
    container.wait()?;
    let logs = container.logs()?;
    ensure!(logs.contains("wrote to []\n"), "{logs}");
    ensure!(
        runtime_state(context)? == before,
        "the runtime's program has changed"
    );
    Ok(())
}

fn descriptors(context: &Context) -> Result<()> {
    context
        .container()
        .command([
            "python3",
            "-c",
            "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))",
        ])
        .output()
        .and_then(|listed| {
            ensure!(listed == "[0, 1, 2, 3]", "{listed}");
            Ok(())
        })?;
    let container = context.container().command(["sleep", "300"]).start()?;
    let listed = container.ask(["ls", "/proc/self/fd"])?;
    ensure!(listed == "0\n1\n2\n3", "exec: {listed}");
    ensure!(container.ask(["ls", "/proc/1/fd"])? == "0\n1\n2");
    // The same from the host. Of a fused container the engine knows the anchor, which the container does not see.
    let pid = container.pid()?;
    if !host::status(pid)?["NSpid"].ends_with("\t1") {
        return Ok(());
    }
    let outside = fs::read_dir(format!("/proc/{pid}/fd"))?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    ensure!(outside.len() == 3, "seen from the host: {outside:?}");
    Ok(())
}

const POISON: &str = "#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n\
    __attribute__((constructor)) static void loaded(void) {\n\
    char exe[512] = {0}; readlink(\"/proc/self/exe\", exe, 511);\n\
    int fd = open(\"/p/proof/loaded\", O_WRONLY | O_CREAT | O_APPEND, 0666); dprintf(fd, \"%s\\n\", exe); close(fd); }\n";

/// Makes a library that tells who loaded it, and files that have it loaded; returns the mounts.
fn make_poison(context: &Context, directory: &Path) -> Result<[String; 4]> {
    let proof = directory.join("proof");
    fs::create_dir(&proof)?;
    fs::set_permissions(&proof, fs::Permissions::from_mode(0o777))?;
    fs::write(directory.join("ld.so.preload"), "/p/poison.so\n")?;
    fs::write(
        directory.join("nsswitch.conf"),
        "passwd: poison files\ngroup: poison files\nhosts: poison\n",
    )?;
    let (source, library) = (directory.join("poison.c"), directory.join("poison.so"));
    fs::write(&source, POISON)?;
    let (from, to) = (source.display().to_string(), library.display().to_string());
    context
        .host("gcc", &["-shared", "-fPIC", "-w", "-o", &to, &from])?
        .expect(0)?;
    let at = |path: &Path, inside: &str| format!("{}:{inside}", path.display());
    Ok([
        at(directory, "/p"),
        at(&directory.join("ld.so.preload"), "/etc/ld.so.preload"),
        at(&directory.join("nsswitch.conf"), "/etc/nsswitch.conf"),
        at(&library, "/lib/x86_64-linux-gnu/libnss_poison.so.2"),
    ])
}

/// A root file system in which everything a dynamic program would load is poisoned.
fn poisoned(context: &Context) -> Result<()> {
    let directory = context.scratch()?;
    let mounts = make_poison(context, &directory)?;
    let options: Vec<&str> = mounts
        .iter()
        .flat_map(|mount| ["-v", mount.as_str()])
        .collect();
    context
        .container()
        .options(&options)
        .options(["-u", "www-data"])
        .command(["/bin/echo", "hello"])
        .run()?
        .expect(0)?;
    let container = context
        .container()
        .options(&options)
        .command(["sleep", "300"])
        .start()?;
    container
        .exec_with(["-u", "www-data"], ["true"])?
        .expect(0)?;
    container.docker(&["kill"])?;
    // The poison works: the container's own programs did load it.
    let loaded = fs::read_to_string(directory.join("proof/loaded"))
        .context("the poison was never loaded")?;
    let is_ours = |line: &&str| {
        ["echo", "sleep", "true"]
            .iter()
            .any(|name| *line == format!("/usr/bin/{name}") || *line == format!("/bin/{name}"))
    };
    let strangers: Vec<&str> = loaded.lines().filter(|line| !is_ours(line)).collect();
    ensure!(strangers.is_empty(), "loaded by {strangers:?}");
    Ok(())
}

fn environment(context: &Context) -> Result<()> {
    let container = context
        .container()
        .options(["--hostname", "same", "-e", "ONLY=this"])
        .command(["sleep", "300"])
        .start()?;
    let pid = container.pid()?;
    // Of a fused container it cannot be read at all.
    let script = "tr '\\0' '\\n' < /proc/1/environ || true";
    let variables = container.ask(["sh", "-c", script])?;
    for variable in variables.lines() {
        let name = variable.split('=').next().unwrap_or_default();
        ensure!(
            ["PATH", "HOSTNAME", "ONLY", "HOME"].contains(&name),
            "{variable} is not the container's"
        );
    }
    context.eventually(Duration::from_secs(1), || {
        ensure!(host::is_alive(pid));
        Ok(())
    })
}

/// Nothing in `/proc/self` names a path of the host.
fn host_paths(context: &Context) -> Result<()> {
    let script = "cat /proc/self/maps /proc/self/cmdline /proc/self/environ /proc/1/maps; ls -l /proc/self/fd /proc/self/map_files /proc/self /proc/1 2>/dev/null; true";
    let done = context.container().shell(script).run()?.expect(0)?;
    let is_ours = |line: &&str| {
        (line.contains("pegasus") && !line.contains("/memfd:")) || line.contains("/var/lib/")
    };
    let named: Vec<&str> = done.stdout.lines().filter(is_ours).collect();
    ensure!(named.is_empty(), "{}", named.join("\n"));
    Ok(())
}
