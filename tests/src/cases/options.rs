//! Options of `docker run`: terminal, volumes, environment, directory, user, limits.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("options::terminal", terminal),
        Case::each("options::terminal_interrupt", terminal_interrupt),
        Case::each("options::exec_terminal", exec_terminal),
        Case::each("options::stdin", stdin),
        Case::each("options::large_output", large_output),
        Case::each("options::volumes", volumes),
        Case::each("options::environment", environment),
        Case::each("options::working_directory", working_directory),
        Case::each("options::user", user),
        Case::each("options::user_logs_to_dev_stdout", user_stdout),
        Case::each("options::hostname", hostname),
        Case::each("options::read_only", read_only),
        Case::each("options::tmpfs_and_shm", tmpfs),
        Case::each("options::limits", limits),
        Case::each("options::sysctl", sysctl),
        Case::each("options::devices", devices),
        Case::each("options::init", init),
        Case::own("options::memory_limit", memory_limit),
    ]
}

fn terminal(context: &Context) -> Result<()> {
    let script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all-terminals; \
                  i=0; while [ \"$(stty size)\" = \"0 0\" ] && [ $i -lt 40 ]; do sleep 0.05; i=$((i+1)); done; stty size; \
                  read line; echo got-$line; exit 5";
    // The client tells the size after the start, and on a busy machine it may give up doing so.
    let has_size = (0..3)
        .map(|_| talk(context, script))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        has_size.contains(&true),
        "the terminal's size never came through"
    );
    Ok(())
}

/// Whether the terminal had the size of the client's.
fn talk(context: &Context, script: &str) -> Result<bool> {
    let mut terminal = context.container().shell(script).terminal()?;
    terminal.expect("all-terminals")?;
    terminal.send("abc\r")?;
    let (status, shown) = terminal.finish()?;
    ensure!(
        status == 5 && shown.contains("got-abc"),
        "status {status}, showed {shown:?}"
    );
    Ok(shown.contains("40 100"))
}

fn terminal_interrupt(context: &Context) -> Result<()> {
    let mut terminal = context
        .container()
        .shell("trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done")
        .terminal()?;
    terminal.expect("ready")?;
    terminal.send("\x03")?;
    let (status, shown) = terminal.finish()?;
    ensure!(
        status == 3 && shown.contains("interrupted"),
        "status {status}, showed {shown:?}"
    );
    Ok(())
}

fn exec_terminal(context: &Context) -> Result<()> {
    let container = context.container().command(["sleep", "300"]).start()?;
    let mut terminal = container.exec_terminal(["sh"])?;
    terminal.expect("#")?;
    terminal.send("echo job-$((6*7)); sleep 100\r")?;
    terminal.expect("job-42")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.send("\x03")?;
    terminal.expect("#")?;
    terminal.send("exit 9\r")?;
    let (status, shown) = terminal.finish()?;
    ensure!(status == 9, "status {status}, showed {shown:?}");
    Ok(())
}

fn stdin(context: &Context) -> Result<()> {
    let input = "line\n".repeat(20000);
    let output = context
        .container()
        .input(input.clone())
        .command(["wc", "-c"])
        .output()?;
    ensure!(output == input.len().to_string(), "{output}");
    context
        .container()
        .input("")
        .command(["cat"])
        .run()?
        .expect(0)?;
    Ok(())
}

fn large_output(context: &Context) -> Result<()> {
    let done = context
        .container()
        .shell("head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2")
        .run()?
        .expect(0)?;
    ensure!(
        done.stdout.len() == 3_000_000 && done.stderr == "end\n",
        "{} bytes",
        done.stdout.len()
    );
    Ok(())
}

fn volumes(context: &Context) -> Result<()> {
    let directory = context.scratch()?;
    fs::write(directory.join("from-host"), "seen\n")?;
    let writable = format!("{}:/data", directory.display());
    let fixed = format!("{}:/fixed:ro", directory.display());
    let script =
        "cat /data/from-host; echo made > /data/from-container; echo x > /fixed/y || echo refused";
    let done = context
        .container()
        .options(["-v", &writable, "-v", &fixed])
        .shell(script)
        .run()?
        .expect(0)?;
    ensure!(done.stdout == "seen\nrefused\n", "{}", done.describe());
    let made = directory.join("from-container");
    ensure!(fs::read_to_string(&made)? == "made\n" && fs::metadata(&made)?.uid() == 0);
    Ok(())
}

fn environment(context: &Context) -> Result<()> {
    let options = [
        "--hostname",
        "same",
        "-e",
        "A=1",
        "-e",
        "EMPTY=",
        "-e",
        "SPACES=a b",
        "-e",
        "QUOTE='\"\\",
    ];
    let done = context.compare(|spec| spec.options(options).shell("env | sort"))?;
    ensure!(
        done.stdout.contains("\nSPACES=a b\n"),
        "{}",
        done.describe()
    );
    context.compare(|spec| {
        spec.options(["-e", "PATH="])
            .command(["/bin/sh", "-c", "/usr/bin/env | /usr/bin/sort"])
            .options(["--hostname", "same"])
    })?;
    Ok(())
}

