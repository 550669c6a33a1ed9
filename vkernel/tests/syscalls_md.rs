//! `docs/SYSCALLS.md` is generated from the system call table, and must not be stale.
//!
//! `UPDATE_DOCS=1 cargo test -p pegasus-vkernel --test syscalls_md` writes it anew.

use pegasus_abi::nr;
use pegasus_vkernel::syscall::table::{Support, rows};
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SYSCALLS.md");

fn row(number: usize, support: &Support) -> String {
    let name = nr::name(number).unwrap_or("?");
    let (kind, note) = match support {
        Support::Native => ("Native", String::new()),
        Support::Full(_) => ("Full", String::new()),
        Support::Partial(_, reason) => ("Partial", (*reason).to_string()),
        Support::Refused(errno, reason) => ("Refused", format!("errno {}: {reason}", errno.0)),
    };
    format!("| {number} | `{name}` | {kind} | {note} |")
}

fn generated() -> String {
    let mut text = String::from(
        "# System calls\n\n\
         Generated from `vkernel/src/syscall/table.rs`; do not edit. A call without a row is **Native**:\n\
         the task that made it executes it unchanged, and Linux answers, also for numbers that do not exist.\n\n\
         * **Full** – served by the vkernel with all that Linux offers.\n\
         * **Partial** – served, with the difference that the note names.\n\
         * **Refused** – always the error that the note names.\n\n\
         | number | call | support | note |\n|---|---|---|---|\n",
    );
    let mut sorted: Vec<_> = rows().iter().collect();
    sorted.sort_by_key(|(number, _)| *number);
    for (number, support) in sorted {
        writeln!(text, "{}", row(*number, support)).expect("a string takes everything");
    }
    text
}

#[test]
fn syscalls_md_is_what_the_table_says() {
    let wanted = generated();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &wanted).expect("docs/SYSCALLS.md can be written");
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/SYSCALLS.md is stale: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn every_row_is_there_once() {
    let mut numbers: Vec<_> = rows().iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    let all = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), all);
}
