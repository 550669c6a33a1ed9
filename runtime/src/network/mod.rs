//! Where a container can be reached: its addresses, and the bridge behind each.
//!
//! Two members of a group that talk over the host's bridge may do so within their address space, if it is proven that their
//! interfaces are on one bridge. Before a member's program starts, its instance asks the kernel ([`netlink`]) in both network
//! namespaces, draws the conclusions ([`topology`]), and leaves them in the heap ([`record`]). What cannot be found out is
//! not proven, and nothing else depends on it.

mod netlink;
pub mod record;
mod topology;

use crate::sys::socket::netns_cookie;
use netlink::{NetlinkError, Route};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::{AsFd, BorrowedFd};
use topology::Link;

#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error("the thread in the container's network namespace failed")]
    Panicked,
    #[error("cannot enter the container's network namespace")]
    Enter(#[source] Errno),
    #[error("cannot open the container's network namespace")]
    Namespace(#[source] io::Error),
    #[error("the kernel does not tell network namespaces apart")]
    Cookie(#[source] Errno),
    #[error("cannot ask the kernel about interfaces")]
    Netlink(#[from] NetlinkError),
}

/// What is known about a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub cookie: NonZeroU64,
    pub addresses: Vec<Reachable>,
}

/// An address, and the index of the bridge that its interface is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reachable {
    /// An IPv4 address is mapped.
    pub address: Ipv6Addr,
    pub bridge: Option<NonZeroU32>,
}

/// Looks at the network namespace of process `anchor` (a pidfd) from inside, and from the calling thread's own.
pub fn survey(anchor: BorrowedFd<'_>) -> Result<Network, SurveyError> {
    let mut outside = Route::open()?;
    let mut inside = Inside::open(anchor)?;
    let links = inside.route.links()?;
    let addresses = inside.route.addresses()?;
    let mut bridges = BTreeMap::new();
    for link in &links {
        if let Some(bridge) = bridge_behind(link, &inside.namespace, &mut outside)? {
            bridges.insert(link.index, bridge);
        }
    }
    Ok(Network {
        cookie: inside.cookie,
        addresses: topology::reachable(&addresses, &bridges),
    })
}

/// The bridge that the other end of `link`, an interface in `namespace`, is attached to.
fn bridge_behind(
    link: &Link,
    namespace: &File,
    outside: &mut Route,
) -> Result<Option<NonZeroU32>, NetlinkError> {
    let Some(peer) = link.peer else {
        return Ok(None);
    };
    let Some(port) = outside.link(peer.index)? else {
        return Ok(None);
    };
    // Not before: it is by describing the port that the kernel gives its peer's namespace a number.
    let Some(number) = outside.namespace_number(namespace.as_fd())? else {
        return Ok(None);
    };
    let Some(master) = topology::master_of_peer(link, &port, number) else {
        return Ok(None);
    };
    let master = outside.link(master)?;
    Ok(master.as_ref().and_then(topology::bridge))
}

/// A view into the network namespace of a container.
struct Inside {
    route: Route,
    cookie: NonZeroU64,
    namespace: File,
}

impl Inside {
    /// A socket stays in the namespace that it was opened in, so a thread of its own has to go there for a moment only.
    fn open(anchor: BorrowedFd<'_>) -> Result<Self, SurveyError> {
        const STACK_LEN: usize = 128 << 10;
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("network".to_owned())
                .stack_size(STACK_LEN)
                .spawn_scoped(scope, || Self::enter(anchor))
                .map_err(SurveyError::Thread)?
                .join()
                .unwrap_or(Err(SurveyError::Panicked))
        })
    }

    /// The calling thread does not come back from there.
    fn enter(anchor: BorrowedFd<'_>) -> Result<Self, SurveyError> {
        setns(anchor, CloneFlags::CLONE_NEWNET).map_err(SurveyError::Enter)?;
        let route = Route::open()?;
        let cookie = netns_cookie(route.as_fd()).map_err(SurveyError::Cookie)?;
        Ok(Inside {
            route,
            cookie: NonZeroU64::new(cookie).ok_or(SurveyError::Cookie(Errno::ENODATA))?,
            namespace: File::open("/proc/thread-self/ns/net").map_err(SurveyError::Namespace)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pidfd;
    use nix::unistd::Pid;

    #[test]
    fn this_process_can_be_surveyed_or_a_reason_is_given() {
        let own = pidfd::open(Pid::this()).unwrap();
        match survey(own.as_fd()) {
            // No interface has its other end in its own namespace and is one in another, too.
            Ok(network) => assert!(network.addresses.iter().all(|a| !a.address.is_loopback())),
            Err(SurveyError::Enter(Errno::EPERM) | SurveyError::Cookie(_)) => {}
            Err(error) => panic!("{}", crate::error::chain(&error)),
        }
    }
}
