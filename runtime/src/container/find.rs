//! Finds a container for an operator, who gives a short id and no state directory.
//!
//! The OCI commands take `--root` and a whole id from an engine. `inspect` and `trace` are for people:
//! without `--root` they look where the engines keep the state of their containers.

use super::root::{Root, RootError};
use std::path::PathBuf;

/// State directories of Docker and of containerd's namespaces.
const ENGINE_ROOTS: [&str; 5] = [
    "/run/docker/runtime-runc/moby",
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc/default",
    "/run/containerd/runc/moby",
    "/run/runc",
];

#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("no container has an id that begins with {0:?}; name its state directory with --root")]
    NotFound(String),
    #[error("more than one container has an id that begins with {0:?}: give more of it")]
    Ambiguous(String),
}

/// The only container whose id begins with `prefix`, under `root`, or under any known directory if
/// the user named none.
pub fn find(root: &Root, named: RootNamed, prefix: &str) -> Result<(Root, String), FindError> {
    let mut found = None;
    for root in roots(root, named) {
        for id in root.ids()? {
            if id == prefix {
                return Ok((root, id));
            }
            if id.starts_with(prefix) && found.replace((root.clone(), id)).is_some() {
                return Err(FindError::Ambiguous(prefix.to_owned()));
            }
        }
    }
    found.ok_or_else(|| FindError::NotFound(prefix.to_owned()))
}

/// Where containers are looked for: `root`, and every known directory if the user named none.
pub fn roots(root: &Root, named: RootNamed) -> Vec<Root> {
    let mut roots = vec![root.clone()];
    if named == RootNamed::No {
        roots.extend(ENGINE_ROOTS.map(|path| Root::new(PathBuf::from(path))));
    }
    roots
}

/// Whether `--root` was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootNamed {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_resolved() {
        let path = std::env::temp_dir().join(format!("pegasus-find-{}", std::process::id()));
        for id in ["abc", "abd", "x"] {
            std::fs::create_dir_all(path.join(id)).unwrap();
            std::fs::write(path.join(id).join("state.json"), "{}").unwrap();
        }
        let root = Root::new(path.clone());
        let found = |prefix| find(&root, RootNamed::Yes, prefix).map(|(_, id)| id);
        assert_eq!(found("abc").unwrap(), "abc");
        assert_eq!(found("x").unwrap(), "x");
        assert!(matches!(found("ab"), Err(FindError::Ambiguous(_))));
        assert!(matches!(found("y"), Err(FindError::NotFound(_))));
        std::fs::remove_dir_all(path).unwrap();
    }
}
