//! Translates the specification's seccomp policy into the kernel's form without loading it.
//!
//! One translation serves all: first processes, further ones, and the home tasks of a shared instance.
//! It is runc's, calls that are younger than the policy included ([`unknown_calls`]).

mod unknown_calls;

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("the seccomp policy cannot be translated")]
    Library(#[from] SeccompError),
    #[error("the seccomp policy's error number {0} is out of range")]
    ErrorNumber(i32),
    #[error("a seccomp policy with a listener cannot be joined")]
    Listener,
    #[error("cannot create a memory file for the translated seccomp policy")]
    Memory(#[source] nix::Error),
    #[error("cannot read the translated seccomp policy")]
    Read(#[source] io::Error),
}

/// A classic BPF program and the flags of `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    pub flags: u32,
    /// One `struct sock_filter` each.
    pub instructions: Vec<u64>,
}

const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_WAIT_KILLABLE: u32 = 1 << 5;
/// One classic BPF instruction.
const INSTRUCTION_LEN: usize = 8;

pub fn translate(policy: &LinuxSeccomp) -> Result<Filter, FilterError> {
    let default_action = action(policy.default_action(), policy.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default_action)?;
    for &architecture in policy.architectures().iter().flatten() {
        context.add_arch(arch(architecture))?;
    }
    for rule in policy.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // The library takes a rule that repeats the default for an error; it changes nothing.
        if action != default_action {
            add(&mut context, rule, action)?;
        }
    }
    Ok(Filter {
        flags: policy
            .flags()
            .iter()
            .flatten()
            .fold(0, |flags, next| flags | flag(*next)),
        instructions: [unknown_calls::prologue(policy), export(&context)?].concat(),
    })
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    action: ScmpAction,
) -> Result<(), FilterError> {
    for name in rule.names() {
        // A name that this machine does not know cannot be called on it.
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let Some(arguments) = rule.args() else {
            context.add_rule(action, call)?;
            continue;
        };
        let conditions: Vec<ScmpArgCompare> = arguments.iter().map(condition).collect();
        let indices: HashSet<usize> = arguments.iter().map(LinuxSeccompArg::index).collect();
        if indices.len() == arguments.len() {
            context.add_rule_conditional(action, call, &conditions)?;
        } else {
            // Several conditions on one argument: each is a rule of its own, as in runc.
            for condition in conditions {
                context.add_rule_conditional(action, call, &[condition])?;
            }
        }
    }
    Ok(())
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u64>, FilterError> {
    let memory = memfd_create(c"pegasus-filter", MemFdCreateFlag::MFD_CLOEXEC)
        .map_err(FilterError::Memory)?;
    context.export_bpf(&memory)?;
    let file = File::from(memory);
    let len = file.metadata().map_err(FilterError::Read)?.len();
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)
        .map_err(FilterError::Read)?;
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION_LEN>();
    Ok(instructions
        .iter()
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .collect())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    let errno = errno.map_or(libc::EPERM, u32::cast_signed);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(
            errno
                .try_into()
                .map_err(|_| FilterError::ErrorNumber(errno))?,
        ),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => return Err(FilterError::Listener),
    })
}

fn condition(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let op = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            ScmpCompareOp::MaskedEqual(argument.value_two().unwrap_or(0))
        }
    };
    // An index that is no u32 is no argument: libseccomp refuses it.
    let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
    ScmpArgCompare::new(index, op, argument.value())
}

/// Flags of seccomp(2). `TSYNC` has no meaning for a task with one thread.
fn flag(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => FLAG_WAIT_KILLABLE,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
    }
}

fn arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
