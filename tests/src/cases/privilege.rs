//! The rule of privilege: a container's processes may do exactly what they may under runc.
//!
//! Judged from the host, by what the kernel says of them in `/proc`.

use crate::harness::case::{Case, SkipCause, skip};
use crate::harness::context::Context;
use crate::harness::host;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Lines of `/proc/<pid>/status` that tell what a process may do.
const STATUS_KEYS: [&str; 12] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "TracerPid",
];
const NAMESPACES: [&str; 7] = ["pid", "mnt", "net", "uts", "ipc", "cgroup", "user"];

/// Allows everything but prctl(2), which a runtime that arms dispatch inside the container needs.
const DENY_PRCTL: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["prctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
/// Answers some calls that a container makes through the runtime's own means as well.
const DENY_SOME: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["getsid", "uname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
                 {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#;
/// Kills the process that makes a call.
const KILL_SOME: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["getsid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;

pub fn cases() -> Vec<Case> {
    let settings: [(&str, &'static [&'static str]); 11] = [
        ("default", &[]),
        ("user", &["-u", "1000"]),
        ("user_and_groups", &["-u", "1000:1001", "--group-add", "44"]),
        ("cap_drop_all", &["--cap-drop", "ALL"]),
        ("cap_add", &["--cap-add", "NET_ADMIN"]),
        (
            "cap_drop_all_add_one_as_user",
            &[
                "--cap-drop",
                "ALL",
                "--cap-add",
                "NET_BIND_SERVICE",
                "-u",
                "1000",
            ],
        ),
        (
            "no_new_privileges",
            &["--security-opt", "no-new-privileges"],
        ),
        ("privileged", &["--privileged"]),
        (
            "seccomp_unconfined",
            &["--security-opt", "seccomp=unconfined"],
        ),
        (
            "host_pid_and_ipc",
            &["--pid", "host", "--ipc", "host", "--uts", "host"],
        ),
        ("sys_ptrace", &["--cap-add", "SYS_PTRACE"]),
    ];
    let mut cases: Vec<Case> = settings
        .into_iter()
        .map(|(name, options)| {
            Case::own(format!("privilege::{name}"), move |context| {
                equal(context, options)
            })
        })
        .collect();
    cases.extend([
        Case::own("privilege::seccomp_denies_prctl", |context| {
            profile(context, DENY_PRCTL)
        }),
        Case::own("privilege::seccomp_denies_some_calls", |context| {
            profile(context, DENY_SOME)
        }),
        Case::own("privilege::seccomp_kills", |context| {
            profile(context, KILL_SOME)
        }),
        Case::each("privilege::self_view", self_view),
        Case::own("privilege::limits_and_scores", limits),
        Case::own("privilege::refused_operations", refused),
        Case::each("privilege::neighbours_memory", neighbours_memory),
    ]);
    cases
}

/// What the kernel says of every process of a container, and which namespaces of the first are
/// the host's.
#[derive(Debug, PartialEq, Eq)]
struct Privilege {
    processes: BTreeMap<String, BTreeMap<String, String>>,
    host_namespaces: Vec<&'static str>,
}

fn privilege_of(context: &Context, runtime: &str, options: &[&str]) -> Result<Privilege> {
    let script = "sleep 301 & python3 -c 'import threading, time; threading.Thread(target=time.sleep, args=(302,)).start()' & echo started; wait";
    let container = context.on(runtime).options(options).shell(script).start()?;
    container.wait_for_log("started")?;
    let first = container.pid()?;
    let family = context.eventually(Duration::from_secs(10), || {
        let family = family_of(first)?;
        ensure!(
            family.len() == 3 && family.iter().any(|(_, line)| line.starts_with("python3")),
            "{family:?}"
        );
        Ok(family)
    })?;
    let mut processes = BTreeMap::new();
    for (pid, line) in family {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = host::status(task?.file_name().to_string_lossy().parse()?)?;
            let chosen = STATUS_KEYS
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), status.get(*key)?.clone())));
            let name = line.split(' ').next().unwrap_or_default().to_owned();
            let known = processes.insert(name.clone(), chosen.collect::<BTreeMap<_, _>>());
            ensure!(
                known.is_none_or(|known| known == processes[&name]),
                "threads of {name} differ"
            );
        }
    }
    let own = i32::try_from(std::process::id())?;
    let is_hosts = |name: &&str| -> bool {
        matches!((host::namespace(first, name), host::namespace(own, name)), (Ok(a), Ok(b)) if a == b)
    };
    let host_namespaces = NAMESPACES.into_iter().filter(is_hosts).collect();
    container.docker(&["rm", "--force"])?;
    Ok(Privilege {
        processes,
        host_namespaces,
    })
}

/// A process and its descendants.
fn family_of(first: i32) -> Result<Vec<(i32, String)>> {
    let all = host::processes()?;
    let is_member = |pid: i32| {
        let mut at = pid;
        while at > 1 && at != first {
            at = host::parent(at).unwrap_or(0);
        }
        at == first
    };
    Ok(all.into_iter().filter(|(pid, _)| is_member(*pid)).collect())
}

fn equal(context: &Context, options: &[&str]) -> Result<()> {
    if options.contains(&"--privileged") && !context.grants_privileged()? {
        return Err(skip(
            SkipCause::Machine,
            "root of this machine lacks capabilities that --privileged asks for",
        ));
    }
    let expected = privilege_of(context, "runc", options)?;
    let found = privilege_of(context, context.runtime(), options)?;
    ensure!(
        found == expected,
        "differs from runc\n== runc\n{expected:#?}\n== {}\n{found:#?}",
        context.runtime()
    );
    Ok(())
}

