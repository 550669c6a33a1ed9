//! The programs of `tests/programs`: what they print under runc is what they must print here.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};

/// Programs (as built by xtask) with their arguments.
const COMPARED: &[(&str, &[&str])] = &[
    ("hello", &["dynamic"]),
    ("hello.dynamic-nopie", &["non-PIE"]),
    ("hello.static-pie", &[]),
    ("hello.static", &[]),
    ("hello.musl", &["musl"]),
    ("hello.musl-static", &[]),
    ("bare_start", &["a", "b"]),
    ("raw_calls", &[]),
    ("raw_calls.static-pie", &[]),
    ("raw_calls.musl", &[]),
    ("unknown_calls", &[]),
    ("signal_handlers", &[]),
    ("signal_handlers.musl", &[]),
    ("signal_handlers.static-pie", &[]),
    ("signal_restart", &[]),
    ("signal_restart.musl", &[]),
    ("signal_queue", &[]),
    ("signal_queue.musl", &[]),
    ("signal_fpu", &[]),
    ("faults", &[]),
    ("faults.musl", &[]),
    ("faults.static-pie", &[]),
    ("memory", &[]),
    ("memory.musl", &[]),
    ("memory.static-pie", &[]),
    ("threads", &[]),
    ("threads.musl", &[]),
    ("threads.static-pie", &[]),
    ("futexes", &[]),
    ("futexes.musl", &[]),
    ("futexes.static-pie", &[]),
    ("processes", &[]),
    ("processes.musl", &[]),
    ("processes.static-pie", &[]),
    ("descriptors", &[]),
    ("timers", &[]),
    ("timers.musl", &[]),
    ("sockets", &[]),
    ("sockets.musl", &[]),
    ("exec_limits", &[]),
    ("go_services", &["a", "b"]),
];

pub fn cases() -> Vec<Case> {
    let compared = COMPARED.iter().map(|(program, args)| {
        Case::each(format!("programs::{program}"), move |context| {
            compare(context, program, args)
        })
    });
    let more = [
        // The range below 4 GiB has one owner per instance, so in a shared one this may fail.
        Case::own("programs::memory_below_2_gib", |context| {
            compare(context, "memory", &["low"])
        }),
        // Native then, and in a shared instance its status would be lost: docs/LIMITS.md.
        Case::own("programs::processes_with_borrowed_memory", |context| {
            compare(context, "processes", &["borrower"])
        }),
        // Not offered in a shared instance.
        Case::own("programs::memory_of_io_uring", |context| {
            compare(context, "memory", &["rings"])
        }),
        Case::each("programs::set_uid", set_uid),
        Case::each("programs::file_capabilities", file_capabilities),
        Case::each("programs::python_standard_library", python),
        Case::each("programs::busybox", busybox),
    ];
    compared.chain(more).collect()
}

fn compare(context: &Context, program: &str, args: &[&str]) -> Result<()> {
    let done = context.compare(|spec| spec.program(program, args))?;
    ensure!(
        done.status != 99 && !done.stdout.is_empty(),
        "the program could not do its work: {}",
        done.describe()
    );
    Ok(())
}

const COPY: &str = "cp /opt/programs/ids /opt/programs/ids.dynamic /tmp; cd /tmp;";

/// A set-uid program gets its privilege, even when started by one without.
fn set_uid(context: &Context) -> Result<()> {
    let script = format!(
        "{COPY} chmod 4755 ids ids.dynamic; for p in ./ids ./ids.dynamic; do \
         setpriv --reuid 1000 --regid 1000 --clear-groups $p; \
         setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs $p; \
         setpriv --reuid 1000 --regid 1000 --clear-groups sh -c \"$p; $p\"; done; chown 33:33 ids; chmod 6755 ids; ./ids"
    );
    let done = context.compare(|spec| spec.shell(&script))?;
    ensure!(done.stdout.contains("uid 1000 0 0"), "{}", done.describe());
    Ok(())
}

/// Capabilities in a file's extended attribute, written by hand: version 2, CAP_NET_BIND_SERVICE.
fn file_capabilities(context: &Context) -> Result<()> {
    let script = format!(
        "{COPY} python3 -c \"import os, struct; os.setxattr('/tmp/ids', 'security.capability', struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0))\" && \
         setpriv --reuid 1000 --regid 1000 --clear-groups ./ids"
    );
    let done = context.compare(|spec| spec.shell(&script))?;
    ensure!(
        done.stdout.contains("CapEff:\t0000000000000400"),
        "{}",
        done.describe()
    );
    Ok(())
}

fn python(context: &Context) -> Result<()> {
    let script = "import multiprocessing as mp, subprocess, threading, signal, os, sys, tempfile, sqlite3, ssl, ctypes, mmap, socket, asyncio, concurrent.futures as cf\n\
        def square(n): return n * n\n\
        if __name__ == '__main__':\n\
        \x20   for method in ('fork', 'spawn', 'forkserver'):\n\
        \x20       with mp.get_context(method).Pool(3) as pool: print(method, pool.map(square, range(10)))\n\
        \x20   print(subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], capture_output=True))\n\
        \x20   print(subprocess.run('cat | tr a-z A-Z', shell=True, input=b'piped', capture_output=True).stdout)\n\
        \x20   with cf.ThreadPoolExecutor(8) as pool: print(sum(pool.map(square, range(1000))))\n\
        \x20   got = []; signal.signal(signal.SIGUSR1, lambda n, f: got.append(n)); os.kill(os.getpid(), signal.SIGUSR1); print(got)\n\
        \x20   print(sqlite3.connect(':memory:').execute('select 6 * 7').fetchone())\n\
        \x20   print(ctypes.CDLL(None).getpid() == os.getpid())\n\
        \x20   async def main():\n\
        \x20       p = await asyncio.create_subprocess_exec('echo', 'async', stdout=-1)\n\
        \x20       print((await p.communicate())[0], await asyncio.gather(*(asyncio.sleep(0.01, n) for n in range(5))))\n\
        \x20   asyncio.run(main())\n";
    let run = "cat > /tmp/m.py; exec python3 /tmp/m.py";
    let done = context.compare(|spec| spec.input(script).shell(run))?;
    ensure!(done.status == 0, "{}", done.describe());
    Ok(())
}

fn busybox(context: &Context) -> Result<()> {
    let script = "busybox echo from busybox; busybox sh -c 'for i in 1 2 3; do echo $i; done | busybox sort -r'; busybox ls /proc/self/fd | busybox wc -l; \
                  busybox dd if=/dev/zero bs=1k count=100 2>/dev/null | busybox md5sum; busybox vi --help 2>&1 | busybox head -1";
    context.compare(|spec| spec.command(["busybox", "sh", "-c", script]))?;
    Ok(())
}
