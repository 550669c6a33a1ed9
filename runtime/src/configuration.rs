//! The configuration file: what the host's administrator has decided for all containers.
//!
//! It is a small part of TOML: one `name = value` a line, and comments.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Read, if it exists, when `--config` names no other.
const PATH_DEFAULT: &str = "/etc/pegasus/config.toml";

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("cannot read the configuration file {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("line {number} of the configuration file {path:?}: {wrong}")]
    Line {
        path: PathBuf,
        number: usize,
        wrong: Wrong,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("it is not \"name = value\"")]
    Shape,
    #[error("there is no setting {0:?}")]
    Name(String),
    #[error("it is neither true nor false")]
    Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// `bridge_fastpath`: members of a group may talk within their address space if they are on one bridge.
    pub bridge_fastpath: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            bridge_fastpath: true,
        }
    }
}

impl Configuration {
    /// From the file that `--config` has named, or from the usual one.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigurationError> {
        let path = named.unwrap_or(Path::new(PATH_DEFAULT));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                let path = path.to_owned();
                return Err(ConfigurationError::Read { path, source });
            }
        };
        Self::parse(&text).map_err(|(number, wrong)| ConfigurationError::Line {
            path: path.to_owned(),
            number,
            wrong,
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, Wrong)> {
        let mut configuration = Self::default();
        for (index, line) in text.lines().enumerate() {
            let said = line.split('#').next().unwrap_or_default().trim();
            if !said.is_empty() {
                configuration
                    .set(said)
                    .map_err(|wrong| (index + 1, wrong))?;
            }
        }
        Ok(configuration)
    }

    fn set(&mut self, said: &str) -> Result<(), Wrong> {
        let (name, value) = said.split_once('=').ok_or(Wrong::Shape)?;
        let setting = match name.trim() {
            "bridge_fastpath" => &mut self.bridge_fastpath,
            other => return Err(Wrong::Name(other.to_owned())),
        };
        *setting = value.trim().parse().map_err(|_| Wrong::Value)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_the_rest_is_as_usual() {
        let of = |text| Configuration::parse(text).unwrap().bridge_fastpath;
        assert!(of(""));
        assert!(of("# bridge_fastpath = false\n"));
        assert!(!of("\n  bridge_fastpath=false # for now\n"));
        assert!(of("bridge_fastpath = true"));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let wrong = |text| Configuration::parse(text).unwrap_err();
        assert_eq!(wrong("\nbridge_fastpath"), (2, Wrong::Shape));
        assert_eq!(wrong("bridge_fastpath = 0"), (1, Wrong::Value));
        assert_eq!(
            wrong("brigde = true"),
            (1, Wrong::Name("brigde".to_owned()))
        );
    }

    #[test]
    fn a_named_file_must_exist() {
        let load = Configuration::load(Some(Path::new("/nonexistent/pegasus")));
        assert!(matches!(load, Err(ConfigurationError::Read { .. })));
    }
}
