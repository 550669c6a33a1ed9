//! `pegasus doctor`: what this machine offers, and what that means for fusing containers.

use super::{JsonLayout, Outcome, OutputError, print_json, print_line};
use crate::instance::own::auxiliary_vector;
use crate::placement::MpkSupport;
use crate::sys;
use clap::{Args, ValueEnum};
use libcgroups::common::{CgroupSetup, get_cgroup_setup};
use serde::Serialize;

/// Show what this machine offers
#[derive(Debug, Args)]
pub struct Doctor {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Something works less well.
    Limited,
    /// No container can be loaded next to a vkernel: all run native.
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    found: String,
    meaning: &'static str,
}

/// Exits with 1 if containers can only run native here.
pub fn run(arguments: &Doctor) -> Outcome {
    let findings = [
        kernel(),
        dispatch(),
        fs_base(),
        protection_keys(),
        cgroups(),
    ];
    match arguments.format {
        Form::Json => print_json(&findings, JsonLayout::Indented)?,
        Form::Text => print_table(&findings)?,
    }
    let is_missing = |finding: &Finding| finding.verdict == Verdict::Missing;
    Ok(u8::from(findings.iter().any(is_missing)))
}

fn print_table(findings: &[Finding]) -> Result<(), OutputError> {
    let mut rows = vec![["SUBJECT", "VERDICT", "FOUND", "MEANING"].map(str::to_owned)];
    rows.extend(findings.iter().map(|finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Limited => "limited",
            Verdict::Missing => "missing",
        };
        [finding.subject, verdict, &finding.found, finding.meaning].map(str::to_owned)
    }));
    print_line(&super::table::align(&rows))
}

fn kernel() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let (verdict, meaning) = match version(&release) {
        Some(version) if version >= (6, 12) => (Verdict::Ok, "new enough for everything"),
        Some(version) if version >= (5, 11) => (
            Verdict::Limited,
            "no protection keys: they need Linux 6.12 or newer",
        ),
        Some(_) => (
            Verdict::Missing,
            "too old: Linux 5.11 or newer is needed to fuse containers",
        ),
        None => (Verdict::Limited, "the version cannot be told"),
    };
    Finding {
        subject: "kernel",
        verdict,
        found: release,
        meaning,
    }
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn dispatch() -> Finding {
    let (verdict, found, meaning) = if sys::process::has_syscall_user_dispatch() {
        (
            Verdict::Ok,
            "available",
            "programs can be loaded next to a vkernel",
        )
    } else {
        (
            Verdict::Missing,
            "not available",
            "every container runs native, as under runc",
        )
    };
    Finding {
        subject: "syscall user dispatch",
        verdict,
        found: found.to_owned(),
        meaning,
    }
}

fn fs_base() -> Finding {
    const AT_HWCAP2: u64 = 26;
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    let auxv = auxiliary_vector().unwrap_or_default();
    let has = auxv
        .iter()
        .any(|[kind, value]| *kind == AT_HWCAP2 && value & HWCAP2_FSGSBASE != 0);
    let (verdict, found, meaning) = if has {
        (
            Verdict::Ok,
            "available",
            "the gate and user-space switches need no system call",
        )
    } else {
        (
            Verdict::Missing,
            "not available",
            "every container runs native, as under runc",
        )
    };
    Finding {
        subject: "FSGSBASE",
        verdict,
        found: found.to_owned(),
        meaning,
    }
}

fn protection_keys() -> Finding {
    let (verdict, found, meaning) = match MpkSupport::of_this_machine() {
        MpkSupport::Available => (
            Verdict::Ok,
            "available",
            "containers of a group can share an address space safely",
        ),
        MpkSupport::Missing => (
            Verdict::Limited,
            "not available",
            "every container has an address space of its own, unless --isolation none is asked for",
        ),
    };
    Finding {
        subject: "memory protection keys",
        verdict,
        found: found.to_owned(),
        meaning,
    }
}

fn cgroups() -> Finding {
    let (verdict, found, meaning) = match get_cgroup_setup() {
        Ok(CgroupSetup::Unified) => (Verdict::Ok, "version 2", "limits work as under runc"),
        Ok(CgroupSetup::Legacy) => (Verdict::Ok, "version 1", "limits work as under runc"),
        Ok(CgroupSetup::Hybrid) => (
            Verdict::Ok,
            "hybrid",
            "limits work as under runc, with the controllers of version 1",
        ),
        Err(_) => (
            Verdict::Limited,
            "not mounted",
            "containers cannot be created: mount cgroups",
        ),
    };
    Finding {
        subject: "cgroups",
        verdict,
        found: found.to_owned(),
        meaning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.10-rc1"), Some((5, 10)));
        assert_eq!(version("x"), None);
    }
}
