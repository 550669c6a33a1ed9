//! Socket options that `nix` does not offer.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A number that no two network namespaces have in common until the next boot (Linux 5.14).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`, and an integer.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(got).map(|_| cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn sockets_of_one_namespace_have_one_cookie() {
        let sockets = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [one, other] = sockets.map(|socket| netns_cookie(socket.as_fd()));
        assert_eq!(one, other);
        assert!(matches!(one, Ok(1..) | Err(Errno::ENOPROTOOPT)));
    }
}
