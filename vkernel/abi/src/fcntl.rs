//! open(2), stat(2), access(2) and close_range(2) constants and structures.

pub const AT_FDCWD: usize = -100isize as usize;
pub const AT_SYMLINK_NOFOLLOW: usize = 0x100;
pub const AT_EACCESS: usize = 0x200;
pub const AT_EMPTY_PATH: usize = 0x1000;

pub const O_ACCMODE: usize = 3;
pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
pub const O_CREAT: usize = 0o100;
pub const O_NOCTTY: usize = 0o400;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_NOFOLLOW: usize = 0o400000;
pub const O_CLOEXEC: usize = 0o2000000;
pub const O_PATH: usize = 0o10000000;

pub const X_OK: usize = 1;
pub const F_DUPFD: usize = 0;
pub const F_GETFD: usize = 1;
pub const F_GETFL: usize = 3;
pub const F_SETFL: usize = 4;
pub const F_DUPFD_CLOEXEC: usize = 1030;
pub const FD_CLOEXEC: usize = 1;
pub const CLOSE_RANGE_UNSHARE: usize = 2;
pub const CLOSE_RANGE_CLOEXEC: usize = 4;
pub const MFD_CLOEXEC: usize = 1;

pub const S_IFMT: u32 = 0o170000;
pub const S_IFREG: u32 = 0o100000;
pub const S_ISUID: u32 = 0o4000;
pub const S_ISGID: u32 = 0o2000;
pub const S_IXGRP: u32 = 0o010;
pub const ST_NOSUID: u64 = 2;
pub const ST_NOEXEC: u64 = 8;

pub const PATH_MAX: usize = 4096;

/// `struct stat` of x86-64.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub _pad: u32,
    pub rdev: u64,
    pub size: i64,
    pub blksize: i64,
    pub blocks: i64,
    pub times: [i64; 6],
    pub _reserved: [i64; 3],
}

/// `struct statfs` of x86-64.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Statfs {
    pub kind: i64,
    pub bsize: i64,
    pub blocks: [u64; 3],
    pub files: [u64; 2],
    pub fsid: [i32; 2],
    pub namelen: i64,
    pub frsize: i64,
    pub flags: u64,
    pub _spare: [i64; 4],
}

const _: () = assert!(size_of::<Stat>() == 144);
const _: () = assert!(size_of::<Statfs>() == 120);