fn working_directory(context: &Context) -> Result<()> {
    context.compare(|spec| {
        spec.options(["-w", "/usr/share"])
            .shell("pwd; ls -d ../lib")
    })?;
    context.compare(|spec| {
        spec.options(["-w", "/made/on/demand"])
            .shell("pwd; stat -c %u:%g:%a .")
    })?;
    context.compare(|spec| {
        spec.options(["-w", "/opt/programs"])
            .command(["./hello", "relative"])
    })?;
    Ok(())
}

fn user(context: &Context) -> Result<()> {
    for user in ["1000", "1000:2000", "www-data", "nobody:redis", "0:5"] {
        context.compare(|spec| {
            spec.options(["-u", user])
                .shell("id; echo $HOME; touch /root/x || echo refused")
        })?;
    }
    context.compare(|spec| {
        spec.options(["-u", "1000", "--group-add", "44"])
            .command(["id"])
    })?;
    let unknown = context
        .container()
        .options(["-u", "no-such-user"])
        .command(["id"])
        .run()?;
    ensure!(
        unknown.status == 125 || unknown.status == 126,
        "{}",
        unknown.describe()
    );
    Ok(())
}

/// Images log to `/dev/stdout`, which is `/proc/self/fd/1`, as users without privilege.
fn user_stdout(context: &Context) -> Result<()> {
    let script = "echo by-path > /dev/stdout; echo by-number > /proc/self/fd/1; ls -l /proc/self/fd/1 > /dev/null && echo listed; cat /proc/self/environ > /dev/null && echo own";
    let done = context.compare(|spec| spec.options(["-u", "1000"]).shell(script))?;
    ensure!(
        done.stdout == "by-path\nby-number\nlisted\nown\n",
        "{}",
        done.describe()
    );
    Ok(())
}

fn hostname(context: &Context) -> Result<()> {
    let done = context.compare(|spec| {
        spec.options(["--hostname", "mare", "--domainname", "stable.example"])
            .shell("hostname; uname -n; cat /etc/hostname")
    })?;
    ensure!(done.stdout == "mare\nmare\nmare\n", "{}", done.describe());
    Ok(())
}

fn read_only(context: &Context) -> Result<()> {
    let script =
        "touch /x || echo refused; touch /tmp/x && echo made; touch /dev/shm/y && echo made";
    context.compare(|spec| {
        spec.options(["--read-only", "--tmpfs", "/tmp"])
            .shell(script)
    })?;
    Ok(())
}

fn tmpfs(context: &Context) -> Result<()> {
    let script = "df -k --output=size,target /dev/shm /scratch; grep -E ' (/scratch|/dev/shm|/proc|/sys|/dev|/dev/pts|/dev/mqueue) ' /proc/self/mounts | awk '{print $2, $3, $4}' | sed s/,inode64//";
    context.compare(|spec| {
        spec.options(["--tmpfs", "/scratch:size=8m,mode=700", "--shm-size", "32m"])
            .shell(script)
    })?;
    Ok(())
}

fn limits(context: &Context) -> Result<()> {
    let options = [
        "--ulimit",
        "nofile=777:888",
        "--ulimit",
        "nproc=500",
        "--ulimit",
        "core=0",
    ];
    context.compare(|spec| {
        spec.options(options)
            .shell("ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/limits")
    })?;
    Ok(())
}

fn sysctl(context: &Context) -> Result<()> {
    context.compare(|spec| {
        spec.options([
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--sysctl",
            "kernel.msgmax=9000",
        ])
        .shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")
    })?;
    Ok(())
}

fn devices(context: &Context) -> Result<()> {
    let script = "ls -l /dev | awk '{print $1, $3, $4, $5, $6, $NF}' | grep -v ^total; head -c 4 /dev/zero | od -An -tx1; echo x > /dev/full || echo full; mknod /tmp/sda b 8 0 && (head -c1 /tmp/sda || echo refused)";
    context.compare(|spec| {
        spec.shell(&format!(
            "({script}) 2>/dev/null | sed 's/ [A-Z][a-z][a-z] [0-9]* / /'"
        ))
    })?;
    Ok(())
}

fn init(context: &Context) -> Result<()> {
    let done = context
        .container()
        .options(["--init"])
        .shell("cat /proc/1/comm; exit 4")
        .run()?;
    ensure!(
        done.status == 4 && done.stdout.contains("init"),
        "{}",
        done.describe()
    );
    Ok(())
}

/// A program that takes more than it may is killed alone, and the engine learns why.
fn memory_limit(context: &Context) -> Result<()> {
    let script = "b = bytearray()\nwhile True: b.extend(b'x' * 1000000)";
    let spec = context
        .container()
        .options(["--memory", "64m", "--memory-swap", "64m"])
        .command(["python3", "-c", script]);
    let (container, done) = spec.run_and_keep()?;
    ensure!(done.status == 137, "{}", done.describe());
    ensure!(
        container.inspect("{{.State.OOMKilled}}")? == "true",
        "the engine was not told of the OOM kill"
    );
    Ok(())
}
