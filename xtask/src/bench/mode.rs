//! The three ways in which the containers of one measurement are placed.

/// How many CPUs the containers have, and which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// All CPUs, one network namespace
    #[value(name = "a")]
    Shared,
    /// All CPUs, each container its own namespace on the engine's bridge
    #[value(name = "b")]
    Bridge,
    /// One CPU, one network namespace
    #[value(name = "c")]
    OneCpu,
}

pub const MODES: [Mode; 3] = [Mode::Shared, Mode::Bridge, Mode::OneCpu];

impl Mode {
    /// The column of a row's bounds.
    pub fn index(self) -> usize {
        self as usize
    }

    /// As on the command line.
    pub fn letter(self) -> char {
        ['a', 'b', 'c'][self.index()]
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Shared => "two CPUs, one network namespace",
            Self::Bridge => "two CPUs, Docker's bridge",
            Self::OneCpu => "one CPU, one network namespace",
        }
    }

    /// In the names of files.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Shared => "shared-network",
            Self::Bridge => "bridge",
            Self::OneCpu => "one-cpu",
        }
    }

    /// Options of `docker run` for every container.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Shared | Self::Bridge => &[],
            Self::OneCpu => &["--cpuset-cpus=0"],
        }
    }
}
