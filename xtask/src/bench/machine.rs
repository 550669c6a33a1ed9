//! What the figures were taken on. Names and addresses of the machine are nobody's business.

use crate::engine::Engine;
use crate::shell;
use std::fs;

/// More than a machine that has nothing else to do.
const LOAD_QUIET: f64 = 1.0;

/// One fact per line: what it is, and its value.
pub fn describe(engine: &Engine) -> Vec<(&'static str, String)> {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let is_guest = field("/proc/cpuinfo", ':', "flags")
        .split(' ')
        .any(|flag| flag == "hypervisor");
    let memory_kib: u64 = field("/proc/meminfo", ':', "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let docker = engine.docker(["version", "--format", "{{.Server.Version}}"]);
    vec![
        (
            "CPU",
            format!(
                "{cpus} × {}{}",
                field("/proc/cpuinfo", ':', "model name"),
                if is_guest { " (virtual machine)" } else { "" }
            ),
        ),
        ("memory", format!("{} GiB", (memory_kib + (1 << 19)) >> 20)),
        ("kernel", format!("Linux {}", kernel.trim())),
        (
            "distribution",
            field("/etc/os-release", '=', "PRETTY_NAME")
                .trim_matches('"')
                .to_owned(),
        ),
        ("Docker Engine", docker.unwrap_or_default()),
        ("runc", runc_version()),
    ]
}

/// How many tasks ran or wanted to in the last minute: a busy machine measures its scheduler.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let average = text.split(' ').next().unwrap_or_default().to_owned();
    if average.parse().is_ok_and(|load: f64| load > LOAD_QUIET) {
        println!("  note   the load average is {average}: figures of a busy machine say little");
    }
    average
}

fn runc_version() -> String {
    let said = shell::quiet("runc", ["--version"]);
    let first = said.map(|done| done.text().lines().next().unwrap_or_default().to_owned());
    first
        .unwrap_or_default()
        .trim_start_matches("runc version ")
        .to_owned()
}

/// The value of the first line of `file` that begins with `key`.
fn field(file: &str, separator: char, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with(key))
        .and_then(|line| line.split_once(separator));
    line.map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
