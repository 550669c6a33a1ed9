//! What this runtime remembers of a container beyond the OCI state: `pegasus.json` in its directory.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "pegasus.json";
const FILE_NEW: &str = "pegasus.json.new";

#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is damaged")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// How a container is kept apart from its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// An address space of its own.
    Own,
    /// Memory protection keys within a shared address space.
    Mpk,
    /// Nothing, within a shared address space.
    None,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Isolation::Own => "own",
            Isolation::Mpk => "mpk",
            Isolation::None => "none",
        })
    }
}

/// Where a process runs (the ladder of placements).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    Resident,
    Satellite,
    Native,
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Placement::Resident => "resident",
            Placement::Satellite => "satellite",
            Placement::Native => "native",
        })
    }
}

/// Decided once, when the container is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    pub group: Option<String>,
    pub isolation: Isolation,
    /// Of the first process.
    pub placement: Placement,
    /// Why it is not placed higher, or why it is placed there.
    pub reason: String,
    /// Start time of the first process in clock ticks since boot: tells it from a later process that
    /// was given the same pid.
    pub start_time: Option<u64>,
    /// In a shared instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedFacts>,
}

/// A container's place in its group's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedFacts {
    pub instance_pid: i32,
    /// The container's first process; the one that the engine sees is its anchor.
    pub home_pid: i32,
    pub home_start_time: Option<u64>,
    pub slot: u32,
}

impl Facts {
    /// Writes the file whole or not at all.
    pub fn save(&self, directory: &Path) -> Result<(), FactsError> {
        let path = directory.join(FILE);
        let new_path = directory.join(FILE_NEW);
        let failed = |source| FactsError::Write {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec(self).map_err(|source| failed(source.into()))?;
        File::create(&new_path)
            .and_then(|mut file| file.write_all(&text))
            .map_err(failed)?;
        fs::rename(&new_path, &path).map_err(failed)
    }

    /// `None` for a container whose creation did not get as far.
    pub fn load(directory: &Path) -> Result<Option<Self>, FactsError> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FactsError::Read { path, source }),
        };
        let facts =
            serde_json::from_slice(&text).map_err(|source| FactsError::Parse { path, source })?;
        Ok(Some(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_a_round_trip() {
        let directory = std::env::temp_dir().join(format!("pegasus-facts-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let facts = Facts {
            group: Some("web".to_owned()),
            isolation: Isolation::Own,
            placement: Placement::Native,
            reason: "asked for by annotation".to_owned(),
            start_time: Some(12),
            shared: None,
        };
        assert_eq!(Facts::load(&directory).unwrap(), None);
        facts.save(&directory).unwrap();
        assert_eq!(Facts::load(&directory).unwrap(), Some(facts));
        fs::write(directory.join(FILE), b"{}").unwrap();
        assert!(matches!(
            Facts::load(&directory),
            Err(FactsError::Parse { .. })
        ));
        fs::remove_dir_all(&directory).unwrap();
    }
}
