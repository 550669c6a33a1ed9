//! What a process sees of itself and of its container, compared with runc.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        // What Linux tells of a resident process to others is of the whole shared instance: docs/LIMITS.md.
        Case::own("views::absolute_script_path", script_view),
        Case::own("views::ps", ps),
        Case::own("views::proc_of_pid_1", proc_of_first),
        Case::each("views::signals_of_pid_1", signals_of_first),
        Case::each("views::child_sees_itself", child),
        Case::each("views::maps_of_threads_and_children", maps),
        Case::each("views::mounts", mounts),
        Case::each("views::cgroup", cgroup),
        Case::each("views::masked_and_read_only_paths", masked),
        Case::each("views::uptime_and_machine", machine_facts),
    ];
    // A fixed-address program is resident where its range is free, else native: the same either way.
    for program in ["views", "views.static-pie", "views.musl", "views.static"] {
        cases.push(Case::each(format!("views::{program}"), move |context| {
            itself(context, program)
        }));
    }
    cases
}

fn itself(context: &Context, program: &str) -> Result<()> {
    let options = ["--hostname", "same", "-e", "ONE=1", "-e", "EMPTY="];
    let done = context.compare(|spec| spec.options(options).program(program, ["a", "b c", ""]))?;
    ensure!(
        done.status == 0 && done.stdout.contains("pid 1 ppid 0"),
        "{}",
        done.describe()
    );
    Ok(())
}

fn script_view(context: &Context) -> Result<()> {
    let script = "#!/bin/sh\ncat /proc/$$/comm; tr '\\0' ' ' < /proc/$$/cmdline; echo; readlink /proc/$$/exe; echo \"$0 $*\"\n";
    let make = "cat > /tmp/s.sh; chmod +x /tmp/s.sh; exec /tmp/s.sh one two";
    let done = context.compare(|spec| spec.input(script).shell(make))?;
    ensure!(done.status == 0, "{}", done.describe());
    Ok(())
}

fn ps(context: &Context) -> Result<()> {
    // Whether the shell has got to waiting already is chance.
    let script = "sleep 30 & sleep 0.1; ps -eo ppid,user,stat,comm,args | sed 's/ \\+/ /g; s/ Rs / Ss /'; ps aux | wc -l";
    let done = context.compare(|spec| spec.shell(script))?;
    ensure!(done.status == 0, "{}", done.describe());
    Ok(())
}

/// Another process of the container looks at pid 1.
fn proc_of_first(context: &Context) -> Result<()> {
    let script = "sleep 0.2; cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; echo; readlink /proc/1/exe /proc/1/cwd /proc/1/root; \
                  tr '\\0' '\\n' < /proc/1/environ | grep MARK; grep -E '^(Name|Pid|PPid|Uid|Threads|Cap|Seccomp:|NoNew)' /proc/1/status; \
                  ls /proc/1/fd; cut -d' ' -f1-8 /proc/1/stat; grep -c . /proc/1/mountinfo";
    let container = |runtime: &str| -> Result<String> {
        let first = context
            .on(runtime)
            .options(["-e", "MARK=here", "-w", "/usr"])
            .command(["sleep", "100"])
            .start()?;
        first.ask(["sh", "-c", script])
    };
    let (expected, found) = (container("runc")?, container(context.runtime())?);
    ensure!(
        found == expected,
        "differs from runc\n== runc\n{expected}\n== {}\n{found}",
        context.runtime()
    );
    Ok(())
}

/// SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS.
const ALWAYS_CAUGHT: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;

/// What another process learns of the dispositions of pid 1.
fn signals_of_first(context: &Context) -> Result<()> {
    // Handlers for faults and SIGSYS are always there: docs/LIMITS.md.
    let script = "trap 'echo x' USR1 HUP; trap '' USR2; sleep 0.1; sh -c 'grep -E ^SigCgt /proc/1/status'; grep -E ^SigCgt /proc/$$/status";
    let expected = context.on("runc").shell(script).run()?.expect(0)?;
    let found = context.container().shell(script).run()?.expect(0)?;
    let sets = |text: &str| -> Result<Vec<u64>> {
        text.lines()
            .map(|line| {
                let set = line.split_whitespace().last().unwrap_or_default();
                Ok(u64::from_str_radix(set, 16)? & !ALWAYS_CAUGHT)
            })
            .collect()
    };
    ensure!(
        sets(&expected.stdout)? == sets(&found.stdout)?,
        "{}\n{}",
        expected.describe(),
        found.describe()
    );
    Ok(())
}

fn child(context: &Context) -> Result<()> {
    let script = "sh -c 'echo $PPID; cat /proc/self/comm; tr \"\\0\" \" \" < /proc/self/cmdline; readlink /proc/self/exe; grep -E \"^(Name|Threads)\" /proc/self/status'; \
                  python3 -c 'import os; print(os.readlink(\"/proc/self/exe\"), open(\"/proc/self/comm\").read(), os.getppid())'";
    context.compare(|spec| spec.shell(script))?;
    Ok(())
}

fn maps(context: &Context) -> Result<()> {
    let script = "import os, threading\n\
        def names(path):\n    return sorted({l.split(None, 5)[5].strip() for l in open(path) if len(l.split(None, 5)) > 5 and l.split(None, 5)[5][0] == '/'})\n\
        def thread():\n    print('thread', names('/proc/thread-self/maps') == names('/proc/self/maps'))\n\
        print(names('/proc/self/maps'))\n\
        t = threading.Thread(target=thread); t.start(); t.join()\n\
        pid = os.fork()\n\
        if pid == 0:\n    print(names('/proc/self/maps'), flush=True); os._exit(0)\n\
        os.waitpid(pid, 0)\n\
        print(sorted(l.split()[-1] for l in open('/proc/self/smaps') if '[stack]' in l or '[vdso]' in l))\n";
    context.compare(|spec| spec.command(["python3", "-c", script]))?;
    context.compare(|spec| {
        spec.shell("cat /proc/self/maps | awk '$6 ~ /^\\// {print $6}' | sort -u")
    })?;
    Ok(())
}

fn mounts(context: &Context) -> Result<()> {
    let script =
        "awk '{print $5, $6}' /proc/self/mountinfo | sed s/,inode64// | grep -v '^/proc/[0-9]'";
    context.compare(|spec| spec.shell(script))?;
    Ok(())
}

fn cgroup(context: &Context) -> Result<()> {
    // The containers' ids differ; with a private cgroup namespace all paths are `/`.
    context.compare(|spec| {
        spec.options(["--cgroupns", "private"])
            .command(["cat", "/proc/self/cgroup"])
    })?;
    let script = "sed -E 's/[0-9a-f]{64}/ID/' /proc/self/cgroup; ls /sys/fs/cgroup";
    context.compare(|spec| spec.shell(script))?;
    Ok(())
}

fn masked(context: &Context) -> Result<()> {
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/acpi /sys/firmware /proc/scsi; do \
                  [ -e $f ] && { echo $f; (cat $f || ls $f) 2>/dev/null | wc -c; }; done; \
                  for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/x /proc/bus/x; do (echo x > $f) 2>/dev/null || echo $f refused; done";
    context.compare(|spec| spec.shell(script))?;
    Ok(())
}

fn machine_facts(context: &Context) -> Result<()> {
    context.compare(|spec| spec.options(["--hostname", "same"]).shell("uname -a; nproc; getconf PAGESIZE; cat /proc/version; grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo"))?;
    Ok(())
}
