//! The prepared machine: engine, images and runtime names that the cases of one run use.

use std::path::PathBuf;

/// Name of the image with the test programs and servers in it.
pub const TEST_IMAGE: &str = "pegasus-test:bookworm";
/// Name of the image with the conformance suites in it.
pub const CONFORMANCE_IMAGE: &str = "pegasus-conformance:bookworm";
/// Name of the plain image.
pub const PLAIN_IMAGE: &str = "debian:bookworm";
/// The reference runtime, which every engine knows.
pub const REFERENCE: &str = "runc";
/// Where the test image keeps the programs of `tests/programs`.
pub const PROGRAMS_DIR: &str = "/opt/programs";

/// What xtask has made ready.
#[derive(Debug, Clone)]
pub struct Site {
    /// The engine's socket, as in `docker -H unix://…`.
    pub socket: PathBuf,
    /// The engine itself; cases reach published ports through its network namespace.
    pub engine_pid: i32,
    /// Data root of the engine, for looking at container files from outside.
    pub data_root: PathBuf,
    /// Directory for files that cases mount into containers.
    pub scratch: PathBuf,
    /// Cgroup below which the engine keeps its containers, without a leading slash.
    pub cgroup: String,
    /// In the names of all fusion groups of this run, for telling them from those of others.
    pub tag: String,
    pub runtimes: Runtimes,
    /// The program under test, if it is Pegasus.
    pub pegasus: Option<PathBuf>,
    /// Root of the source tree.
    pub workspace: PathBuf,
}

impl Site {
    /// Where the engine tells its runtimes to keep their state.
    pub fn runtime_root(&self) -> PathBuf {
        self.socket.with_file_name("exec").join("runtime-runc/moby")
    }
}

/// The engine's names for the runtime under test.
#[derive(Debug, Clone)]
pub struct Runtimes {
    /// Each container in an instance of its own.
    pub own: String,
    /// All containers in one shared instance; `None` when the runtime cannot fuse.
    pub shared: Option<Group>,
    /// A fusion group per name, for cases that need one to themselves.
    pub groups: Vec<Group>,
}

/// A fusion group that one case at a time may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The engine's runtime name.
    pub runtime: String,
    /// The runtime's name of the group.
    pub name: String,
}
