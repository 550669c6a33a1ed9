//! The bundle of a container: the directory with its `config.json`.

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{Process, Spec};
use std::io;
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "config.json";

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("JSON specification file config.json not found in the bundle {0:?}")]
    NoConfig(PathBuf),
    #[error("cannot open the bundle {path:?}")]
    NoBundle { path: PathBuf, source: io::Error },
    #[error("config.json in the bundle {path:?} is not a valid OCI specification")]
    Invalid { path: PathBuf, source: OciSpecError },
    #[error("config.json has no \"process\": there is nothing to run")]
    NoProcess,
    #[error("process.args in config.json is empty: name a program to run")]
    NoArguments,
    #[error("process.cwd in config.json must be an absolute path, not {0:?}")]
    RelativeDirectory(PathBuf),
    #[error("config.json has no \"root\": name the directory of the root file system")]
    NoRoot,
    #[error("the root file system {path:?} of the bundle cannot be used")]
    Root { path: PathBuf, source: io::Error },
}

/// A bundle whose specification has been read.
#[derive(Debug)]
pub struct Bundle {
    pub path: PathBuf,
    pub spec: Spec,
}

impl Bundle {
    /// Reads the bundle and refuses what would otherwise fail half-way through a creation.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        let bundle = Self::read(path)?;
        let process = bundle.process()?;
        check_process(process)?;
        let root = bundle.spec.root().as_ref().ok_or(BundleError::NoRoot)?;
        let root_path = bundle.path.join(root.path());
        match std::fs::metadata(&root_path) {
            Ok(metadata) if metadata.is_dir() => Ok(bundle),
            Ok(_) => Err(BundleError::Root {
                path: root_path,
                source: io::Error::from(io::ErrorKind::NotADirectory),
            }),
            Err(source) => Err(BundleError::Root {
                path: root_path,
                source,
            }),
        }
    }

    /// Reads the bundle of a container that exists already.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let path = path
            .canonicalize()
            .map_err(|source| BundleError::NoBundle {
                path: path.to_owned(),
                source,
            })?;
        let config = path.join(CONFIG_FILE);
        if !config.exists() {
            return Err(BundleError::NoConfig(path));
        }
        match Spec::load(&config) {
            Ok(spec) => Ok(Bundle { path, spec }),
            Err(source) => Err(BundleError::Invalid { path, source }),
        }
    }

    pub fn process(&self) -> Result<&Process, BundleError> {
        self.spec.process().as_ref().ok_or(BundleError::NoProcess)
    }
}

/// The rules for `process` that hold for a container's first process and for further ones.
pub fn check_process(process: &Process) -> Result<(), BundleError> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(BundleError::NoArguments);
    }
    if !process.cwd().is_absolute() {
        return Err(BundleError::RelativeDirectory(process.cwd().clone()));
    }
    Ok(())
}
