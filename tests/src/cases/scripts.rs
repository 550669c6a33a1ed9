//! Shells and what they do: pipelines, jobs, traps, `#!` lines.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("scripts::pipelines", pipelines),
        Case::each("scripts::jobs_and_traps", jobs),
        Case::each("scripts::many_forks", many_forks).limit(120),
        Case::each("scripts::tools_on_files", tools),
        Case::each("scripts::hash_bang", hash_bang),
        Case::each("scripts::hash_bang_as_first_process", first_process),
        Case::each("scripts::hash_bang_loop", hash_bang_loop),
    ]
}

fn compare(context: &Context, shell: &str, script: &str) -> Result<()> {
    let done = context.compare(|spec| spec.command([shell, "-c", script]))?;
    ensure!(!done.stdout.is_empty(), "{}", done.describe());
    Ok(())
}

fn pipelines(context: &Context) -> Result<()> {
    let script = "seq 1 1000 | grep 7 | sort -rn | head -5 | tr '\\n' ' '; echo; yes | head -3; echo $(echo nested $(echo deeper)); \
                  (echo sub; exit 3); echo $?; { echo a; echo b; } | while read x; do echo [$x]; done; cat <<X | wc -l\n1\n2\nX\n false | true; echo $?";
    compare(context, "/bin/sh", script)?;
    compare(
        context,
        "/bin/bash",
        "set -o pipefail; false | true; echo $? ${PIPESTATUS[@]}; diff <(seq 3) <(seq 4); mapfile -t a < <(seq 5); echo ${#a[@]}; coproc cat; echo hi >&${COPROC[1]}; read -u ${COPROC[0]} x; echo $x; exec {COPROC[1]}>&-; time true 2>/dev/null",
    )
}

fn jobs(context: &Context) -> Result<()> {
    let script = "trap 'echo usr1' USR1; trap 'echo bye' EXIT; kill -USR1 $$; sleep 0.1 & a=$!; sleep 5 & b=$!; sleep 0.3; kill $b; wait $a; echo a $?; wait $b; echo b $?; \
                  set -m; sleep 5 & sleep 0.3; kill -STOP %%; sleep 0.1; jobs | sed 's/[0-9]\\{2,\\}//'; kill -CONT %%; kill %%; wait %%; echo $?; timeout 0.2 sleep 5; echo timeout $?";
    compare(context, "/bin/bash", script)
}

fn many_forks(context: &Context) -> Result<()> {
    compare(
        context,
        "/bin/sh",
        "i=0; while [ $i -lt 300 ]; do x=$(echo $i); i=$((i+1)); done; echo $x; seq 200 | xargs -n1 -P4 true; echo $?",
    )
}

fn tools(context: &Context) -> Result<()> {
    let script = "mkdir -p /tmp/t/a/b; for i in $(seq 50); do echo $i > /tmp/t/a/b/$i; done; tar -C /tmp -czf /tmp/t.tgz t; rm -r /tmp/t; tar -C /tmp -xzf /tmp/t.tgz; \
                  find /tmp/t -type f | sort | xargs cat | sha256sum; cp -a /tmp/t /tmp/u; diff -r /tmp/t /tmp/u && echo same; sed -i s/1/x/ /tmp/u/a/b/1; cat /tmp/u/a/b/1; \
                  awk 'BEGIN{for(i=0;i<10;i++)s+=i; print s; system(\"echo from awk\")}'; perl -e 'print join(\",\", map {$_*2} 1..5), \"\\n\"; print `echo from perl`; fork() or exit 3; wait; print $?>>8, \"\\n\"'; \
                  mkfifo /tmp/f; (echo through fifo > /tmp/f &) ; cat /tmp/f; flock /tmp/l echo locked; env -i /usr/bin/env; nice -n 5 nice; stat -c %a /tmp; date -u -d @0";
    compare(context, "/bin/bash", script)
}

fn hash_bang(context: &Context) -> Result<()> {
    let script = "cd /tmp; printf '#!/bin/echo one two\\n' > a; printf '#! \\t/bin/echo   spaces  \\n' > b; printf '#!/tmp/a\\n' > c; printf '#!/no/such\\n' > d; \
                  printf 'echo no line\\n' > e; printf '#!\\n' > f; printf '#!/bin/echo' > g; printf '#!/tmp\\n' > h; printf '#!/etc/passwd\\n' > i; : > j; \
                  printf '#!/usr/bin/env -S echo split\\n' > k; printf '#!%0300d\\n' 0 > l; printf '#!relative\\n' > m; chmod +x ?; \
                  for s in a b c d e f g h i j k l m; do echo \"== $s\"; ./$s arg; echo \"$?\"; python3 -c \"import os; os.execv('./$s', ['zero', 'x'])\" 2>&1 | tail -1; done 2>&1";
    compare(context, "/bin/sh", script)
}

/// The runtime itself starts the script.
fn first_process(context: &Context) -> Result<()> {
    let directory = context.scratch()?;
    let write = |name: &str, text: &str, mode: u32| -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(
            path,
            std::fs::Permissions::from_mode(mode),
        )?)
    };
    write(
        "plain",
        "#!/bin/sh -e\necho \"$0 $1 $#\"; tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm; exit 12\n",
        0o755,
    )?;
    write(
        "python",
        "#!/usr/bin/env python3\nimport sys, os; print(sys.argv, os.getpid())\n",
        0o755,
    )?;
    write("nested", "#!/s/plain extra\n", 0o755)?;
    write("missing", "#!/no/such/interpreter\n", 0o755)?;
    write("closed", "#!/bin/sh\necho no\n", 0o644)?;
    write("bare", "echo without a first line\n", 0o755)?;
    let mount = format!("{}:/s", directory.display());
    for name in ["plain", "python", "nested", "missing", "closed", "bare"] {
        let command = format!("/s/{name}");
        context.compare(|spec| {
            spec.options(["-v", &mount])
                .command([command.as_str(), "arg", "b c"])
        })?;
    }
    let path = ["-v", &mount, "-e", "PATH=/s:/usr/bin:/bin"];
    context.compare(|spec| spec.options(path).command(["plain", "by", "path"]))?;
    Ok(())
}

fn hash_bang_loop(context: &Context) -> Result<()> {
    let script = "cd /tmp; printf '#!/tmp/y\\n' > x; printf '#!/tmp/x\\n' > y; printf '#!/tmp/z\\n' > z; chmod +x x y z; \
                  for s in x y z; do python3 -c \"import os; os.execv('/tmp/$s', ['$s'])\" 2>&1 | tail -1; done; \
                  p=/bin/echo; for i in 1 2 3 4 5 6 7; do printf \"#!$p\\n\" > d$i; chmod +x d$i; p=/tmp/d$i; \
                  python3 -c \"import os; os.execv('/tmp/d$i', ['d', 'arg'])\" 2>&1 | tail -1; done";
    compare(context, "/bin/sh", script)
}