/// A policy holds for calls made through the runtime as well, and never breaks the container.
fn profile(context: &Context, profile: &str) -> Result<()> {
    let file = context.scratch()?.join("profile.json");
    fs::write(&file, profile)?;
    let option = format!("seccomp={}", file.display());
    // With no_new_privs the policy comes into force last, so that it is not the runtime's own set-up
    // that it stops.
    let options = [
        "--security-opt",
        option.as_str(),
        "--security-opt",
        "no-new-privileges",
    ];
    let script = "import os, socket, ctypes\n\
        def ask(name, f):\n\
        \x20   try: f(); print(name, 'ok')\n\
        \x20   except OSError as e: print(name, e.errno)\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        for _ in range(3):\n\
        \x20   ask('uname', os.uname); ask('mkdir', lambda: os.makedirs('/tmp/d', exist_ok=True))\n\
        \x20   ask('inet', lambda: socket.socket()); ask('unix', lambda: socket.socket(socket.AF_UNIX))\n\
        \x20   ctypes.set_errno(0); print('prctl', libc.prctl(38, 0, 0, 0, 0), ctypes.get_errno())\n\
        print(os.fork() == 0 and os._exit(0) or os.wait()[1])\n\
        print(libc.syscall(124, 0) != 0, ctypes.get_errno(), flush=True)\n";
    context.compare(|spec| spec.options(options).command(["python3", "-c", script]))?;
    context.compare(|spec| spec.options(options).shell("echo $(echo a | tr a b)"))?;
    equal(context, &options)
}

fn self_view(context: &Context) -> Result<()> {
    for options in [
        &[][..],
        &["-u", "1000"],
        &["--cap-drop", "ALL"],
        &["--security-opt", "no-new-privileges"],
        &["--cap-add", "NET_ADMIN"],
    ] {
        context.compare(|spec| spec.options(options).program("ids.dynamic", [""; 0]))?;
        context.compare(|spec| spec.options(options).program("ids", [""; 0]))?;
    }
    Ok(())
}

fn limits(context: &Context) -> Result<()> {
    let options = [
        "--ulimit",
        "nofile=500:600",
        "--oom-score-adj",
        "300",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "50",
    ];
    let facts = |runtime: &str| -> Result<Vec<String>> {
        let container = context
            .on(runtime)
            .options(options)
            .command(["sleep", "300"])
            .start()?;
        let pid = container.pid()?;
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let cgroups = read("cgroup")?.replace(&container.id()?, "ID");
        let dumpable = fs::metadata(format!("/proc/{pid}/environ"))
            .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))?;
        Ok(vec![
            read("limits")?,
            read("oom_score_adj")?,
            cgroups,
            format!("environ belongs to {dumpable}"),
        ])
    };
    let (expected, found) = (facts("runc")?, facts(context.runtime())?);
    ensure!(
        found == expected,
        "== runc\n{}\n== {}\n{}",
        expected.join("\n"),
        context.runtime(),
        found.join("\n")
    );
    Ok(())
}

fn refused(context: &Context) -> Result<()> {
    let script = "mount -t tmpfs none /mnt; echo mount $?; hostname other; echo hostname $?; date -s 2000-01-01 > /dev/null; echo date $?; \
                  unshare -m true; echo unshare $?; unshare -U true; echo userns $?; nsenter -t 1 -m true; echo nsenter $?; chroot / true; echo chroot $?; \
                  mknod /tmp/null c 1 3; echo mknod $?; ip link add d type dummy; echo link $?; kill -0 1; echo kill $?; dmesg > /dev/null; echo dmesg $?; \
                  echo 1 > /proc/sys/vm/drop_caches; echo sysctl $?; head -c1 /proc/1/mem > /dev/null; echo mem $?";
    for options in [
        &[][..],
        &["--cap-add", "SYS_ADMIN"],
        &["--privileged"],
        &["-u", "1000"],
    ] {
        if options.contains(&"--privileged") && !context.grants_privileged()? {
            continue;
        }
        // A privileged container may set the clock; let it not.
        let script = if options.contains(&"--privileged") {
            script
                .replace("date -s 2000-01-01 > /dev/null; echo date $?;", "")
                .replace("echo 1 > /proc/sys/vm/drop_caches;", "")
        } else {
            script.to_owned()
        };
        context.compare(|spec| {
            spec.options(options)
                .shell(&format!("({script}) 2>/dev/null"))
        })?;
    }
    Ok(())
}

/// No process of a container opens the memory of a process outside of it.
fn neighbours_memory(context: &Context) -> Result<()> {
    let neighbour = context.container().command(["sleep", "300"]).start()?;
    let script = "import os\n\
        for pid in [p for p in os.listdir('/proc') if p.isdigit()]:\n\
        \x20   try:\n\
        \x20       with open(f'/proc/{pid}/maps') as maps: names = [l for l in maps if 'sleep' in l]\n\
        \x20   except OSError: continue\n\
        \x20   print(pid, names)\n";
    let done = context
        .container()
        .command(["python3", "-c", script])
        .run()?
        .expect(0)?;
    ensure!(done.stdout == "1 []\n", "{}", done.describe());
    ensure!(host::is_alive(neighbour.pid()?));
    Ok(())
}
