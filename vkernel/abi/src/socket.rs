//! Sockets: socket(2), socket(7), tcp(7), ip(7).

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const SOCK_STREAM: usize = 1;
pub const SOCK_TYPE_MASK: usize = 0xf;
pub const SOCK_NONBLOCK: usize = 0o4000;
pub const IPPROTO_TCP: usize = 6;

pub const SOL_SOCKET: usize = 1;
pub const SO_ERROR: usize = 4;
pub const SO_LINGER: usize = 13;
pub const SO_RCVLOWAT: usize = 18;
pub const SO_RCVTIMEO: usize = 20;
pub const SO_SNDTIMEO: usize = 21;
pub const SO_RCVTIMEO_NEW: usize = 66;
pub const SO_SNDTIMEO_NEW: usize = 67;
pub const SO_NETNS_COOKIE: usize = 71;
pub const TCP_NODELAY: usize = 1;
pub const TCP_CORK: usize = 3;
pub const TCP_INFO: usize = 11;
pub const TCP_ULP: usize = 31;

pub const MSG_OOB: usize = 0x1;
pub const MSG_PEEK: usize = 0x2;
pub const MSG_CTRUNC: usize = 0x8;
pub const MSG_TRUNC: usize = 0x20;
pub const MSG_DONTWAIT: usize = 0x40;
pub const MSG_WAITALL: usize = 0x100;
pub const MSG_ERRQUEUE: usize = 0x2000;
pub const MSG_NOSIGNAL: usize = 0x4000;
pub const MSG_MORE: usize = 0x8000;
pub const MSG_WAITFORONE: usize = 0x10000;
pub const MSG_ZEROCOPY: usize = 0x400_0000;
pub const MSG_FASTOPEN: usize = 0x2000_0000;
pub const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;

pub const SCM_RIGHTS: u32 = 1;

pub const SHUT_RD: usize = 0;
pub const SHUT_WR: usize = 1;
pub const SHUT_RDWR: usize = 2;

/// ioctl(2): bytes to read, bytes not yet read by the peer, O_NONBLOCK.
pub const FIONREAD: usize = 0x541b;
pub const SIOCOUTQ: usize = 0x5411;
pub const FIONBIO: usize = 0x5421;

/// Most segments of a readv(2) and its kin.
pub const UIO_MAXIOV: usize = 1024;
/// Linux moves no more than this in one call (`MAX_RW_COUNT`).
pub const RW_COUNT_MAX: usize = 0x7fff_f000;

/// `struct iovec`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct IoVec {
    pub base: usize,
    pub len: usize,
}

/// `struct user_msghdr`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct MsgHdr {
    pub name: usize,
    pub name_len: u32,
    pub _pad0: u32,
    pub iov: usize,
    pub iov_len: usize,
    pub control: usize,
    pub control_len: usize,
    pub flags: u32,
    pub _pad1: u32,
}

/// `struct mmsghdr`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct MMsgHdr {
    pub header: MsgHdr,
    pub len: u32,
    pub _pad: u32,
}

/// `struct sockaddr_in6`, large enough for `struct sockaddr_in`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct SockAddr {
    pub family: u16,
    /// Network byte order.
    pub port: u16,
    /// sockaddr_in: the address.
    pub flow_or_v4: u32,
    pub v6: [u8; 16],
    pub scope: u32,
}
